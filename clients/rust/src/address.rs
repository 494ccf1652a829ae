//! Addresses of daemons: `host:port`, `http://host:port` or `host`, `https://host:port` for TLS, and `unix:/path` for the
//! admin socket of a daemon on this machine, separated by commas.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use http::uri::Authority;

/// The port of a daemon unless it was told otherwise.
const DEFAULT_PORT: u16 = 7717;

/// A text that is no address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address; give host:port, with an IPv6 address in brackets, or unix:/path")]
pub struct AddressError(String);

/// How a socket of this machine is written.
const UNIX: &str = "unix:";

/// The address of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    is_encrypted: bool,
    host: String,
    port: u16,
    /// The socket of a daemon on this machine, instead of host and port.
    socket: Option<PathBuf>,
}

impl Address {
    /// The host: a name, or an IP address, IPv6 in brackets; `localhost` for a socket of this machine.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port. Of no meaning for a socket of this machine.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The path of a `unix:` address.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Whether it asks for TLS.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads one address.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix(UNIX) {
            // unix:///path is the same, as gRPC writes it.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(malformed());
            }
            let (host, socket) = ("localhost".to_owned(), Some(path.into()));
            return Ok(Self { is_encrypted: false, host, port: DEFAULT_PORT, socket });
        }
        let (is_encrypted, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority = rest.parse().map_err(|_| malformed())?;
        let host = authority.host();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(malformed());
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == host => DEFAULT_PORT,
            None => return Err(malformed()),
        };
        Ok(Self { is_encrypted, host: host.to_owned(), port, socket: None })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.socket {
            return write!(f, "{UNIX}{}", path.display());
        }
        let scheme = if self.is_encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Reads a list of addresses, in the order in which they are tried.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Address>, AddressError> {
    text.split(',').map(|entry| entry.trim().parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_scheme_or_port_is_completed() {
        let read = parse_list(" http://a:1/, b ,[::1]:9,[::2],https://c").unwrap();
        let read: Vec<_> = read.iter().map(Address::to_string).collect();
        let expected = ["http://a:1", "http://b:7717", "http://[::1]:9", "http://[::2]:7717", "https://c:7717"];
        assert_eq!(read, expected);
    }

    #[test]
    fn unix_address_has_a_path_and_is_of_this_machine() {
        for text in ["unix:/run/m/admin.sock", "unix:///run/m/admin.sock"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.unix_path(), Some(Path::new("/run/m/admin.sock")));
            assert!(address.is_loopback() && !address.is_encrypted());
            assert_eq!(address.to_string(), "unix:/run/m/admin.sock");
        }
        assert_eq!("h:1".parse::<Address>().unwrap().unix_path(), None);
    }

    #[test]
    fn address_that_cannot_work_is_refused() {
        for text in [
            "",
            ",",
            "a:1,",
            "a:1,,b",
            "https://",
            "http://",
            "h:99999",
            "h:",
            "::1",
            "u@h:1",
            "h:1/path",
            "a b:1",
            "ftp://h:1",
            "unix:",
            "unix:admin.sock",
            "unix://host/path",
        ] {
            assert!(parse_list(text).is_err(), "{text}");
        }
    }
}
