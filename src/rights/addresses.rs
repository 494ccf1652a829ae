//! The addresses that a rule lets its callers register: that of the caller itself, and networks.
//!
//! The registered address is where routers, and Prometheus by `/sd`, send requests with credentials of their own. So addresses
//! that mean the machine or the link of their reader are refused too, unless the caller is on this machine.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// Addresses that may be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// The address that the caller calls from.
    Peer,
    /// Those of a network.
    Network(Network),
}

/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The bits of an address, without those that the network leaves open.
fn masked(address: IpAddr, bits: u8) -> u128 {
    let open = u32::from(width(address) - bits);
    let bits = bits_of(address);
    bits.checked_shr(open).unwrap_or_default().checked_shl(open).unwrap_or_default()
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        width(address) == width(self.address) && masked(address, self.bits) == bits_of(self.address)
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "peer" {
            return Ok(Self::Peer);
        }
        let malformed =
            || format!("{text:?} is no address; write \"peer\", an IP address, or a network such as 10.0.0.0/8");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if address.to_canonical() != address {
            // Addresses are compared in their own form, so it would admit none.
            return Err(format!("{text:?} is an IPv4 address in the form of IPv6; write it as IPv4"));
        }
        let bits = match bits {
            None => width(address),
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(|_| malformed())?,
            Some(_) => return Err(malformed()),
        };
        if bits > width(address) {
            return Err(malformed());
        }
        if masked(address, bits) != bits_of(address) {
            return Err(format!("{text:?} has bits behind its first {bits}; write the first address of the network"));
        }
        Ok(Self::Network(Network { address, bits }))
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("peer"),
            Self::Network(Network { address, bits }) if *bits == width(*address) => address.fmt(f),
            Self::Network(Network { address, bits }) => write!(f, "{address}/{bits}"),
        }
    }
}

/// Whether one of these is the address, for a caller at `peer`. None of them at all: every address is.
pub(crate) fn admit(addresses: &[Addresses], address: IpAddr, peer: Option<IpAddr>) -> bool {
    let address = address.to_canonical();
    let is_one = |it: &Addresses| match it {
        Addresses::Peer => peer.is_some_and(|peer| peer.to_canonical() == address),
        Addresses::Network(network) => network.contains(address),
    };
    addresses.is_empty() || addresses.iter().any(is_one)
}

/// The address as limits count it. An IPv6 client chooses among the 2^64 addresses of its network, so those count as one; an
/// IPv4 address that is written as IPv6 is the IPv4 address.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// What an address is that means another machine to each of its readers; `None`: it means one machine.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let kinds = [
        (address.is_loopback(), "a loopback"),
        (address.is_unspecified(), "an unspecified"),
        (is_link_local, "a link-local"),
        (address.is_multicast() || is_broadcast, "a multicast"),
    ];
    kinds.into_iter().find(|(is_it, _)| *is_it).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn read(texts: &[&str]) -> Vec<Addresses> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn address_is_that_of_the_peer_or_of_a_network() {
        let peer = Some(ip("10.0.0.7"));
        for (rule, address, expected) in [
            (&["peer"][..], "10.0.0.7", true),
            (&["peer"], "::ffff:10.0.0.7", true),
            (&["peer"], "10.0.0.8", false),
            (&["10.0.0.0/8"], "10.255.0.1", true),
            (&["10.0.0.0/8"], "11.0.0.1", false),
            (&["10.0.0.0/8"], "::a00:1", false),
            (&["0.0.0.0/0"], "1.2.3.4", true),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["2001:db8::/32"], "2001:db8:1::1", true),
            (&["2001:db8::/32"], "2001:db9::1", false),
            (&["::/0"], "2001:db9::1", true),
            (&["192.0.2.1"], "192.0.2.1", true),
            (&["192.0.2.1"], "192.0.2.2", false),
            (&["peer", "192.0.2.0/24"], "192.0.2.2", true),
            (&[], "192.0.2.2", true),
        ] {
            assert_eq!(admit(&read(rule), ip(address), peer), expected, "{rule:?} {address}");
        }
        assert!(!admit(&read(&["peer"]), ip("10.0.0.7"), None), "an unknown peer has no address");
    }

    #[test]
    fn text_that_is_no_network_is_refused() {
        for text in
            ["", "Peer", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.1/8", "::/129", "host", "10.0.0.0/8/8"]
        {
            assert!(text.parse::<Addresses>().is_err(), "{text}");
        }
        for text in ["peer", "10.0.0.0/8", "192.0.2.1", "2001:db8::/32"] {
            assert_eq!(text.parse::<Addresses>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn ipv4_network_in_the_form_of_ipv6_is_refused_because_it_would_admit_nothing() {
        for text in ["::ffff:10.0.0.1", "::ffff:10.0.0.0/104"] {
            let error = text.parse::<Addresses>().unwrap_err();
            assert!(error.contains("as IPv4"), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_as_one() {
        assert_eq!(counted(ip("2001:db8::1")), counted(ip("2001:db8::ffff:1")));
        assert_ne!(counted(ip("2001:db8::1")), counted(ip("2001:db8:0:1::1")));
        assert_eq!(counted(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(counted(ip("10.0.0.1")), counted(ip("10.0.0.2")));
    }

    #[test]
    fn address_that_differs_by_reader_is_special() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(special(ip(text)).is_some(), "{text}");
        }
        for text in ["10.0.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "169.253.0.1"] {
            assert_eq!(special(ip(text)), None, "{text}");
        }
    }
}
