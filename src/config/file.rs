//! The configuration file: TOML, one key for each flag of `serve`, and a table `[[registry]]` for each registry of several.
//!
//! ```toml
//! grpc-addr = "0.0.0.0:7717"
//! keep-dead = "7days"
//! no-migrate = true
//! ```
//!
//! The key is the flag without its dashes and the value is what the flag takes, so there is nothing to learn beside
//! the flags, and one parser for each value. A switch takes `true` or `false`; numbers may stand without quotes.
//!
//! A file that is not understood to its last line is refused: a misspelt key that is passed over is a setting that
//! its author believes in. Errors name file, line and column, and never quote a value: it may be a secret.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use crate::model::TextPosition;

/// Where the file is looked for if none is named.
pub const DEFAULT_PATH: &str = "/etc/musterd/musterd.toml";
/// The longest file that is read, in bytes.
pub const FILE_MAX_BYTES: u64 = 1 << 20;
/// The tables of registries.
const REGISTRY: &str = "registry";
/// Where all other keys stand.
const TOP: &str = "at the top level of the file";
/// How alike an unknown key and a known one must be, from 0 to 1, for it to be meant.
const ALIKE: f64 = 0.8;

/// A configuration file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    path: PathBuf,
    entries: Vec<Entry>,
    registries: Vec<RegistryTable>,
}

/// A table `[[registry]]`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryTable {
    /// Its keys and values, in their order.
    pub entries: Vec<Entry>,
    /// Where it begins.
    pub at: TextPosition,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is written.
    pub key: String,
    /// As the flag would take it.
    pub value: String,
    /// Whether it is `true` or `false`, rather than a text or a number.
    pub is_switch: bool,
    /// Where the key stands.
    pub key_at: TextPosition,
    /// Where the value stands.
    pub value_at: TextPosition,
}

/// Why a configuration file was refused, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}: {cause}; correct --config (MUSTERD_CONFIG), or the rights of the file", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        cause: String,
    },
    /// A line of it is not understood.
    #[error("{}:{at}: {what}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Where.
        at: TextPosition,
        /// What is wrong, and the way out.
        what: String,
    },
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`FileError`]: it cannot be read, is over [`FILE_MAX_BYTES`], or is no TOML of this form.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let unreadable = |cause: String| FileError::Unreadable { path: path.into(), cause };
        let read = || -> io::Result<String> {
            if fs::metadata(path)?.len() > FILE_MAX_BYTES {
                return Err(io::Error::other("it is over 1 MiB"));
            }
            fs::read_to_string(path)
        };
        Self::parse(path, &read().map_err(|error| unreadable(error.to_string()))?)
    }

    /// Reads the file at [`DEFAULT_PATH`], if there is one.
    ///
    /// # Errors
    ///
    /// As [`ConfigFile::read`]. One that is there and cannot be read is no reason to go on without it.
    pub fn read_default() -> Result<Option<Self>, FileError> {
        let path = Path::new(DEFAULT_PATH);
        match fs::symlink_metadata(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            _ => Self::read(path).map(Some),
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// [`FileError::Line`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let refuse = |offset: usize, what: String| {
            let at = TextPosition::of(text, offset);
            FileError::Line { path: path.into(), at, what }
        };
        let table = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(text.len(), |span| span.start);
            let what = error.message().replace('\n', " ");
            refuse(offset, format!("{what}; write KEY = \"VALUE\", one on each line"))
        })?;
        let read = |table: &DeTable<'_>, place: &str| -> Result<Vec<Entry>, FileError> {
            let mut entries = Vec::new();
            for (key, value) in table {
                let (name, key_at) = (key.get_ref().to_string(), key.span().start);
                if place == TOP && name == REGISTRY && matches!(value.get_ref(), DeValue::Array(_)) {
                    continue;
                }
                let (written, is_switch) = read_value(value.get_ref()).map_err(|found| match name.as_str() {
                    REGISTRY => {
                        refuse(key_at, format!("registry is {found}; write [[registry]], and its keys below it"))
                    }
                    _ => refuse(key_at, format!("{name} is {found}; write {name} = \"VALUE\", {place}")),
                })?;
                let (key_at, value_at) = (TextPosition::of(text, key_at), TextPosition::of(text, value.span().start));
                entries.push(Entry { key: name, value: written, is_switch, key_at, value_at });
            }
            entries.sort_by_key(|entry| entry.key_at.line);
            Ok(entries)
        };
        let entries = read(table.get_ref(), TOP)?;
        let mut registries = Vec::new();
        let tables = table.get_ref().iter().find(|(key, _)| key.get_ref() == REGISTRY).map(|(_, value)| value);
        if let Some(DeValue::Array(tables)) = tables.map(|value| value.get_ref()) {
            for one in tables {
                let DeValue::Table(table) = one.get_ref() else {
                    let what =
                        "registry is an array of something else than tables; write [[registry]], and its keys below it";
                    return Err(refuse(one.span().start, what.to_owned()));
                };
                let entries = read(table, "below its [[registry]]")?;
                registries.push(RegistryTable { entries, at: TextPosition::of(text, one.span().start) });
            }
        }
        Ok(Self { path: path.into(), entries, registries })
    }

    /// Its tables `[[registry]]`, in their order.
    #[must_use]
    pub fn registries(&self) -> &[RegistryTable] {
        &self.registries
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its keys and values, in their order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The error for a key that is none of `known`.
    #[must_use]
    pub fn unknown(&self, entry: &Entry, known: &[&str]) -> FileError {
        let hint = match suggestion(&entry.key, known) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("use one of {}", known.join(", ")),
        };
        self.refuse(entry.key_at, format!("unknown key {:?}; {hint}", entry.key))
    }

    /// The error for a value that its flag would not take.
    #[must_use]
    pub fn wrong_value(&self, entry: &Entry, why: &str) -> FileError {
        self.refuse(entry.value_at, format!("{}: {why}", entry.key))
    }

    pub(super) fn refuse(&self, at: TextPosition, what: String) -> FileError {
        FileError::Line { path: self.path.clone(), at, what }
    }
}

/// The text of a value and whether it is a switch; or what else it is.
fn read_value(value: &DeValue<'_>) -> Result<(String, bool), &'static str> {
    match value {
        DeValue::String(text) => Ok((text.to_string(), false)),
        DeValue::Integer(number) => Ok((number.to_string(), false)),
        DeValue::Float(number) => Ok((number.to_string(), false)),
        DeValue::Boolean(switch) => Ok((switch.to_string(), true)),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Array(_) => Err("an array"),
        DeValue::Table(_) => Err("a table"),
    }
}

/// The known key that was probably meant.
fn suggestion<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let key = key.to_lowercase().replace('_', "-");
    let scored = known.iter().map(|known| (strsim::jaro_winkler(&key, known), *known));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["database-url", "grpc-addr", "http-addr", "keep-dead"];

    fn parse(text: &str) -> Result<ConfigFile, FileError> {
        ConfigFile::parse(Path::new("m.toml"), text)
    }

    #[test]
    fn values_are_read_as_their_flags_would_take_them() {
        let file =
            parse("# c\nkeep-dead = '2h' # d\n\nno-migrate = true\n  limit = 1_000\nratio = 0.5\n").expect("valid");
        let read: Vec<_> =
            file.entries().iter().map(|e| (e.key.as_str(), e.value.as_str(), e.is_switch, e.key_at.line)).collect();
        assert_eq!(
            read,
            [
                ("keep-dead", "2h", false, 2),
                ("no-migrate", "true", true, 4),
                ("limit", "1000", false, 5),
                ("ratio", "0.5", false, 6),
            ]
        );
        assert_eq!(file.entries()[2].value_at, TextPosition { line: 5, column: 11 });
        assert_eq!(parse("").expect("an empty file").entries(), []);
    }

    #[test]
    fn incomplete_file_is_named_by_line_and_column_and_never_quoted() {
        for (text, place) in [
            ("keep-dead = \"24h\"\ndatabase-url = \"postgres://u:s3cret@h\n", "m.toml:2:"),
            ("keep-dead =\n", "m.toml:1:"),
            ("keep-dead\n", "m.toml:1:"),
            ("grpc-addr = 'größe'\n'größe'  = s3cret\n", "m.toml:2:12"),
            ("keep-dead = '1h'\nkeep-dead = '2h'\n", "m.toml:2:1"),
            ("[serve]\nkeep-dead = '1h'\n", "m.toml:1:2: serve is a table; write "),
            ("grpc.addr = 's3cret'\n", "m.toml:1:1: grpc is a table; write "),
            ("grpc-addr = ['s3cret']\n", "m.toml:1:1: grpc-addr is an array; write "),
            ("keep-dead = 2026-01-01\n", "m.toml:1:1: keep-dead is a date; write "),
        ] {
            let line = parse(text).expect_err(text).to_string();
            assert!(line.starts_with(place) && line.contains(';'), "{text:?}: {line}");
            assert!(!line.contains("s3cret") && !line.contains('\n'), "{text:?}: {line}");
        }
    }

    #[test]
    fn misspelt_key_is_refused_with_a_suggestion() {
        for (key, said) in [
            ("grpc_addr", "did you mean grpc-addr?"),
            ("GRPC-ADDR", "did you mean grpc-addr?"),
            ("databse-url", "did you mean database-url?"),
            ("htp-addr", "did you mean http-addr?"),
            ("colour", "use one of database-url, grpc-addr, http-addr, keep-dead"),
        ] {
            let file = parse(&format!("\n{key} = 's3cret'\n")).expect("valid");
            let line = file.unknown(&file.entries()[0], &KNOWN).to_string();
            assert_eq!(line, format!("m.toml:2:1: unknown key {key:?}; {said}"));
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_the_flag_that_named_it() {
        let error = ConfigFile::read(Path::new("/nonexistent/m.toml")).expect_err("no file").to_string();
        assert!(error.contains("/nonexistent/m.toml: ") && error.contains("--config"), "{error}");
    }
}
