//! The URL itself: read once, checked for what the driver would take silently, shown without its password.

use std::{
    fmt::{self, Write as _},
    str::FromStr as _,
};

use tokio_postgres::{
    Config,
    config::{Host, SslMode as DriverMode},
};

use super::{
    error::UrlError,
    options,
    tls::{self, SslMode, TlsOptions, Verification},
};

/// A PostgreSQL and the way to it, from a URL (`postgres://user:password@host:5432/dbname?sslmode=verify-full`) or
/// from libpq keywords (`host=... user=...`). `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    secret: String,
    redacted: String,
    config: Config,
    tls: TlsOptions,
}

impl DatabaseUrl {
    /// Reads the text. Neither connects nor looks at the certificates it names.
    ///
    /// # Errors
    ///
    /// [`UrlError`] if it cannot be read, names no host, or asks for what the driver cannot do.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        // A newline from echo or a byte order mark from an editor belongs to no part of a URL.
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        check_form(text)?;
        let split = options::split(text)?;
        let mut config = Config::from_str(&split.rest).map_err(|error| explain(&error))?;
        check_names(&config)?;
        name_addresses(&mut config);
        let mut tls = tls::read(&split.options, &config)?;
        let mode = tls.mode;
        if config.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_))) {
            // As libpq: what goes through a socket of this machine is not encrypted.
            tls.mode = SslMode::Disable;
        }
        config.ssl_mode(match tls.mode {
            SslMode::Disable => DriverMode::Disable,
            SslMode::Prefer => DriverMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => DriverMode::Require,
        });
        Ok(Self { secret: text.to_owned(), redacted: redact(&config, mode), config, tls })
    }

    /// The text with its password, for the one place that connects. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.secret
    }

    /// What the driver is told: hosts, user, password, options.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How the way there is protected.
    #[must_use]
    pub fn tls(&self) -> &TlsOptions {
        &self.tls
    }

    /// What is less safe about it than its writer may think, with the way out.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        let unchecked = self.tls.mode == SslMode::Require && self.tls.verification() == Verification::None;
        unchecked.then_some(
            "sslmode=require encrypts, but does not verify the server; \
             use sslmode=verify-full, with sslrootcert=PATH for a CA of your own",
        )
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({:?})", self.redacted)
    }
}

fn check_form(text: &str) -> Result<(), UrlError> {
    if text.trim().is_empty() {
        // A secret that was not mounted must not silently become a second, private registry.
        return Err(UrlError::new("is empty; leave it out to run a private PostgreSQL"));
    }
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    if text.contains("://") && !is_url && !text.contains('=') {
        return Err(UrlError::new("must begin with postgres:// or postgresql://"));
    }
    Ok(())
}

fn check_names(config: &Config) -> Result<(), UrlError> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(UrlError::new("names no host; write postgres://user:password@host:5432/dbname"));
    }
    // The rest of a password with a bare "@" in it, taken for a host or a database. It must not get into a message.
    let stray = |name: &str| name.contains('@');
    let stray_host = |host: &Host| matches!(host, Host::Tcp(name) if stray(name));
    if config.get_dbname().is_some_and(stray) || config.get_hosts().iter().any(stray_host) {
        return Err(UrlError::new("has more than one '@'; write an '@' inside user or password as %40"));
    }
    let (hosts, addrs, ports) = (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    if hosts > 0 && addrs > 0 && hosts != addrs {
        return Err(UrlError::new(format!("has {hosts} hosts and {addrs} values of hostaddr; give as many of each")));
    }
    let hosts = hosts.max(addrs);
    if ports > 1 && ports != hosts {
        return Err(UrlError::new(format!("has {ports} ports and {hosts} hosts; give one port, or one for each host")));
    }
    Ok(())
}

/// Lets an address stand for the host name where there is none: TLS needs a name, and messages do.
fn name_addresses(config: &mut Config) {
    if config.get_hosts().is_empty() {
        for addr in config.get_hostaddrs().to_vec() {
            config.host(addr.to_string());
        }
    }
}

fn redact(config: &Config, mode: SslMode) -> String {
    let mut text = String::from("postgres://");
    if let Some(user) = config.get_user() {
        let _ = write!(text, "{user}@");
    }
    text.push_str(&places(config));
    if let Some(dbname) = config.get_dbname() {
        let _ = write!(text, "/{dbname}");
    }
    if mode != SslMode::Prefer {
        let _ = write!(text, "?sslmode={}", mode.word());
    }
    text
}

/// The hosts of a configuration with their ports, as one text.
#[must_use]
pub fn places(config: &Config) -> String {
    let ports = config.get_ports();
    let place = |(index, host): (usize, &Host)| {
        // libpq's rule: one port serves all hosts, otherwise each has its own.
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    };
    config.get_hosts().iter().enumerate().map(place).collect::<Vec<_>>().join(",")
}

/// Turns the driver's error into a line. Unknown options are not echoed: in a text that was quoted wrongly, "the option"
/// may be a piece of the password.
fn explain(error: &tokio_postgres::Error) -> UrlError {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if cause.starts_with("invalid value for option") {
        return UrlError::new(cause);
    }
    if cause.contains("unknown option") {
        return UrlError::new("has an unknown option; is a special character in the password not percent-encoded?");
    }
    UrlError::new(
        "cannot be parsed; write postgres://user:password@host:5432/dbname, special characters percent-encoded",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        DatabaseUrl::parse(text).expect_err("should be refused").to_string()
    }

    #[test]
    fn a_database_url_never_shows_its_password() {
        for (text, mode) in [
            ("postgres://app:s3cret@db.example:6432/registry", ""),
            ("postgres://app:s3cret@db.example:6432/registry?sslrootcert=system", "?sslmode=verify-full"),
            ("host=db.example port=6432 user=app password=s3cret dbname=registry", ""),
            ("host=db.example port=6432 user=app password='s3cret' ssl=true dbname=registry", "?sslmode=require"),
        ] {
            let url = DatabaseUrl::parse(text).expect("valid");
            assert_eq!(url.to_string(), format!("postgres://app@db.example:6432/registry{mode}"));
            assert!(!format!("{url:?}").contains("s3cret"));
            assert_eq!(url.expose(), text);
            assert_eq!(url.config().get_password(), Some(b"s3cret".as_slice()));
        }
    }

    #[test]
    fn blanks_newlines_and_byte_order_mark_around_a_url_do_not_count() {
        for text in ["host=h dbname=d\n", "postgres://h/d\r\n", " postgres://h/d ", "\u{feff}postgres://h/d\n"] {
            let url = DatabaseUrl::parse(text).expect(text);
            assert_eq!(url.config().get_dbname(), Some("d"), "{text:?}");
            assert_eq!(url.expose(), text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}'));
        }
    }

    #[test]
    fn several_hosts_and_ipv6_are_shown_with_their_ports() {
        let url = DatabaseUrl::parse("postgresql://u@a:1,b:2,[::1]:3/d").expect("valid");
        assert_eq!(url.to_string(), "postgres://u@a:1,b:2,[::1]:3/d");
        let url = DatabaseUrl::parse("hostaddr=127.0.0.1 user=u").expect("valid");
        assert_eq!(url.to_string(), "postgres://u@127.0.0.1:5432");
    }

    #[test]
    fn bad_urls_are_refused_in_one_line_without_the_password() {
        for text in [
            "",
            " ",
            "mysql://u:s3cret@h/d",
            "postgres://u:s3cret",
            "postgres://u:a@s3cret@h/d",
            "postgres://u:a@s3cret@h:x/d",
            "postgres://u:pass@s/3cret@h/db",
            "postgres://u:pass@s?s3cret@h/db",
            "postgres://u:pass@s?sslmode=s3cret@h/db",
            "host=h password=a s3cret=1",
            "user=u password=a s3cret host=h",
            "user=u password='s3cret host=h",
            "postgres://",
            "s3cret",
            "postgres://u:s3cret@h:99999/d",
            "host=a,b,c port=1,2 password=s3cret",
            "host=a,b hostaddr=127.0.0.1 password=s3cret",
        ] {
            let line = refused(text);
            assert!(!line.contains("3cret") && !line.contains('\n'), "{text:?}: {line}");
        }
    }

    proptest! {
        #[test]
        fn any_password_survives_in_both_forms_and_none_is_shown(password in "[^\\x00]{1,40}", by in 0..2_usize) {
            let secret = format!("S3{password}");
            let url = [
                format!(
                    "postgres://u:{}@h/d?sslmode=require&options=x",
                    percent_encoding::utf8_percent_encode(&secret, percent_encoding::NON_ALPHANUMERIC)
                ),
                format!(
                    "user=u sslmode=require password='{}' host = h dbname=d options=x",
                    secret.replace('\\', "\\\\").replace('\'', "\\'")
                ),
            ][by].clone();
            let url = DatabaseUrl::parse(&url).expect("valid");
            prop_assert_eq!(url.config().get_password(), Some(secret.as_bytes()));
            prop_assert_eq!(url.config().get_options(), Some("x"));
            prop_assert_eq!(url.to_string(), "postgres://u@h:5432/d?sslmode=require");
        }

        #[test]
        fn no_text_makes_it_panic_or_quote_what_may_be_a_password(text in "(postgres://)?[ -~]{0,60}") {
            if let Err(error) = DatabaseUrl::parse(&text.replace('~', "S3CRET")) {
                prop_assert!(!error.to_string().contains("S3CRET"), "{}", error);
            }
        }
    }

    #[test]
    fn a_socket_of_this_machine_is_never_encrypted() {
        let url = DatabaseUrl::parse("postgres://u@%2Frun%2Fpostgresql/d?sslmode=verify-full").expect("valid");
        assert_eq!(url.tls().mode, SslMode::Disable);
        assert_eq!(url.config().get_ssl_mode(), DriverMode::Disable);
    }

    #[test]
    fn only_encryption_without_a_check_is_warned_of() {
        for (options, warned) in [
            ("sslmode=require", true),
            ("ssl=true", true),
            ("sslmode=require&sslrootcert=/ca.pem", false),
            ("sslmode=verify-full", false),
            ("sslmode=prefer", false),
            ("sslmode=disable", false),
        ] {
            let url = DatabaseUrl::parse(&format!("postgres://u@h/d?{options}")).expect(options);
            assert_eq!(url.warning().is_some(), warned, "{options}");
        }
    }
}
