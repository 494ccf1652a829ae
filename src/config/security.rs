//! The flags of `serve` that protect its ports, and those that waive the protection.

use std::path::PathBuf;

use super::{AccessFiles, AdminSocket, AuditScope, ConfigError, TlsFiles};
use crate::provision::Directory;

/// Flags for the protection of both ports.
#[derive(Debug, clap::Args)]
pub(crate) struct TlsArgs {
    /// Directory made by musterd security init: stands for --tls-cert, --tls-key, --tls-client-ca, --policy and --tokens
    ///
    /// Each of these flags replaces the file in the directory. Only server.pem, server.key, ca.pem, policy.toml and tokens are
    /// read; keep ca.key elsewhere.
    #[arg(long, env = "MUSTERD_SECURITY_DIR", value_name = "DIR")]
    security_dir: Option<PathBuf>,

    /// Policy in TOML form: who may do what on which logical ids; turns authentication on for both ports
    ///
    /// The policy and the tokens are read again every 5 seconds and at SIGHUP, and replaced together or not at all. Check a
    /// change with musterd policy check.
    #[arg(long, env = "MUSTERD_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Digests of static tokens, made by musterd token create
    #[arg(long, env = "MUSTERD_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// Socket for the user of the daemon and for root on this machine: a path, or none [default: admin.sock in the data
    /// directory]
    ///
    /// musterd --addr unix:PATH may do everything there without a credential, also when the policy and all tokens are lost.
    #[arg(long, env = "MUSTERD_ADMIN_SOCKET", value_name = "PATH", value_parser = parse_admin_socket)]
    admin_socket: Option<AdminSocket>,

    /// What the audit log records: decisions (operators' calls, refusals, reloads), or all (registrations too)
    #[arg(long, env = "MUSTERD_AUDIT", value_name = "WHAT", default_value = "decisions", value_parser = parse_audit)]
    audit: AuditScope,

    /// File of the audit log, appended to as a JSON object a line [default: the log]
    #[arg(long, env = "MUSTERD_AUDIT_FILE", value_name = "FILE")]
    audit_file: Option<PathBuf>,

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
    /// With --tokens, a gRPC client may show a token instead. The HTTP port checks a certificate if the client shows one,
    /// because probes have none.
    #[arg(long, env = "MUSTERD_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Revocation lists of all CAs of client certificates in PEM form
    #[arg(long, env = "MUSTERD_TLS_CLIENT_CRL", value_name = "FILE")]
    tls_client_crl: Option<PathBuf>,

    /// Serve addresses that other machines can reach without TLS
    #[arg(long, env = "MUSTERD_INSECURE_NO_TLS", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) insecure_no_tls: Option<bool>,

    /// Serve addresses that other machines can reach without authentication
    ///
    /// Any client that can connect may register, deregister and rotate the epoch.
    #[arg(long, env = "MUSTERD_INSECURE_NO_AUTH", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) insecure_no_auth: Option<bool>,
}

impl TlsArgs {
    /// The files for TLS, if it is on.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TlsWithout`]: a file is named that is of no use without another one.
    pub(crate) fn files(&self) -> Result<Option<TlsFiles>, ConfigError> {
        let without = |given, needed| Err(ConfigError::TlsWithout { given, needed });
        let certificate = self.file(self.tls_cert.as_ref(), |dir| dir.certificate("server"));
        let key = self.file(self.tls_key.as_ref(), |dir| dir.key("server"));
        let client_ca = self.file(self.tls_client_ca.as_ref(), |dir| dir.certificate("ca"));
        let client_crl = self.tls_client_crl.as_ref().map(absolute);
        match (certificate, key, client_ca, client_crl) {
            (Some(_), None, ..) => without("--tls-cert", "--tls-key"),
            (None, Some(_), ..) => without("--tls-key", "--tls-cert"),
            (None, None, Some(_), _) => without("--tls-client-ca", "--tls-cert and --tls-key"),
            (_, _, None, Some(_)) => without("--tls-client-crl", "--tls-client-ca"),
            (None, None, None, None) => Ok(None),
            (Some(certificate), Some(key), client_ca, client_crl) => {
                let client_optional = self.tokens().is_some();
                Ok(Some(TlsFiles { certificate, key, client_ca, client_crl, client_optional }))
            }
        }
    }

    /// The policy and the tokens, if callers are authenticated.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TlsWithout`]: tokens without a policy.
    pub(crate) fn access(&self) -> Result<Option<AccessFiles>, ConfigError> {
        let tokens = self.tokens();
        match self.file(self.policy.as_ref(), Directory::policy) {
            None if tokens.is_some() => Err(ConfigError::TlsWithout { given: "--tokens", needed: "--policy" }),
            policy => Ok(policy.map(|policy| AccessFiles { policy, tokens })),
        }
    }

    /// What the audit log records, and its file.
    pub(crate) fn audit(&self) -> (AuditScope, Option<PathBuf>) {
        (self.audit, self.audit_file.as_ref().map(absolute))
    }

    /// Where the admin socket is.
    pub(crate) fn admin_socket(&self) -> AdminSocket {
        self.admin_socket.clone().unwrap_or_default()
    }

    fn tokens(&self) -> Option<PathBuf> {
        self.file(self.tokens.as_ref(), Directory::tokens)
    }

    /// The file of a flag; without the flag the one of the directory, if there is one.
    fn file(&self, given: Option<&PathBuf>, of_directory: impl Fn(&Directory) -> PathBuf) -> Option<PathBuf> {
        let of_directory = || Some(of_directory(&Directory::new(self.security_dir.as_ref()?)));
        given.cloned().or_else(of_directory).as_ref().map(absolute)
    }
}

fn parse_audit(text: &str) -> Result<AuditScope, String> {
    match text {
        "decisions" => Ok(AuditScope::Decisions),
        "all" => Ok(AuditScope::All),
        _ => Err("expected decisions or all".to_owned()),
    }
}

/// Reads a path, or `none`.
fn parse_admin_socket(text: &str) -> Result<AdminSocket, String> {
    match text {
        "" => Err("expected a path, or none".to_owned()),
        "none" => Ok(AdminSocket::None),
        path => Ok(AdminSocket::At(absolute(&PathBuf::from(path)))),
    }
}

fn absolute(path: &PathBuf) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.clone())
}
