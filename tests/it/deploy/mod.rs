//! What is shipped in `deploy/`: roles, scripts, units, images, manifests and pages, each held against the program and
//! against the tools of its users.

mod createrole;
mod decisions;
mod image;
mod kubernetes;
mod package;
mod pages;
mod roles;
pub(crate) mod scripts;
mod service_manager;
pub(crate) mod tools;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory as _;
use musterd::cli::Cli;

/// A path in the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A file of the repository.
fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Why a call of the program with these arguments and this environment would not be understood; `None` if it would.
///
/// Settings of the environment are read as the flags they stand for: one that no flag of the command has is an error,
/// and so is a value that the flag refuses.
fn misunderstood(arguments: &[&str], environment: &BTreeMap<String, String>) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    let mut leaf = command.clone();
    for argument in arguments {
        let Some(next) = leaf.find_subcommand(argument) else { break };
        leaf = next.clone();
    }
    let mut words: Vec<String> =
        std::iter::once("musterd").chain(arguments.iter().copied()).map(str::to_owned).collect();
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("MUSTERD_")) {
        let flag = leaf.get_arguments().find(|arg| arg.get_env().is_some_and(|env| env == name.as_str()));
        let Some(long) = flag.and_then(clap::Arg::get_long) else {
            return Some(format!("musterd {} knows no {name}", arguments.join(" ")));
        };
        match flag.is_some_and(|flag| flag.get_action().takes_values()) {
            true => words.push(format!("--{long}={value}")),
            false => words.push(format!("--{long}")),
        }
    }
    Cli::command().try_get_matches_from(words).err().map(|error| error.to_string())
}

#[test]
fn a_call_that_the_program_would_refuse_is_noticed() {
    let with = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    assert_eq!(misunderstood(&["serve"], &with("MUSTERD_HTTP_ADDR", "0.0.0.0:1")), None);
    assert_eq!(misunderstood(&["serve"], &with("PATH", "/bin")), None);
    assert_eq!(misunderstood(&["serve"], &with("MUSTERD_NO_MIGRATE", "true")), None);
    for (arguments, name, value) in [
        (&["serve"][..], "MUSTERD_HTTP_ADDRESS", "0.0.0.0:1"),
        (&["serve"], "MUSTERD_HTTP_ADDR", "localhost"),
        (&["migrate", "up"], "MUSTERD_HTTP_ADDR", "0.0.0.0:1"),
        (&["server"], "PATH", "/bin"),
    ] {
        assert!(misunderstood(arguments, &with(name, value)).is_some(), "{arguments:?} {name}={value}");
    }
}
