//! The tools of others that check what we ship. `tests/tools.sh` installs them; without one a test fails, unless
//! `MUSTERD_TEST_WITHOUT` names it: a check that quietly does not run is worse than none.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A tool by the first of its names that is installed; `None` if we were told to go without.
pub(crate) fn tool(names: &[&str]) -> Option<Command> {
    let without = env::var("MUSTERD_TEST_WITHOUT").unwrap_or_default();
    if without.split([',', ' ']).any(|word| names.contains(&word)) {
        #[expect(clippy::print_stderr, reason = "what was not checked must be seen")]
        {
            eprintln!("SKIPPED by MUSTERD_TEST_WITHOUT: {}", names.join(" or "));
        }
        return None;
    }
    let found = names.iter().find_map(|name| places().map(|place| place.join(name)).find(|file| file.is_file()));
    let found = found.unwrap_or_else(|| {
        panic!("{} is missing: run tests/tools.sh, or set MUSTERD_TEST_WITHOUT={}", names.join(" or "), names[0])
    });
    Some(Command::new(found))
}

fn places() -> impl Iterator<Item = PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let cache = cache.unwrap_or_else(|| PathBuf::from("/tmp/.cache")).join("musterd-tools");
    let path: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    [cache.join("node_modules/.bin"), cache.join("venv/bin")].into_iter().chain(path)
}

/// The Python interpreter whose packages include the one that brings this program; as [`tool`].
pub(crate) fn python(program: &str) -> Option<PathBuf> {
    let program = PathBuf::from(tool(&[program])?.get_program());
    Some(program.with_file_name("python"))
}

/// Runs a tool that must find nothing to complain of; returns what it printed.
pub(super) fn content(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout
}
