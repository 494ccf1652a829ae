//! The names under which the HTTP port answers, against DNS rebinding.
//!
//! A web page that an operator has open can let its own name point to 127.0.0.1 and then read this port as if it were
//! its own server: the browser's same-origin rule compares names, not addresses. It cannot choose the `Host` header,
//! though, so a daemon that answers only under names of its own gives it nothing. IP literals cannot be rebound, because
//! no name is looked up for them; so probes and Prometheus that connect to an address need no setting.
//!
//! Names are compared whole after parsing: `127.0.0.1.evil.example` is a name, not an address. The port does not count,
//! since a tunnel or a container may publish another one.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use axum::http::{HeaderMap, Uri, Version, header::HOST};

/// The names under which the HTTP port answers.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    exact: BTreeSet<String>,
    /// `.example.com` for every name below `example.com`.
    below: Vec<String>,
    any: bool,
}

/// Why a request is refused for the host it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It names none, or several, or what is no host: status 400.
    Malformed(&'static str),
    /// It names another host: status 421.
    Unknown(String),
}

/// A host as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address,
    Name(String),
}

impl Hosts {
    /// `localhost` and `names`: host names, `*.example.com` for every name below one, `*` for any name at all.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hosts = Self { exact: BTreeSet::from(["localhost".to_owned()]), ..Self::default() };
        for name in names {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            match name.strip_prefix('*') {
                Some("") => hosts.any = true,
                Some(below) if below.starts_with('.') => hosts.below.push(below.to_owned()),
                _ => {
                    hosts.exact.insert(name);
                }
            }
        }
        hosts
    }

    /// Whether a request is for this daemon.
    pub(super) fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        // The target of `GET http://HOST/ HTTP/1.1` counts before the header, so both have to be ours.
        if let Some(authority) = uri.authority() {
            self.check_one(authority.as_str())?;
        }
        let mut given = headers.get_all(HOST).iter();
        match (given.next(), given.next()) {
            (Some(host), None) => {
                let Ok(host) = host.to_str() else { return Err(Refused::Malformed("the Host header is not ASCII")) };
                self.check_one(host)
            }
            (Some(_), Some(_)) => Err(Refused::Malformed("there is more than one Host header; send one")),
            // HTTP/1.0 knows no Host, and no browser speaks it.
            (None, _) if version < Version::HTTP_11 => Ok(()),
            (None, _) => Err(Refused::Malformed("the Host header is missing; HTTP/1.1 needs one")),
        }
    }

    fn check_one(&self, text: &str) -> Result<(), Refused> {
        match parse(text) {
            None => Err(Refused::Malformed("the Host header is not HOST or HOST:PORT")),
            Some(Host::Address) => Ok(()),
            Some(Host::Name(name)) if self.has(&name) => Ok(()),
            Some(Host::Name(name)) => Err(Refused::Unknown(name)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.any || self.exact.contains(name) || self.below.iter().any(|below| name.ends_with(below.as_str()))
    }
}

/// The host of a name or address with or without a port, such as `advertised.example:7717`; `None` if it is an address.
#[must_use]
pub fn name_of(authority: &str) -> Option<String> {
    match parse(authority)? {
        Host::Address => None,
        Host::Name(name) => Some(name),
    }
}

/// Reads `HOST` or `HOST:PORT`; `None` if it is neither.
fn parse(text: &str) -> Option<Host> {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_empty_or_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        // A zone (`fe80::1%eth0`) names an interface of the client.
        let address = address.split_once('%').map_or(address, |(address, _)| address);
        return (is_empty_or_port && address.parse::<Ipv6Addr>().is_ok()).then_some(Host::Address);
    }
    let name = match text.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return None,
        None => text,
    };
    // `localhost.` is `localhost`, written out to the root.
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.parse::<Ipv4Addr>().is_ok() {
        return Some(Host::Address);
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.split('.').all(is_label).then(|| Host::Name(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn hosts() -> Hosts {
        Hosts::new(["Registry.Example", "*.svc.cluster.local", "musterd"])
    }

    fn check(host: &str) -> Result<(), Refused> {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
        hosts().check(Version::HTTP_11, &Uri::from_static("/"), &headers)
    }

    #[test]
    fn addresses_and_names_of_ours_are_answered_whatever_the_port() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:7718",
            "10.0.0.7:1",
            "127.0.0.1.",
            "[::1]",
            "[::1]:7718",
            "[fe80::1%eth0]:7718",
            "localhost",
            "LOCALHOST:80",
            "localhost.",
            "localhost.:7718",
            "localhost:",
            "registry.example:7718",
            "REGISTRY.example",
            "musterd:7718",
            "musterd.organs.svc.cluster.local",
        ] {
            assert_eq!(check(host), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_names_are_refused_whole() {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil-localhost",
            "registry.example.evil.example",
            "xregistry.example",
            "svc.cluster.local",
            "musterd.evilsvc.cluster.local.",
            "evil.example:7718",
            "2130706433",
            "0x7f000001",
            "127.1",
        ] {
            let name = host.trim_end_matches(":7718").trim_end_matches('.').to_owned();
            assert_eq!(check(host), Err(Refused::Unknown(name)), "{host}");
        }
    }

    #[test]
    fn text_that_is_no_host_is_malformed() {
        for host in [
            "",
            " ",
            ":7718",
            "a b",
            "user@127.0.0.1",
            "127.0.0.1/x",
            "::1",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "a..b",
            ".",
            "localhost..",
            "localhost:7718:1",
            "localhost:port",
            "localhost:123456",
            "127.0.0.1,evil.example",
        ] {
            assert!(matches!(check(host), Err(Refused::Malformed(_))), "{host:?}: {:?}", check(host));
        }
    }

    #[test]
    fn a_request_names_one_host_and_its_target_counts_too() {
        let ours = HeaderValue::from_static("127.0.0.1");
        let one = HeaderMap::from_iter([(HOST, ours.clone())]);
        let two = HeaderMap::from_iter([(HOST, ours.clone()), (HOST, ours)]);
        let none = HeaderMap::new();
        let (path, theirs) = (Uri::from_static("/"), Uri::from_static("http://evil.example/"));
        let hosts = hosts();
        assert!(matches!(hosts.check(Version::HTTP_11, &path, &two), Err(Refused::Malformed(_))));
        assert!(matches!(hosts.check(Version::HTTP_11, &path, &none), Err(Refused::Malformed(_))));
        assert_eq!(hosts.check(Version::HTTP_10, &path, &none), Ok(()));
        assert_eq!(hosts.check(Version::HTTP_11, &theirs, &one), Err(Refused::Unknown("evil.example".to_owned())));
        assert_eq!(hosts.check(Version::HTTP_11, &Uri::from_static("http://localhost:7718/"), &one), Ok(()));
    }

    #[test]
    fn an_asterisk_answers_under_any_name() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("anything.example"))]);
        assert_eq!(Hosts::new(["*"]).check(Version::HTTP_11, &Uri::from_static("/"), &headers), Ok(()));
    }

    proptest! {
        #[test]
        fn no_text_passes_but_an_address_or_a_name_of_ours(text in "[a-z0-9.:@\\[\\]%*-]{0,24}") {
            let is_ours = |name: &str| {
                let name = name.strip_suffix('.').unwrap_or(name);
                ["localhost", "registry.example", "musterd"].contains(&name) || name.ends_with(".svc.cluster.local")
            };
            if check(&text).is_ok() && !text.starts_with('[') {
                let name = text.split(':').next().unwrap();
                let address = name.strip_suffix('.').unwrap_or(name).parse::<Ipv4Addr>();
                prop_assert!(address.is_ok() || is_ours(name), "{}", text);
            }
        }
    }
}
