//! What may be wrong with TLS to PostgreSQL, each in one line with its cause and its fix.
//!
//! Two kinds: what is wrong with our own files ([`TlsError`]), and what a handshake came to ([`explain`]). Neither is
//! fixed by trying again, so commands end with 78 for both.

use std::{
    error, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, SecondsFormat};
use rustls::{
    AlertDescription, CertificateError, Error, OtherError,
    pki_types::{UnixTime, pem},
};

use crate::database_url::{ClientIdentity, Roots, SslMode, TlsOptions, Verification};

/// What is wrong with the files that a database URL names for TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read.
    #[error("{option}: cannot read {}: {cause}; correct the path in the database url, or the rights of the file", path.display())]
    Unreadable { option: &'static str, path: PathBuf, cause: io::Error },
    /// A file has no part of the kind that is needed.
    #[error(
        "{option}: {} holds no {} in PEM form; give a file with a line -----BEGIN {}-----",
        path.display(), kind(option), label(option)
    )]
    NotPem { option: &'static str, path: PathBuf },
    /// The key has a password.
    #[error("sslkey: {} is encrypted, which is not supported; decrypt it (openssl pkey -in OLD -out NEW) and protect the file instead", .0.display())]
    EncryptedKey(PathBuf),
    /// A file is in PEM form, and yet is not what it says.
    #[error("{option}: {} cannot be used: {cause}; create it again", path.display())]
    Unusable { option: &'static str, path: PathBuf, cause: String },
    /// Certificate and key do not belong together.
    #[error("sslkey: {} is not the key of the certificate {}; give the two that belong together", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    /// The operating system trusts no CA.
    #[error(
        "sslrootcert: this system has no trusted roots{}; install ca-certificates, or give sslrootcert=PATH",
        .0.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default()
    )]
    NoSystemRoots(Option<String>),
    /// The TLS library refuses its settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(Error),
}

fn kind(option: &str) -> &'static str {
    if option == "sslkey" { "private key" } else { "certificate" }
}

fn label(option: &str) -> &'static str {
    if option == "sslkey" { "PRIVATE KEY" } else { "CERTIFICATE" }
}

impl TlsError {
    pub(super) fn pem(option: &'static str, path: &Path, cause: pem::Error) -> Self {
        match cause {
            pem::Error::Io(cause) => Self::Unreadable { option, path: path.into(), cause },
            pem::Error::NoItemsFound if option == "sslkey" && is_encrypted(path) => Self::EncryptedKey(path.into()),
            pem::Error::NoItemsFound => Self::NotPem { option, path: path.into() },
            other => Self::Unusable { option, path: path.into(), cause: one_line(&other.to_string()) },
        }
    }

    pub(super) fn unusable(option: &'static str, path: &Path, cause: &Error) -> Self {
        Self::Unusable { option, path: path.into(), cause: one_line(&cause.to_string()) }
    }

    pub(super) fn identity(identity: &ClientIdentity, cause: &Error) -> Self {
        match cause {
            Error::InconsistentKeys(_) => {
                Self::Mismatch { key: identity.key.clone(), certificate: identity.certificate.clone() }
            }
            other => Self::unusable("sslcert", &identity.certificate, other),
        }
    }
}

fn is_encrypted(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains("ENCRYPTED"))
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// Says what a failed connection has to do with TLS. `None` if nothing: it failed for another reason.
pub(crate) fn explain(error: &tokio_postgres::Error, options: &TlsOptions) -> Option<String> {
    let in_handshake = error.to_string().starts_with("error performing TLS handshake");
    let mut cause = error::Error::source(error);
    while let Some(found) = cause {
        if let Some(ours) = found.downcast_ref::<TlsError>() {
            return Some(ours.to_string());
        }
        let io = found.downcast_ref::<io::Error>();
        if let Some(tls) = io.and_then(|error| error.get_ref()?.downcast_ref::<Error>()) {
            return Some(handshake(tls, options));
        }
        if let Some(io) = io.filter(|_| in_handshake) {
            return Some(broken_off(io, options));
        }
        if found.to_string().contains("server does not support TLS") {
            return Some(not_offered(options.mode));
        }
        cause = found.source();
    }
    in_handshake.then(|| one_line(&error.to_string()))
}

fn not_offered(mode: SslMode) -> String {
    format!(
        "sslmode={}: the server does not offer TLS; turn it on there (ssl = on in postgresql.conf), or say \
         sslmode=prefer on a network you trust",
        mode.word()
    )
}

fn broken_off(error: &io::Error, options: &TlsOptions) -> String {
    if error.kind() == io::ErrorKind::InvalidInput {
        return "the host of the database url is neither a DNS name nor an address, as TLS needs it; correct it"
            .to_owned();
    }
    let fix = if options.direct {
        "sslnegotiation=direct needs PostgreSQL 17 or later; leave it out"
    } else {
        "check that it is PostgreSQL that listens there, and its log"
    };
    format!("the server broke off the TLS handshake ({}); {fix}", one_line(&error.to_string()))
}

/// What a handshake came to, and what to do about it.
fn handshake(error: &Error, options: &TlsOptions) -> String {
    match error {
        Error::InvalidCertificate(cause) => certificate(cause, options),
        Error::NoCertificatesPresented => "the server showed no certificate; give it one (ssl_cert_file)".to_owned(),
        Error::PeerIncompatible(_) | Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the server has no version or cipher of TLS in common with us; TLS 1.2 or 1.3 is needed \
             (ssl_min_protocol_version and ssl_ciphers in postgresql.conf)"
                .to_owned()
        }
        Error::AlertReceived(alert) if is_about_us(*alert) => {
            let state = match &options.identity {
                Some(identity) => format!("refuses our certificate {}", identity.certificate.display()),
                None => "asks for a certificate of ours".to_owned(),
            };
            format!(
                "the server {state} ({alert:?}); give one that its CA (ssl_ca_file) has signed as sslcert and sslkey"
            )
        }
        other => format!("the TLS handshake failed: {}; see the log of the server", one_line(&other.to_string())),
    }
}

fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::NoCertificate
    )
}

fn certificate(error: &CertificateError, options: &TlsOptions) -> String {
    let mode = options.mode.word();
    match error {
        CertificateError::UnknownIssuer => {
            let asked = match options.verification() {
                Verification::Chain(Roots::File(path)) | Verification::ChainAndName(Roots::File(path)) => {
                    format!("no CA in {}", path.display())
                }
                _ => "no CA that this system trusts".to_owned(),
            };
            format!(
                "sslrootcert: {asked} has signed the server's certificate; give the CA that has as sslrootcert=PATH"
            )
        }
        CertificateError::Expired => expired(mode, None),
        CertificateError::ExpiredContext { not_after, .. } => expired(mode, Some(*not_after)),
        CertificateError::NotValidYet => not_yet(mode, None),
        CertificateError::NotValidYetContext { not_before, .. } => not_yet(mode, Some(*not_before)),
        CertificateError::NotValidForName => wrong_name(mode, "the host of the database url", &[]),
        CertificateError::NotValidForNameContext { expected, presented } => {
            wrong_name(mode, &expected.to_str(), presented)
        }
        CertificateError::Revoked => format!("sslmode={mode}: the server's certificate was revoked; renew it there"),
        CertificateError::Other(OtherError(cause)) if cause.to_string().contains("CaUsedAsEndEntity") => format!(
            "sslmode={mode}: the server's certificate is itself a CA (self-signed); have a CA sign one for the \
             server, and give that CA as sslrootcert=PATH"
        ),
        other => format!(
            "sslmode={mode}: the server's certificate cannot be accepted: {}; issue a certificate of X.509 version 3",
            one_line(&other.to_string())
        ),
    }
}

fn expired(mode: &str, since: Option<UnixTime>) -> String {
    format!("sslmode={mode}: the server's certificate has expired{}; renew it there", moment(" at ", since))
}

fn not_yet(mode: &str, from: Option<UnixTime>) -> String {
    format!(
        "sslmode={mode}: the server's certificate is not valid yet{}; check the clocks of both machines",
        moment(", but from ", from)
    )
}

fn moment(before: &str, at: Option<UnixTime>) -> String {
    let seconds = at.and_then(|at| i64::try_from(at.as_secs()).ok());
    let at = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    at.map(|at| format!("{before}{}", at.to_rfc3339_opts(SecondsFormat::Secs, true))).unwrap_or_default()
}

fn wrong_name(mode: &str, expected: &str, presented: &[String]) -> String {
    let names = match presented {
        [] => "no name at all (its common name is not looked at)".to_owned(),
        names => names.join(", "),
    };
    let fix =
        "connect by a name it has, have it made for this one (subject alternative name), or say sslmode=verify-ca";
    format!("sslmode={mode}: the server's certificate is for {names}, not for {expected}; {fix}")
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use rustls::pki_types::ServerName;

    use super::*;

    fn options(mode: SslMode) -> TlsOptions {
        TlsOptions { mode, roots: Some(Roots::File("/ca.pem".into())), identity: None, direct: false }
    }

    fn said(error: impl Into<Error>) -> String {
        handshake(&error.into(), &options(SslMode::VerifyFull))
    }

    #[test]
    fn incomplete_certificate_is_reported_with_the_fix() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let host = ServerName::try_from("db.example").expect("a name");
        for (error, parts) in [
            (CertificateError::UnknownIssuer, ["no CA in /ca.pem", "sslrootcert=PATH"]),
            (
                CertificateError::ExpiredContext { time: at(2_000_000_000), not_after: at(1_000_000_000) },
                ["expired at 2001-09-09T01:46:40Z", "renew it"],
            ),
            (
                CertificateError::NotValidYetContext { time: at(0), not_before: at(1_000_000_000) },
                ["not valid yet, but from 2001-09-09", "clocks"],
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: host.clone(),
                    presented: vec!["DnsName(\"a.example\")".to_owned()],
                },
                ["is for DnsName(\"a.example\"), not for db.example", "sslmode=verify-ca"],
            ),
            (
                CertificateError::NotValidForNameContext { expected: host, presented: Vec::new() },
                ["no name at all", "subject alternative name"],
            ),
            (
                CertificateError::Other(OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity")))),
                ["is itself a CA", "sslrootcert=PATH"],
            ),
        ] {
            let text = said(error);
            assert!(parts.iter().all(|part| text.contains(part)) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn server_that_requires_a_certificate_is_distinguished_from_one_that_refuses_it() {
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(handshake(&alert, &options(SslMode::Require)).contains("asks for a certificate of ours"));
        let identity = ClientIdentity { certificate: "/c.pem".into(), key: "/c.key".into() };
        let with = TlsOptions { identity: Some(identity), ..options(SslMode::Require) };
        let alert = Error::AlertReceived(AlertDescription::UnknownCA);
        assert!(handshake(&alert, &with).contains("refuses our certificate /c.pem"));
    }
}
