//! How the way to PostgreSQL is protected: libpq's options, with libpq's meaning.
//!
//! | sslmode | encrypted | who answers is checked |
//! |---|---|---|
//! | `disable` | no | no |
//! | `prefer` (default) | if the server can | no |
//! | `require` | yes | no; with `sslrootcert` as `verify-ca`, as libpq has it |
//! | `verify-ca` | yes | its certificate is signed by a CA of `sslrootcert` |
//! | `verify-full` | yes | that, and the certificate is for the host of the URL |
//!
//! Two things differ from libpq, both to the safe side: nothing is read from `~/.postgresql`, so `verify-ca` needs an
//! `sslrootcert` and `verify-full` without one goes by the trusted roots of the system; and combinations that libpq
//! silently makes nothing of (a CA with `prefer`) are refused.

use std::path::PathBuf;

use tokio_postgres::{
    Config,
    config::{ChannelBinding, SslNegotiation},
};

use super::error::UrlError;

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// In clear.
    Disable,
    /// With TLS where the server can, else in clear.
    Prefer,
    /// With TLS.
    Require,
    /// With TLS, and a certificate of a trusted CA.
    VerifyCa,
    /// With TLS, and a certificate of a trusted CA for the host that was asked for.
    VerifyFull,
}

impl SslMode {
    /// The word for it in a URL.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// `sslrootcert`: which CAs are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those that the operating system trusts.
    System,
    /// Those of this PEM file.
    File(PathBuf),
}

/// `sslcert` and `sslkey`: who we are, for a server that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM file with our certificate, and those between it and the CA.
    pub certificate: PathBuf,
    /// PEM file with its key, not encrypted.
    pub key: PathBuf,
}

/// What the URL says about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// How much protection is asked for.
    pub mode: SslMode,
    /// Whom to trust, if said.
    pub roots: Option<Roots>,
    /// Who we are, if said.
    pub identity: Option<ClientIdentity>,
    /// Whether the handshake begins at once (`sslnegotiation=direct`, PostgreSQL 17 or later).
    pub direct: bool,
}

/// What is checked of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification<'a> {
    /// Nothing.
    None,
    /// That a CA signed it.
    Chain(&'a Roots),
    /// That a CA signed it, for the host we ask for.
    ChainAndName(&'a Roots),
}

impl TlsOptions {
    /// What is to be checked.
    #[must_use]
    pub fn verification(&self) -> Verification<'_> {
        match (self.mode, &self.roots) {
            (SslMode::VerifyFull, roots) => Verification::ChainAndName(roots.as_ref().unwrap_or(&Roots::System)),
            (SslMode::Require | SslMode::VerifyCa, Some(roots)) => Verification::Chain(roots),
            _ => Verification::None,
        }
    }
}

/// Reads the options that were taken out of a URL. `config` is what the driver made of the others.
pub(super) fn read(options: &[(String, String)], config: &Config) -> Result<TlsOptions, UrlError> {
    let (mut mode, mut roots, mut certificate, mut key) = (None, None, None, None);
    for (name, value) in options {
        let file = || Some(PathBuf::from(value)).filter(|_| !value.is_empty());
        match (name.as_str(), value.as_str()) {
            ("sslmode", value) => mode = Some(read_mode(value)?),
            // The form of JDBC, which libpq knows too.
            ("ssl", "true") => mode = mode.or(Some(SslMode::Require)),
            ("ssl", "false") => {}
            ("ssl", _) => return Err(UrlError::new("has an option ssl that is neither true nor false; use sslmode")),
            ("sslrootcert", "system") => roots = Some(Roots::System),
            ("sslrootcert", _) => roots = file().map(Roots::File),
            ("sslcert", _) => certificate = file(),
            ("sslkey", _) => key = file(),
            // We never use GSSAPI, which is what these ask for or put up with.
            ("gssencmode", "disable" | "prefer") => {}
            ("sslsni", "1") => {}
            ("sslpassword", _) => {
                let fix = "decrypt the key with `openssl pkey` and protect its file instead";
                return Err(UrlError::new(format!("has sslpassword: encrypted keys are not supported; {fix}")));
            }
            (name, _) => {
                return Err(UrlError::new(format!("has the option {name}, which is not supported; remove it")));
            }
        }
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ClientIdentity { certificate, key }),
        (None, None) => None,
        (Some(_), None) => return Err(UrlError::new("has sslcert without sslkey; give both")),
        (None, Some(_)) => return Err(UrlError::new("has sslkey without sslcert; give both")),
    };
    let system = roots == Some(Roots::System);
    // As libpq: who names the system's roots means to use them.
    let mode = mode.unwrap_or(if system { SslMode::VerifyFull } else { SslMode::Prefer });
    let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
    let tls = TlsOptions { mode, roots, identity, direct };
    check(&tls, config.get_channel_binding())?;
    Ok(tls)
}

fn read_mode(word: &str) -> Result<SslMode, UrlError> {
    let modes = [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull];
    let mode = modes.into_iter().find(|mode| mode.word() == word);
    mode.ok_or_else(|| UrlError::new("has an unknown sslmode; use disable, prefer, require, verify-ca or verify-full"))
}

fn check(tls: &TlsOptions, binding: ChannelBinding) -> Result<(), UrlError> {
    let refuse = |text: &str| Err(UrlError::new(text));
    match (tls.mode, &tls.roots) {
        (SslMode::VerifyCa, None) => {
            return refuse("says sslmode=verify-ca but not which CA; add sslrootcert=PATH, or say sslmode=verify-full");
        }
        (SslMode::Require | SslMode::VerifyCa | SslMode::Prefer, Some(Roots::System)) => {
            // Anyone can have a certificate of a public CA for a name of their own.
            return refuse("says sslrootcert=system, which checks nothing without the name; say sslmode=verify-full");
        }
        (SslMode::Prefer, Some(Roots::File(_))) => {
            return refuse(
                "names an sslrootcert, which needs sslmode=verify-full (or verify-ca, without the host name)",
            );
        }
        _ => {}
    }
    if tls.direct && tls.mode < SslMode::Require {
        return refuse("says sslnegotiation=direct, which needs sslmode=require, verify-ca or verify-full");
    }
    if binding == ChannelBinding::Require && tls.mode == SslMode::Disable {
        return refuse("says channel_binding=require, which needs TLS; say sslmode=verify-full or require");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{error::UrlError, url::DatabaseUrl},
        *,
    };

    fn tls(options: &str) -> Result<TlsOptions, UrlError> {
        DatabaseUrl::parse(&format!("postgres://u:s3cret@h/d?{options}")).map(|url| url.tls().clone())
    }

    #[test]
    fn each_mode_checks_what_libpq_does() {
        let file = Roots::File(PathBuf::from("/ca.pem"));
        for (options, mode, verification) in [
            ("", SslMode::Prefer, Verification::None),
            ("sslmode=disable", SslMode::Disable, Verification::None),
            ("sslmode=disable&sslrootcert=/ca.pem", SslMode::Disable, Verification::None),
            ("sslmode=prefer", SslMode::Prefer, Verification::None),
            ("sslmode=require", SslMode::Require, Verification::None),
            ("ssl=true", SslMode::Require, Verification::None),
            ("sslmode=require&sslrootcert=/ca.pem", SslMode::Require, Verification::Chain(&file)),
            ("sslmode=verify-ca&sslrootcert=/ca.pem", SslMode::VerifyCa, Verification::Chain(&file)),
            ("sslmode=verify-full&sslrootcert=/ca.pem", SslMode::VerifyFull, Verification::ChainAndName(&file)),
            ("sslmode=verify-full", SslMode::VerifyFull, Verification::ChainAndName(&Roots::System)),
            ("sslrootcert=system", SslMode::VerifyFull, Verification::ChainAndName(&Roots::System)),
        ] {
            let tls = tls(options).expect(options);
            assert_eq!((tls.mode, tls.verification()), (mode, verification), "{options}");
        }
    }

    #[test]
    fn urls_as_managed_providers_hand_them_out_are_read() {
        for options in [
            "sslmode=require&channel_binding=require",
            "sslmode=verify-full&options=--cluster%3Dname-1",
            "sslmode=verify-ca&sslrootcert=/s.pem&sslcert=/c.pem&sslkey=/c.key",
            "ssl=true&sslmode=verify-full&sslrootcert=system",
            "sslmode=require&gssencmode=disable&target_session_attrs=read-write",
            "sslmode=verify-full&sslnegotiation=direct&sslsni=1",
        ] {
            tls(options).expect(options);
        }
    }

    #[test]
    fn misleading_protection_is_refused_with_the_fix() {
        for (options, fix) in [
            ("sslmode=allow", "use disable, prefer, require, verify-ca or verify-full"),
            ("sslmode=verify-ca", "add sslrootcert=PATH"),
            ("sslmode=verify-ca&sslrootcert=system", "say sslmode=verify-full"),
            ("sslmode=require&sslrootcert=system", "say sslmode=verify-full"),
            ("sslrootcert=/ca.pem", "needs sslmode=verify-full"),
            ("sslmode=require&sslcert=/c.pem", "give both"),
            ("sslmode=require&sslkey=/c.key", "give both"),
            ("sslmode=require&sslpassword=s3cret", "openssl pkey"),
            ("sslmode=verify-full&sslcrl=/crl.pem", "remove it"),
            ("sslnegotiation=direct", "needs sslmode=require"),
            ("sslmode=disable&channel_binding=require", "needs TLS"),
            ("ssl=maybe", "use sslmode"),
        ] {
            let text = tls(options).expect_err(options).to_string();
            assert!(text.contains(fix) && !text.contains("s3cret"), "{options}: {text}");
        }
    }
}
