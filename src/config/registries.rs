//! Several registries in one daemon: the tables `[[registry]]` of the configuration file.
//!
//! ```toml
//! [[registry]]
//! name = "research"
//! database-url-file = "/etc/musterd/research.url"
//! schema = "research"
//! grpc-addr = "127.0.0.1:7727"
//! http-addr = "127.0.0.1:7728"
//! ```
//!
//! A registry is chosen by the address that a client calls: clients and protocol know nothing of the others, no header or name
//! can be forgotten or forged, and a firewall can tell them apart. Everything else is a setting of the daemon.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    error::ConfigError,
    file::{ConfigFile, Entry, FileError, RegistryTable},
    secret,
};
use crate::{
    database_url::{DatabaseUrl, Source},
    model::TextPosition,
};

/// Most registries of a daemon: each needs connections, and their sum is bounded.
const REGISTRIES_MAX: usize = 16;
/// The longest name of a registry, in bytes; of a schema in PostgreSQL, too.
const NAME_MAX_BYTES: usize = 63;
const KEYS: [&str; 7] =
    ["name", "database-url", "database-url-file", "schema", "grpc-addr", "http-addr", "advertise-addr"];

/// One registry of several.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Its name: in logs, in the label `registry` of its metrics, and in errors.
    pub name: String,
    /// The PostgreSQL that holds it. `None`: the private one of the daemon.
    pub database_url: Option<Source>,
    /// Its schema; it is made if it does not exist.
    pub schema: String,
    /// Where its gRPC is served.
    pub grpc_addr: SocketAddr,
    /// Where its metrics, page and probes are served.
    pub http_addr: SocketAddr,
    /// The address at which others reach it; `None`: the gRPC address as bound.
    pub advertise_addr: Option<String>,
    /// Where it is written: file and line.
    pub(crate) written: (PathBuf, usize),
}

impl RegistryConfig {
    /// The hosts of its database, as its URL names them; `None`: the private PostgreSQL.
    pub(crate) fn server(&self) -> Option<String> {
        self.database().map(|(server, _)| server)
    }

    /// Which database, as far as the URL tells: another user or other options make no other database.
    pub(crate) fn database(&self) -> Option<(String, Option<String>)> {
        let url = self.database_url.as_ref()?.current();
        let config = url.config();
        let name = config.get_dbname().or(config.get_user()).map(str::to_owned);
        Some((crate::database_url::places(config), name))
    }

    /// Whether this is the address of its gRPC.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        let own = self.grpc_addr;
        own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified())
    }
}

/// Reads the tables of a file.
///
/// # Errors
///
/// [`FileError::Line`] for the first line that is wrong; [`ConfigError`] for a URL that cannot be used.
pub(crate) fn read(file: &ConfigFile) -> Result<Vec<RegistryConfig>, ConfigError> {
    let tables = file.registries();
    if let Some(one) = tables.get(REGISTRIES_MAX) {
        let what = format!(
            "[[registry]] is number {} of at most {REGISTRIES_MAX} in a daemon; move it to another daemon",
            REGISTRIES_MAX + 1
        );
        return Err(file.refuse(one.at, what).into());
    }
    let registries = tables.iter().map(|table| registry(file, table)).collect::<Result<Vec<_>, _>>()?;
    refuse_twice(file, &registries)?;
    Ok(registries)
}

fn registry(file: &ConfigFile, table: &RegistryTable) -> Result<RegistryConfig, ConfigError> {
    for entry in &table.entries {
        if !KEYS.contains(&entry.key.as_str()) {
            return Err(file.unknown(entry, &KEYS).into());
        }
        if entry.is_switch {
            return Err(file.wrong_value(entry, &format!("expected a text; write {} = \"VALUE\"", entry.key)).into());
        }
    }
    let required = |key: &str| {
        entry(table, key)
            .ok_or_else(|| file.refuse(table.at, format!("[[registry]] has no {key}; add {key} = \"VALUE\"")))
    };
    let (name, grpc, http) = (required("name")?, required("grpc-addr")?, required("http-addr")?);
    let named = |entry: &Entry| {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        let ok = (1..=NAME_MAX_BYTES).contains(&entry.value.len()) && entry.value.bytes().all(is_name);
        let why = "needs 1 to 63 of a-z, 0-9, _ and -";
        if ok { Ok(entry.value.clone()) } else { Err(file.wrong_value(entry, why)) }
    };
    let address = |entry: &Entry| {
        entry.value.parse().map_err(|_| file.wrong_value(entry, "expected IP:PORT, for example 127.0.0.1:7727"))
    };
    Ok(RegistryConfig {
        name: named(name)?,
        schema: named(entry(table, "schema").unwrap_or(name))?,
        database_url: database_url(file, table)?,
        grpc_addr: address(grpc)?,
        http_addr: address(http)?,
        advertise_addr: entry(table, "advertise-addr").map(|entry| entry.value.clone()),
        written: (file.path().to_path_buf(), table.at.line),
    })
}

fn entry<'a>(table: &'a RegistryTable, key: &str) -> Option<&'a Entry> {
    table.entries.iter().find(|entry| entry.key == key)
}

fn database_url(file: &ConfigFile, table: &RegistryTable) -> Result<Option<Source>, ConfigError> {
    match (entry(table, "database-url"), entry(table, "database-url-file")) {
        (Some(_), Some(second)) => {
            let what = "stands beside database-url; leave one out".to_owned();
            Err(file.refuse(second.key_at, format!("database-url-file {what}")).into())
        }
        (Some(entry), None) => {
            let url = DatabaseUrl::parse(&entry.value).map_err(|error| file.wrong_value(entry, &error.to_string()))?;
            Ok(Some(Source::fixed(url)))
        }
        (None, Some(entry)) => {
            let path = PathBuf::from(&entry.value);
            let url = from_secret(&path).map_err(|why| file.refuse(entry.value_at, why))?;
            Ok(Some(Source::read_by(url, move || from_secret(&path))))
        }
        (None, None) => Ok(None),
    }
}

fn from_secret(path: &std::path::Path) -> Result<DatabaseUrl, String> {
    let secret = secret::read("database-url-file", path).map_err(|error| error.to_string())?;
    DatabaseUrl::parse(&secret).map_err(|error| error.to_string())
}

/// Two registries with the same name, address, or schema of a database are one.
fn refuse_twice(file: &ConfigFile, registries: &[RegistryConfig]) -> Result<(), FileError> {
    for (at, (one, table)) in registries.iter().zip(file.registries()).enumerate() {
        if one.grpc_addr == one.http_addr && one.grpc_addr.port() != 0 {
            let what = format!("grpc-addr and http-addr are both {}; give them different ports", one.grpc_addr);
            return Err(file.refuse(place(table, "http-addr"), what));
        }
        for other in registries.iter().take(at) {
            if let Some((key, what)) = same(one, other) {
                return Err(file.refuse(place(table, key), what));
            }
        }
    }
    Ok(())
}

/// Where a key stands, or its table if it is not given.
fn place(table: &RegistryTable, key: &str) -> TextPosition {
    entry(table, key).map_or(table.at, |entry| entry.key_at)
}

/// What a registry has in common with one before it and must not: the key, and the complaint.
fn same(one: &RegistryConfig, other: &RegistryConfig) -> Option<(&'static str, String)> {
    if one.name == other.name {
        return Some(("name", format!("two registries have the name {}; give them different names", one.name)));
    }
    let is_taken = |address: SocketAddr| address.port() != 0 && [other.grpc_addr, other.http_addr].contains(&address);
    for (key, address) in [("grpc-addr", one.grpc_addr), ("http-addr", one.http_addr)] {
        if is_taken(address) {
            let what = format!("{key} {address} is an address of registry {}; give another one", other.name);
            return Some((key, what));
        }
    }
    if one.schema != other.schema || one.database() != other.database() {
        return None;
    }
    let what = format!(
        "registry {} is in the same schema {} of the same database; give another schema or database",
        other.name, one.schema
    );
    Some((if one.schema == one.name { "name" } else { "schema" }, what))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const A: &str = "[[registry]]\nname = 'a'\ngrpc-addr = '127.0.0.1:1'\nhttp-addr = '127.0.0.1:2'\n";

    fn parse(text: &str) -> Result<Vec<RegistryConfig>, String> {
        let file = ConfigFile::parse(Path::new("m.toml"), text).map_err(|error| error.to_string())?;
        read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_become_registries_each_in_a_schema_of_its_own() {
        let text = format!(
            "log-level = 'info'\n{A}[[registry]]\nname = 'b'\nschema = 'c'\ndatabase-url = 'host=h dbname=d'\ngrpc-addr = '127.0.0.1:3'\nhttp-addr = '127.0.0.1:4'\n"
        );
        let read = parse(&text).expect("valid");
        let told: Vec<_> =
            read.iter().map(|one| (one.name.as_str(), one.schema.as_str(), one.database_url.is_some())).collect();
        assert_eq!(told, [("a", "a", false), ("b", "c", true)]);
        assert!(parse("").expect("valid").is_empty());
    }

    #[test]
    fn wrong_table_is_named_by_line_and_column_and_never_quoted() {
        let b = |rest: &str| {
            format!("{A}[[registry]]\nname = 'b'\ngrpc-addr = '127.0.0.1:3'\nhttp-addr = '127.0.0.1:4'\n{rest}")
        };
        for (text, place) in [
            ("[registry]\nname = 'a'\n".to_owned(), "m.toml:1:2: registry is a table; "),
            ("registry = ['a']\n".to_owned(), "m.toml:1:13: registry is an array of something else"),
            ("[[registry]]\nname = 'a'\n".to_owned(), "m.toml:1:1: [[registry]] has no grpc-addr; "),
            (b("shema = 's3cret'\n"), "m.toml:9:1: unknown key \"shema\"; did you mean schema?"),
            (b("schema = true\n"), "m.toml:9:10: schema: expected a text; "),
            (b("schema = 'S;'\n"), "m.toml:9:10: schema: needs 1 to 63 of "),
            (b("schema = 'a'\n"), "m.toml:9:1: registry a is in the same schema a of the same database; "),
            (
                b("database-url = 'host=h password=s3cret'\ndatabase-url-file = '/s'\n"),
                "m.toml:10:1: database-url-file stands beside database-url; ",
            ),
            (b("database-url = 's3cret'\n"), "m.toml:9:16: database-url: "),
            (b("database-url-file = '/nonexistent'\n"), "m.toml:9:21: database-url-file: "),
            (b("").replace("'b'", "'a'"), "m.toml:6:1: two registries have the name a; "),
            (b("").replace(":3'", ":2'"), "m.toml:7:1: grpc-addr 127.0.0.1:2 is an address of registry a; "),
            (b("").replace(":4'", ":3'"), "m.toml:8:1: grpc-addr and http-addr are both 127.0.0.1:3; "),
            (b("").replace(":4'", "'"), "m.toml:8:13: http-addr: expected IP:PORT"),
        ] {
            let line = parse(&text).map(drop).expect_err(&text);
            assert!(line.starts_with(place), "{text}: {line}");
            assert!(!line.contains("s3cret") && !line.contains('\n'), "{line}");
        }
    }
}
