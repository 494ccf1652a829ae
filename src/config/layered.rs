//! Where each setting comes from: a flag, the environment, the configuration file, or its default, in this order.
//!
//! The definitions of the flags are the only ones there are. clap reads flags and environment; [`Layered`] remembers
//! which of them gave each setting, and then fills in from the file what neither did, through the same parsers. So a
//! value means the same wherever it is written, and a flag that is added is at once a variable and a key.

use std::{collections::BTreeMap, error::Error as _, fmt, path::PathBuf};

use clap::{
    Arg, ArgMatches, Command, FromArgMatches,
    builder::Resettable,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

use super::{
    error::ConfigError,
    file::{ConfigFile, Entry, FileError},
    registries::{self, RegistryConfig},
};

/// The flag that names the file: no key of it.
const CONFIG: &str = "config";

/// What gave a setting its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag, by its name.
    Flag(String),
    /// An environment variable, by its name.
    Environment(String),
    /// A line of the configuration file.
    File { path: PathBuf, line: usize },
    /// No source: it is the default.
    Default,
}

impl Origin {
    /// One word for it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Flag(_) => "flag",
            Self::Environment(_) => "environment",
            Self::File { .. } => "file",
            Self::Default => "default",
        }
    }

    /// Which flag, variable or line. `None` for a default.
    pub(crate) fn source(&self) -> Option<String> {
        match self {
            Self::Flag(name) | Self::Environment(name) => Some(name.clone()),
            Self::File { path, line } => Some(format!("{}:{line}", path.display())),
            Self::Default => None,
        }
    }

    /// The higher wins.
    fn rank(&self) -> u8 {
        match self {
            Self::Flag(_) => 3,
            Self::Environment(_) => 2,
            Self::File { .. } => 1,
            Self::Default => 0,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source() {
            Some(source) => write!(f, "{} {source}", self.word()),
            None => f.write_str(self.word()),
        }
    }
}

/// One setting as it came to be.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The flag without its dashes.
    pub(crate) key: String,
    /// Its value as it would be written. `None`: not given, and the default cannot be written as a value.
    pub(crate) value: Option<String>,
    /// What gave it.
    pub(crate) origin: Origin,
    /// Whether the value must not be shown.
    pub(crate) is_secret: bool,
}

/// Arguments, and what gave each of them its value.
#[derive(Debug)]
pub(crate) struct Layered<A> {
    args: A,
    /// By flag without dashes; what is not in it is a default.
    given: BTreeMap<String, (String, Origin)>,
    /// The file that was read.
    file: Option<PathBuf>,
    /// The registries of the file.
    registries: Vec<RegistryConfig>,
}

impl<A: clap::Args> clap::Args for Layered<A> {
    fn augment_args(command: Command) -> Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }
}

impl<A: clap::Args> FromArgMatches for Layered<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = definitions::<A>().get_arguments().filter_map(|arg| given(arg, matches)).collect();
        Ok(Self { args: A::from_arg_matches(matches)?, given, file: None, registries: Vec::new() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given.extend(definitions::<A>().get_arguments().filter_map(|arg| given(arg, matches)));
        self.args.update_from_arg_matches(matches)
    }
}

fn definitions<A: clap::Args>() -> Command {
    A::augment_args(Command::new("settings"))
}

/// What the flag or the variable of an argument says, if one of them does.
fn given(arg: &Arg, matches: &ArgMatches) -> Option<(String, (String, Origin))> {
    let (long, id) = (arg.get_long()?, arg.get_id().as_str());
    let origin = match matches.value_source(id)? {
        ValueSource::CommandLine => Origin::Flag(format!("--{long}")),
        ValueSource::EnvVariable => Origin::Environment(arg.get_env()?.to_string_lossy().into_owned()),
        _ => return None,
    };
    let value = matches.get_raw(id)?.next_back()?.to_string_lossy().into_owned();
    Some((long.to_owned(), (value, origin)))
}

impl<A: clap::Args> Layered<A> {
    /// The arguments, as far as they are known.
    pub(crate) fn args(&self) -> &A {
        &self.args
    }

    /// The registries of the file; none: the arguments are those of the only one.
    pub(crate) fn take_registries(&mut self) -> Vec<RegistryConfig> {
        std::mem::take(&mut self.registries)
    }

    /// Takes the registries of the file.
    ///
    /// # Errors
    ///
    /// As [`registries::read`].
    pub(crate) fn take_in_registries(&mut self, file: &ConfigFile) -> Result<(), ConfigError> {
        self.registries = registries::read(file)?;
        Ok(())
    }

    /// Refuses a setting that each registry of the file has for itself.
    ///
    /// # Errors
    ///
    /// [`ConfigError::BesideRegistries`].
    pub(crate) fn refuse_beside_registries(&self) -> Result<(), ConfigError> {
        let own = ["database-url", "database-url-file", "grpc-addr", "http-addr", "advertise-addr"];
        let beside = own.iter().find_map(|key| self.origin(key).source());
        match beside.filter(|_| !self.registries.is_empty()) {
            Some(source) => Err(ConfigError::BesideRegistries(source)),
            None => Ok(()),
        }
    }

    /// The arguments, for good.
    pub(crate) fn into_args(self) -> A {
        self.args
    }

    /// What gave a setting its value.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.given.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// Of two settings that say the same thing, whether the first is the one that counts; `None` if both were given in
    /// the same place.
    pub(crate) fn outranks(&self, key: &str, other: &str) -> Option<bool> {
        let (rank, other) = (self.origin(key).rank(), self.origin(other).rank());
        (rank != other).then_some(rank > other)
    }

    /// Takes from the file what neither a flag nor a variable gave. All of the file must make sense to `S`, which are
    /// the settings that a file may hold, also what these arguments have no use for.
    ///
    /// # Errors
    ///
    /// [`FileError::Line`] for the first key that is unknown or has a value its flag would not take.
    pub(crate) fn fill_in<S: clap::Args>(&mut self, file: &ConfigFile) -> Result<(), FileError> {
        let (known, own) = (bare::<S>(), bare::<A>());
        let keys: Vec<&str> = keys(&known).collect();
        for entry in file.entries() {
            let arg = known.get_arguments().find(|arg| arg.get_long() == Some(&entry.key));
            let Some(arg) = arg.filter(|_| keys.contains(&entry.key.as_str())) else {
                return Err(file.unknown(entry, &keys));
            };
            let wrong = |why: String| file.wrong_value(entry, &why);
            check_kind(arg, entry).map_err(wrong)?;
            let word = [format!("--{}={}", entry.key, entry.value)];
            known.clone().try_get_matches_from(&word).map_err(|error| wrong(reason(&error, arg)))?;
            let is_ours = keys_contain(&own, &entry.key);
            if is_ours && !self.given.contains_key(&entry.key) {
                let matches = own.clone().try_get_matches_from(&word).map_err(|error| wrong(reason(&error, arg)))?;
                self.args.update_from_arg_matches(&matches).map_err(|error| wrong(reason(&error, arg)))?;
                let origin = Origin::File { path: file.path().to_path_buf(), line: entry.key_at.line };
                self.given.insert(entry.key.clone(), (entry.value.clone(), origin));
            }
        }
        self.file = Some(file.path().to_path_buf());
        Ok(())
    }

    /// Every setting, in the order of the definitions.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let setting = |arg: &Arg| {
            let key = arg.get_long().filter(|_| arg.get_env().is_some())?.to_owned();
            let (value, origin) = match self.given.get(&key) {
                Some((value, origin)) => (Some(value.clone()), origin.clone()),
                None => (default(arg), Origin::Default),
            };
            let read = self.file.as_ref().map(|path| path.display().to_string());
            let value = if key == CONFIG { value.or(read) } else { value };
            Some(Setting { key, value, origin, is_secret: arg.is_hide_env_values_set() })
        };
        definitions::<A>().get_arguments().filter_map(setting).collect()
    }
}

fn default(arg: &Arg) -> Option<String> {
    let value = arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    value.or_else(|| is_switch(arg).then(|| "false".to_owned()))
}

/// The definitions without what clap would add by itself: only what is asked for is set.
fn bare<A: clap::Args>() -> Command {
    definitions::<A>()
        .no_binary_name(true)
        .mut_args(|arg| arg.env(Resettable::Reset).default_value(Resettable::Reset).required(false))
}

fn keys(known: &Command) -> impl Iterator<Item = &str> {
    known.get_arguments().filter_map(Arg::get_long).filter(|long| !matches!(*long, CONFIG | "help" | "version"))
}

fn keys_contain(command: &Command, key: &str) -> bool {
    keys(command).any(|known| known == key)
}

/// A flag that may stand without a value.
fn is_switch(arg: &Arg) -> bool {
    !arg.get_action().takes_values() || arg.get_num_args().is_some_and(|count| count.min_values() == 0)
}

fn check_kind(arg: &Arg, entry: &Entry) -> Result<(), String> {
    match (is_switch(arg), entry.is_switch) {
        (true, false) => Err("expected true or false, without quotes".to_owned()),
        (false, true) => Err(format!("expected a text; write {} = \"VALUE\"", entry.key)),
        _ => Ok(()),
    }
}

/// Why a parser refused a value, without the words that belong to a command line, and without the value.
fn reason(error: &clap::Error, arg: &Arg) -> String {
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue)
        && !allowed.is_empty()
    {
        return format!("expected one of {}", allowed.join(", "));
    }
    match error.source() {
        Some(cause) => cause.to_string().replace('\n', " "),
        None => {
            let name = arg.get_value_names().and_then(|names| names.first()).map_or("VALUE", |name| name.as_str());
            format!("expected {name}; see musterd serve --help")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Args)]
    struct Args {
        #[arg(long, env = "TEST_SETTINGS_NAME", default_value = "nobody")]
        name: String,
        #[arg(long, env = "TEST_SETTINGS_LIMIT")]
        limit: Option<u8>,
        #[arg(long, env = "TEST_SETTINGS_FORM", value_parser = ["text", "json"])]
        form: Option<String>,
        #[arg(long, env = "TEST_SETTINGS_QUIET", num_args = 0..=1, require_equals = true,
              default_missing_value = "true")]
        quiet: Option<bool>,
        #[arg(long, env = "TEST_SETTINGS_CONFIG")]
        config: Option<PathBuf>,
    }

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        layered: Layered<Args>,
    }

    fn filled(words: &[&str], file: &str) -> Result<Layered<Args>, String> {
        let words = std::iter::once("test").chain(words.iter().copied());
        let mut layered = Only::try_parse_from(words).expect("arguments").layered;
        let file = ConfigFile::parse(Path::new("m.toml"), file).expect("TOML");
        layered.fill_in::<Args>(&file).map_err(|error| error.to_string())?;
        Ok(layered)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let layered = filled(&["--limit", "3"], "limit = 7\nname = 'x'\nquiet = true").expect("valid");
        let args = layered.args();
        assert_eq!((args.name.as_str(), args.limit, args.quiet), ("x", Some(3), Some(true)));
        let origins: Vec<_> = layered.settings().iter().map(|s| (s.key.clone(), s.origin.to_string())).collect();
        let expected = [
            ("name", "file m.toml:2"),
            ("limit", "flag --limit"),
            ("form", "default"),
            ("quiet", "file m.toml:3"),
            ("config", "default"),
        ];
        assert_eq!(origins, expected.map(|(key, origin)| (key.to_owned(), origin.to_owned())));
        let unset = filled(&[], "").expect("valid");
        assert_eq!((unset.args().name.as_str(), unset.args().quiet), ("nobody", None));
    }

    #[test]
    fn a_switch_of_the_file_can_be_taken_back_by_a_flag() {
        assert_eq!(filled(&["--quiet=false"], "quiet = true").expect("valid").args().quiet, Some(false));
        assert_eq!(filled(&["--quiet"], "quiet = false").expect("valid").args().quiet, Some(true));
    }

    #[test]
    fn a_value_that_its_flag_would_not_take_is_refused_even_if_a_flag_overrules_it() {
        for (file, expected) in [
            ("limit = 300", "m.toml:1:9: limit: 300 is not in 0..=255"),
            ("limit = true", "m.toml:1:9: limit: expected a text; write limit = \"VALUE\""),
            ("form = 'yaml'", "m.toml:1:8: form: expected one of text, json"),
            ("quiet = 'yes'", "m.toml:1:9: quiet: expected true or false, without quotes"),
            ("config = 'other.toml'", "m.toml:1:1: unknown key \"config\"; use one of name, limit, form, quiet"),
            ("limits = 3", "m.toml:1:1: unknown key \"limits\"; did you mean limit?"),
        ] {
            for flags in [&[][..], &["--limit=1", "--form=json", "--quiet"]] {
                assert_eq!(filled(flags, file).map(drop), Err(expected.to_owned()), "{file}");
            }
        }
    }

    #[test]
    fn setting_of_a_higher_source_wins() {
        let layered = filled(&["--limit", "3"], "name = 'x'\nform = 'json'").expect("valid");
        assert_eq!(layered.outranks("limit", "name"), Some(true));
        assert_eq!(layered.outranks("name", "limit"), Some(false));
        assert_eq!(layered.outranks("name", "form"), None);
    }
}
