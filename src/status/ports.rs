//! The one judgement of how open the ports of a daemon are. Page, API, `musterd status` and `musterd check` print its words.
//!
//! A port is judged by the address that it is bound to, not by what was waived: a waiver allows the daemon to start, and
//! protects nothing.

/// How open a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openness {
    /// Every process of this machine may use it, and no other machine reaches it.
    Machine,
    /// Other machines reach it, and TLS or a policy is missing.
    Network,
    /// Callers need an identity and a right, and other machines, if they reach it, TLS.
    Secured,
}

impl Openness {
    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Network => "network",
            Self::Secured => "secured",
        }
    }
}

/// What is known of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Whether other machines reach it, by the address as bound.
    pub on_network: bool,
    /// Whether bytes are encrypted.
    pub with_tls: bool,
    /// Whether callers need an identity and a right.
    pub with_policy: bool,
}

impl Port {
    /// How open it is.
    #[must_use]
    pub const fn openness(self) -> Openness {
        match self {
            Self { on_network: false, with_policy: false, .. } => Openness::Machine,
            Self { with_policy: true, with_tls: true, .. } | Self { with_policy: true, on_network: false, .. } => {
                Openness::Secured
            }
            _ => Openness::Network,
        }
    }

    /// The same in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match (self.openness(), self.with_tls, self.with_policy) {
            (Openness::Machine, ..) => "open to this machine",
            (Openness::Secured, true, _) => "secured (TLS, policy)",
            (Openness::Secured, false, _) => "secured (policy; reached from this machine only)",
            (Openness::Network, false, true) => "open to the network (policy without TLS)",
            (Openness::Network, true, _) => "open to the network (TLS without a policy)",
            (Openness::Network, false, false) => "open to the network (neither TLS nor a policy)",
        }
    }
}

/// The ports of a daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// That of gRPC.
    pub grpc: Port,
    /// That of HTTP.
    pub http: Port,
}

impl Ports {
    /// How open they are, in words: once if that is the same of both.
    #[must_use]
    pub fn words(self) -> String {
        let (grpc, http) = (self.grpc.words(), self.http.words());
        if grpc == http { grpc.to_owned() } else { format!("gRPC {grpc}, HTTP {http}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_on_the_network_is_secured_by_tls_and_policy_alone() {
        let of = |on_network, with_tls, with_policy| {
            let port = Port { on_network, with_tls, with_policy };
            (port.openness(), port.words().split(" (").next().unwrap_or_default())
        };
        let machine = (Openness::Machine, "open to this machine");
        let (network, secured) = ((Openness::Network, "open to the network"), (Openness::Secured, "secured"));
        assert_eq!([of(false, false, false), of(false, true, false)], [machine; 2]);
        assert_eq!([of(true, false, false), of(true, true, false), of(true, false, true)], [network; 3]);
        assert_eq!([of(false, false, true), of(false, true, true), of(true, true, true)], [secured; 3]);
    }

    #[test]
    fn ports_that_differ_are_named_each() {
        let (machine, network) = (Port::default(), Port { on_network: true, ..Port::default() });
        assert_eq!(Ports { grpc: machine, http: machine }.words(), "open to this machine");
        let words = Ports { grpc: network, http: machine }.words();
        assert_eq!(words, "gRPC open to the network (neither TLS nor a policy), HTTP open to this machine");
    }
}
