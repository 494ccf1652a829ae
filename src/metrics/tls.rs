//! The metrics of TLS on the daemon's own ports: handshakes, and how long the certificates are still valid.

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
