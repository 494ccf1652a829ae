//! CMD's process before it is CMD.
//!
//! The registration carries the process id of CMD and CMD finds its registration in its environment, so each would have to
//! come first. Hence `run` starts its own program under another name ([`NAME`]): that process has the id, dies with its
//! parent from its first moment on, and waits on a pipe for the environment. Then it becomes CMD by `exec`, which keeps the
//! process id and the parent-death signal. If the pipe ends without an environment, the process ends too.
//!
//! ```text
//!  run   --"MUSTERD_LEASE_ID=7\0..."--> held process, then exec CMD
//!        <--number of the error--------  (nothing if exec succeeded: the descriptor is closed by it)
//! ```
//!
//! The two descriptors are inherited under the numbers they have, and opened again by name, because turning a number into
//! a descriptor is unsafe code, which this crate forbids.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    process::{Command, ExitCode},
};

use nix::unistd::{Pid, close, getppid};

/// The name under which the program is the held process: its zeroth argument.
pub(super) const NAME: &str = "musterd-run-held";

/// What the held process is told by its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Number of the descriptor from which the environment is read.
    pub(super) environment: i32,
    /// Number of the descriptor to which an error is written.
    pub(super) error: i32,
    /// The process that must be its parent.
    pub(super) parent: i32,
    /// Whether CMD may go on without its parent.
    pub(super) outlive: bool,
    /// CMD and its arguments.
    pub(super) command: Vec<OsString>,
}

impl Order {
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let numbers = [self.environment, self.error, self.parent, i32::from(self.outlive)];
        let numbers = numbers.iter().map(|number| OsString::from(number.to_string()));
        numbers.chain(self.command.iter().cloned()).collect()
    }

    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut number = || arguments.next()?.to_str()?.parse::<i32>().ok();
        let (environment, error, parent, outlive) = (number()?, number()?, number()?, number()? != 0);
        let command: Vec<_> = arguments.collect();
        (!command.is_empty()).then_some(Self { environment, error, parent, outlive, command })
    }
}

/// Becomes CMD if this process was started as the held one; `None` if not. Returns only without having become it.
#[must_use]
pub fn intercept() -> Option<ExitCode> {
    let mut arguments = env::args_os();
    if arguments.next().as_deref() != Some(OsStr::new(NAME)) {
        return None;
    }
    let Some(order) = Order::parse(arguments) else { return Some(ExitCode::FAILURE) };
    // Why it failed is read and told by the parent, which also knows whether there was anything to fail.
    let _ = become_command(&order);
    Some(ExitCode::FAILURE)
}

/// Returns only if CMD cannot be run, or is not to be.
fn become_command(order: &Order) -> io::Result<()> {
    let mut environment = File::open(format!("/dev/fd/{}", order.environment))?;
    let mut report = OpenOptions::new().write(true).open(format!("/dev/fd/{}", order.error))?;
    // What was opened by name is closed by exec; these would be open in CMD.
    close(order.environment)?;
    close(order.error)?;
    if !order.outlive && !dies_with(order.parent)? {
        return Ok(());
    }
    let mut text = Vec::new();
    environment.read_to_end(&mut text)?;
    // The parent ended, or gave up, without letting CMD go.
    let Some(text) = text.strip_suffix(&[0]) else { return Ok(()) };
    let Some((program, arguments)) = order.command.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).envs(text.split(|byte| *byte == 0).filter_map(variable));
    let error = command.exec();
    report.write_all(error.raw_os_error().unwrap_or_default().to_string().as_bytes())?;
    Err(error)
}

/// From now on this process is killed when its parent ends. Returns false if the parent had ended before.
#[cfg(target_os = "linux")]
fn dies_with(parent: i32) -> io::Result<bool> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(getppid() == Pid::from_raw(parent))
}

/// Elsewhere the operating system has no such signal.
#[cfg(not(target_os = "linux"))]
fn dies_with(parent: i32) -> io::Result<bool> {
    Ok(getppid() == Pid::from_raw(parent))
}

fn variable(text: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    Some((OsStr::from_bytes(text.get(..at)?), OsStr::from_bytes(text.get(at + 1..)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_travels_through_arguments_unchanged() {
        let command = ["sh", "-c", "--outlive", ""].map(OsString::from).to_vec();
        let order = Order { environment: 7, error: 9, parent: 4711, outlive: true, command };
        let arguments = order.arguments();
        assert_eq!(Order::parse(arguments.clone().into_iter()), Some(order));
        assert_eq!(Order::parse(arguments.into_iter().take(4)), None, "no command");
    }

    #[test]
    fn variable_may_hold_an_equals_sign() {
        assert_eq!(variable(b"A=b=c"), Some((OsStr::new("A"), OsStr::new("b=c"))));
        assert_eq!(variable(b"A="), Some((OsStr::new("A"), OsStr::new(""))));
        assert_eq!(variable(b""), None);
    }
}
