//! The metrics of what protects the daemon's own ports: handshakes, how long the certificates are still valid, and reloads.

use metrics::{Counter, Gauge, counter, gauge};

use super::names;

/// For the TLS handshakes of one port.
#[derive(Clone, Debug)]
pub struct HandshakeMetrics {
    /// Complete.
    pub ok: Counter,
    /// Refused by either side, or broken off.
    pub failed: Counter,
    /// Not complete in time.
    pub timed_out: Counter,
}

impl HandshakeMetrics {
    /// For the gRPC port.
    #[must_use]
    pub fn grpc() -> Self {
        Self::of("grpc")
    }

    /// For the HTTP port.
    #[must_use]
    pub fn http() -> Self {
        Self::of("http")
    }

    fn of(port: &'static str) -> Self {
        let outcome = |outcome: &'static str| counter!(names::TLS_HANDSHAKES, "port" => port, "outcome" => outcome);
        Self { ok: outcome("ok"), failed: outcome("failed"), timed_out: outcome("timed_out") }
    }
}

/// For the reloads of one set of files: `musterd_security_reloads_total`. Made only with such files.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    /// Other contents are in use.
    pub changed: Counter,
    /// The files cannot be used.
    pub failed: Counter,
}

impl ReloadMetrics {
    /// For certificates, keys, CAs and revocation lists.
    #[must_use]
    pub fn tls() -> Self {
        Self::of("tls")
    }

    /// For the policy and the tokens.
    #[must_use]
    pub fn policy() -> Self {
        Self::of("policy")
    }

    /// For the keys of the issuers of JSON web tokens.
    #[must_use]
    pub fn jwks() -> Self {
        Self::of("jwks")
    }

    fn of(what: &'static str) -> Self {
        let outcome = |outcome: &'static str| counter!(names::SECURITY_RELOADS, "what" => what, "outcome" => outcome);
        Self { changed: outcome("changed"), failed: outcome("failed") }
    }
}

/// For one certificate; set them at scrape. Made only with TLS: an expiry of 0 is an alarm.
#[derive(Clone, Debug)]
pub struct CertificateMetrics {
    /// Seconds until it expires.
    pub expiry: Gauge,
    /// Seconds that it is valid in all.
    pub lifetime: Gauge,
}

impl CertificateMetrics {
    /// For the daemon's own certificate.
    #[must_use]
    pub fn server() -> Self {
        Self::of("server")
    }

    /// For the CA of client certificates that expires first.
    #[must_use]
    pub fn client_ca() -> Self {
        Self::of("client_ca")
    }

    fn of(certificate: &'static str) -> Self {
        Self {
            expiry: gauge!(names::CERTIFICATE_EXPIRY, "certificate" => certificate),
            lifetime: gauge!(names::CERTIFICATE_LIFETIME, "certificate" => certificate),
        }
    }
}
