//! The flags of `serve` that protect its ports, and those that waive the protection.

use std::path::PathBuf;

use crate::config::{ConfigError, TlsFiles};

/// Flags for the protection of both ports.
#[derive(Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// Certificate of the daemon in PEM form, followed by those between it and its CA; turns TLS on for both ports
    ///
    /// The files for TLS are read again every 5 seconds and at SIGHUP. All of them are replaced together or not at all; open
    /// connections stay.
    #[arg(long, env = "MUSTERD_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Key of that certificate in PEM form, not encrypted
    #[arg(long, env = "MUSTERD_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// CAs of client certificates in PEM form: gRPC clients need a certificate of one of them
    ///
    /// The HTTP port checks a certificate if the client shows one, because probes have none.
    #[arg(long, env = "MUSTERD_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Revocation lists of all CAs of client certificates in PEM form
    #[arg(long, env = "MUSTERD_TLS_CLIENT_CRL", value_name = "FILE")]
    tls_client_crl: Option<PathBuf>,

    /// Serve addresses that other machines can reach without TLS
    #[arg(long, env = "MUSTERD_INSECURE_NO_TLS", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) insecure_no_tls: Option<bool>,

    /// Serve addresses that other machines can reach without authentication
    ///
    /// Any client that can connect may register, deregister and rotate the epoch.
    #[arg(long, env = "MUSTERD_INSECURE_NO_AUTH", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) insecure_no_auth: Option<bool>,
}

impl TlsArgs {
    /// The files for TLS, if it is on.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TlsWithout`]: a file is named that is of no use without another one.
    pub(super) fn files(&self) -> Result<Option<TlsFiles>, ConfigError> {
        let without = |given, needed| Err(ConfigError::TlsWithout { given, needed });
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        match (&self.tls_cert, &self.tls_key, &self.tls_client_ca, &self.tls_client_crl) {
            (Some(_), None, ..) => without("--tls-cert", "--tls-key"),
            (None, Some(_), ..) => without("--tls-key", "--tls-cert"),
            (None, None, Some(_), _) => without("--tls-client-ca", "--tls-cert and --tls-key"),
            (_, _, None, Some(_)) => without("--tls-client-crl", "--tls-client-ca"),
            (None, None, None, None) => Ok(None),
            (Some(certificate), Some(key), client_ca, client_crl) => Ok(Some(TlsFiles {
                certificate: absolute(certificate),
                key: absolute(key),
                client_ca: client_ca.as_ref().map(absolute),
                client_crl: client_crl.as_ref().map(absolute),
            })),
        }
    }
}
