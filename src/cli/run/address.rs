//! Under which address a command is registered: as it was told, or where this machine is seen from the daemon.

use std::net::IpAddr;

/// The value of `--ip`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Address {
    /// The source address of the connection to the daemon.
    #[default]
    Source,
    /// No address.
    None,
    /// This one.
    Given(IpAddr),
}

/// Reads an IP address, or `none`.
pub(super) fn parse(text: &str) -> Result<Address, String> {
    if text == "none" {
        return Ok(Address::None);
    }
    text.parse().map(Address::Given).map_err(|_| "expected an IPv4 or IPv6 address, or none".to_owned())
}

impl Address {
    /// What to say about an address that was not given: it may be a wrong guess.
    pub(super) fn note(self, logical_id: &str, source: Option<IpAddr>, port: Option<u16>) -> Option<String> {
        let ip = source.filter(|_| self == Self::Source)?;
        let at = match (ip, port) {
            (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
            (ip, Some(port)) => format!("{ip}:{port}"),
            (ip, None) => ip.to_string(),
        };
        let reach = if ip.is_loopback() { "which only this machine can reach" } else { "as the daemon sees it" };
        Some(format!("registering {logical_id} at {at}, {reach}; --ip gives another address, --ip none gives none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_given_or_left_out() {
        assert_eq!(parse("fd00::1"), Ok(Address::Given("fd00::1".parse().expect("an address"))));
        assert_eq!(parse("none"), Ok(Address::None));
        for bad in ["", "None", "host", "10.0.0.1:80", "[::1]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn guessed_setting_is_reported_and_given_one_is_not() {
        let note =
            |address: Address, source: &str, port| address.note("web", Some(source.parse().expect("an address")), port);
        assert_eq!(
            note(Address::Source, "127.0.0.1", Some(8000)).expect("a note"),
            "registering web at 127.0.0.1:8000, which only this machine can reach; --ip gives another address, --ip \
             none gives none"
        );
        assert!(
            note(Address::Source, "fd00::1", Some(1)).is_some_and(|text| text.contains("[fd00::1]:1, as the daemon"))
        );
        assert_eq!(note(Address::None, "10.0.0.1", None), None);
        assert_eq!(note(parse("10.0.0.9").expect("an address"), "10.0.0.1", None), None);
    }
}
