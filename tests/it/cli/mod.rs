//! The command line as people and scripts meet it: the built program, its output and its exit code.

mod changing;
mod check;
mod check_database;
mod client;
mod config;
mod definitions;
mod formats;
mod health;
mod operators;
mod reaching;
mod readers;
mod reading;
mod run;
mod serve_errors;

use std::{process::Output, time::Duration};

use crate::harness::daemon::program;

/// No command may take longer, on a loaded machine either.
const BOUND: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ended {
    /// What it printed, as JSON; it must have ended well.
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The one line with which it failed, logs aside.
    pub(crate) fn complaint(&self) -> &str {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.starts_with('{')).collect();
        assert_eq!(lines.len(), 1, "one line: {self:?}");
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("RUST_BACKTRACE"), "{self:?}");
        lines[0].strip_prefix("musterd: ").unwrap_or_else(|| panic!("{self:?}"))
    }
}

/// Runs a command to its end.
pub(crate) async fn musterd(arguments: &[&str]) -> Ended {
    let mut command = tokio::process::Command::from(program());
    let output = command.args(arguments).kill_on_drop(true).output();
    tokio::time::timeout(BOUND, output).await.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap().into()
}
