//! The addresses of daemons, as the command line and the environment give them: one, or a list with commas.
//!
//! All daemons of a cluster give the same answers, so a list is a choice and not a set to ask. Clones share which
//! address answered last: a command that connects again begins there.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tonic::transport::Uri;

/// The port of a daemon unless it was told otherwise.
const DEFAULT_PORT: u16 = 7717;

/// One or more addresses, and which of them is in use.
#[derive(Debug, Clone)]
pub struct Addrs {
    all: Arc<[Uri]>,
    current: Arc<AtomicUsize>,
}

impl Addrs {
    /// The address in use.
    #[must_use]
    pub fn current(&self) -> &Uri {
        &self.all[self.current_index()]
    }

    pub(super) fn current_index(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.all.len()
    }

    pub(super) fn use_index(&self, index: usize) {
        self.current.store(index, Ordering::Relaxed);
    }

    /// Makes the address in use one that is not: for a caller that has found out by itself that it answers.
    pub(in crate::cli) fn use_address(&self, addr: &Uri) {
        if let Some(index) = self.all.iter().position(|one| one == addr) {
            self.use_index(index);
        }
    }

    /// All of them, in the order in which they were given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Uri> {
        self.all.iter()
    }
}

impl From<Uri> for Addrs {
    fn from(addr: Uri) -> Self {
        Self { all: Arc::new([addr]), current: Arc::default() }
    }
}

impl fmt::Display for Addrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.all.iter().map(text).collect();
        f.write_str(&all.join(", "))
    }
}

/// An address as people write it.
pub(in crate::cli) fn text(addr: &Uri) -> String {
    addr.to_string().trim_end_matches('/').to_owned()
}

/// Whether the address is on this machine.
pub(super) fn is_loopback(addr: &Uri) -> bool {
    let host = addr.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads a list of addresses, separated by commas.
pub(super) fn parse_addrs(list: &str) -> Result<Addrs, String> {
    let all: Vec<Uri> = list
        .split(',')
        .map(str::trim)
        .map(|one| parse_addr(one).map_err(|problem| if one == list { problem } else { format!("`{one}`: {problem}") }))
        .collect::<Result<_, _>>()?;
    Ok(Addrs { all: all.into(), current: Arc::default() })
}

/// Reads `host:port`, `http://host:port` or `host` (port 7717).
pub(in crate::cli) fn parse_addr(text: &str) -> Result<Uri, String> {
    if text.starts_with("https://") {
        return Err("TLS is not supported by this version; use http:// or a local TLS proxy".to_owned());
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let malformed = || "expected host:port or http://host:port, with IPv6 in brackets".to_owned();
    let authority: http::uri::Authority = rest.parse().map_err(|_| malformed())?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(malformed());
    }
    let host = authority.host();
    let port = match authority.port_u16() {
        Some(port) => port,
        None if authority.as_str() == host => DEFAULT_PORT,
        None => return Err(malformed()),
    };
    format!("http://{host}:{port}").parse().map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_and_no_port() {
        for (text, expected) in [
            ("http://127.0.0.1:7717", "http://127.0.0.1:7717/"),
            ("localhost:9", "http://localhost:9/"),
            ("http://db.example:80/", "http://db.example:80/"),
            ("[::1]:7717", "http://[::1]:7717/"),
            ("db.example", "http://db.example:7717/"),
            ("[::1]", "http://[::1]:7717/"),
        ] {
            assert_eq!(parse_addr(text).expect(text).to_string(), expected);
        }
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        for text in ["", "https://h:1", "http://", "h:99999", "h:", "::1", "ftp://h:1", "u@h:1", "h:1/path", "a b:1"] {
            assert!(parse_addr(text).is_err(), "{text}");
        }
        assert!(parse_addr("https://h:1").is_err_and(|text| text.contains("TLS")));
    }

    #[test]
    fn a_list_keeps_its_order_and_refuses_a_hole() {
        let addrs = parse_addrs("a:7717, http://b:7727,[::1]").expect("a list");
        assert_eq!(addrs.to_string(), "http://a:7717, http://b:7727, http://[::1]:7717");
        assert_eq!(text(addrs.current()), "http://a:7717");
        for list in ["a:1,", ",a:1", "a:1,,b:1", ","] {
            assert!(parse_addrs(list).is_err(), "{list}");
        }
        assert!(parse_addrs("a:1,b:").is_err_and(|problem| problem.starts_with("`b:`: expected")));
    }

    #[test]
    fn clones_share_the_address_in_use() {
        let addrs = parse_addrs("a:1,b:1").expect("a list");
        let clone = addrs.clone();
        addrs.use_index(1);
        assert_eq!(text(clone.current()), "http://b:1");
        clone.use_address(&"http://a:1".parse().expect("an address"));
        assert_eq!(text(addrs.current()), "http://a:1");
    }

    #[test]
    fn loopback_is_told_from_other_hosts() {
        for (addr, expected) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9", true),
            ("localhost", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
            ("localhost.example", false),
        ] {
            assert_eq!(is_loopback(&parse_addr(addr).expect(addr)), expected, "{addr}");
        }
    }
}
