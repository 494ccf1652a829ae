//! What protects the ports, and whether a daemon may be started like that.
//!
//! Loopback needs nothing. Any other address needs TLS and authentication; what is missing must be waived by name, so that
//! opening the registry to a network is a decision that stands in the configuration and never a default. Two waivers,
//! because a daemon behind a service mesh waives one and not the other.

use std::net::{IpAddr, SocketAddr};

/// What is missing at an address that other machines can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Bytes are not encrypted.
    pub without_tls: bool,
    /// Callers are not authenticated.
    pub without_auth: bool,
}

impl Exposure {
    /// What is missing, in words; empty if nothing is.
    #[must_use]
    pub const fn missing(self) -> &'static str {
        match (self.without_tls, self.without_auth) {
            (true, true) => "TLS and authentication",
            (true, false) => "TLS",
            (false, true) => "authentication",
            (false, false) => "",
        }
    }

    /// The flags that waive it.
    #[must_use]
    pub const fn waivers(self) -> &'static str {
        match (self.without_tls, self.without_auth) {
            (true, true) => "--insecure-no-tls --insecure-no-auth",
            (true, false) => "--insecure-no-tls",
            (false, true) => "--insecure-no-auth",
            (false, false) => "",
        }
    }

    /// The way to have it.
    pub(super) const fn remedy(self) -> &'static str {
        match (self.without_tls, self.without_auth) {
            (true, true) => "give --security-dir DIR (musterd security init DIR makes its files)",
            (true, false) => "give --tls-cert and --tls-key (musterd security init DIR makes both)",
            _ => "give --policy and --tokens (musterd security init DIR makes both)",
        }
    }
}

/// Whether other machines can reach an address.
pub(super) fn is_open(address: SocketAddr) -> bool {
    let ip: IpAddr = address.ip().to_canonical();
    !ip.is_loopback()
}

/// The first of these flags whose address other machines can reach.
pub(super) fn first_open(addresses: [(&'static str, SocketAddr); 2]) -> Option<(&'static str, SocketAddr)> {
    addresses.into_iter().find(|(_, address)| is_open(*address))
}

#[cfg(test)]
mod tests {
    use super::super::{ServeConfig, tests::config};
    use crate::{access::Files as AccessFiles, tls::Files};

    fn tls() -> Option<Files> {
        Some(Files {
            certificate: "c".into(),
            key: "k".into(),
            client_ca: None,
            client_crl: None,
            client_optional: false,
        })
    }

    fn access() -> Option<AccessFiles> {
        Some(AccessFiles { policy: "p".into(), tokens: Some("t".into()) })
    }

    #[test]
    fn an_open_address_needs_what_is_missing_to_be_waived_by_name() {
        let (local, open) = ("127.0.0.1:1", "0.0.0.0:1");
        for grpc in [local, open, "[::1]:1", "[::]:1", "[::ffff:127.0.0.1]:1", "10.0.0.1:1"] {
            for http in ["127.0.0.1:2", "0.0.0.0:2"] {
                for bits in 0..16_u8 {
                    let (has_tls, no_tls, no_auth) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
                    let has_auth = bits & 8 > 0;
                    let config = ServeConfig {
                        grpc_addr: grpc.parse().unwrap(),
                        http_addr: http.parse().unwrap(),
                        tls: tls().filter(|_| has_tls),
                        access: access().filter(|_| has_auth),
                        insecure_no_tls: no_tls,
                        insecure_no_auth: no_auth,
                        ..config()
                    };
                    let is_local = |at: &str| at.contains("127.0.0.1") || at.contains("[::1]");
                    let expected = is_local(grpc) && is_local(http) || (has_tls || no_tls) && (has_auth || no_auth);
                    let found = config.validate();
                    assert_eq!(found.is_ok(), expected, "{grpc} {http} {bits:b}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn refusal_is_one_line_that_names_the_address_and_three_ways_out() {
        let open = ServeConfig { grpc_addr: "0.0.0.0:7717".parse().unwrap(), ..config() };
        assert_eq!(
            open.clone().validate().unwrap_err().to_string(),
            "--grpc-addr 0.0.0.0:7717 can be reached from other machines without TLS and authentication; bind 127.0.0.1, \
             or give --security-dir DIR (musterd security init DIR makes its files), or accept the risk with --insecure-no-tls \
             --insecure-no-auth"
        );
        let half = ServeConfig { insecure_no_auth: true, ..open.clone() }.validate().unwrap_err().to_string();
        assert!(half.contains("without TLS; ") && half.ends_with("accept the risk with --insecure-no-tls"), "{half}");
        let other = ServeConfig { tls: tls(), ..open }.validate().unwrap_err().to_string();
        assert!(other.contains("without authentication; ") && other.ends_with("with --insecure-no-auth"), "{other}");
    }
}
