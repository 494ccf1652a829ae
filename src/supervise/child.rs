//! CMD as the child of this process: held until it may start, signalled, waited for.
//!
//! Waited for here rather than by Tokio, because the first process of a container (process id 1) inherits every orphan in
//! it and has to wait for those as well, or they stay as zombies. The two would take each other's children.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    signal::unix::{self, SignalKind},
};

use super::held::{NAME, Order};

/// The process id that inherits orphans.
const FIRST_PROCESS: u32 = 1;

/// CMD, or the process that will become it.
pub(crate) struct Supervised {
    child: Child,
    pid: Pid,
    /// Tells that some child has ended.
    changes: unix::Signal,
    adopts: bool,
    /// Where the held process waits for its environment; closing it ends that process.
    environment: Option<PipeWriter>,
    error: Option<PipeReader>,
    ended: Option<ExitStatus>,
}

impl Supervised {
    /// Starts the process that will become the command.
    pub(crate) fn hold(command: &[OsString], outlive: bool) -> io::Result<Self> {
        // Before there is a child, so that its end cannot be missed.
        let changes = unix::signal(SignalKind::child())?;
        let (environment, writer) = io::pipe()?;
        let (reader, error) = io::pipe()?;
        inherit(&environment)?;
        inherit(&error)?;
        let parent = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let order = Order {
            environment: environment.as_raw_fd(),
            error: error.as_raw_fd(),
            parent,
            outlive,
            command: command.to_vec(),
        };
        let child = Command::new(own_program()?).arg0(NAME).args(order.arguments()).spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        Ok(Self {
            child,
            pid,
            changes,
            adopts: std::process::id() == FIRST_PROCESS,
            environment: Some(writer),
            error: Some(reader),
            ended: None,
        })
    }

    /// The process id, which is that of the command.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the held process become the command, with these variables in its environment.
    ///
    /// # Errors
    ///
    /// The command cannot be run; or the pipes failed.
    pub(crate) async fn release(&mut self, environment: &[(&str, String)]) -> io::Result<()> {
        let (Some(mut writer), Some(reader)) = (self.environment.take(), self.error.take()) else { return Ok(()) };
        let text: String = environment.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
        // Far less than a pipe holds. A process that has been killed meanwhile is noticed when it is waited for.
        let _ = writer.write_all(text.as_bytes());
        drop(writer);
        let mut number = String::new();
        Receiver::from_owned_fd(reader.into())?.read_to_string(&mut number).await?;
        match number.parse() {
            Ok(number) => Err(io::Error::from_raw_os_error(number)),
            Err(_) => Ok(()),
        }
    }

    /// Signals the command unless it was waited for.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // The id is still its own; it may have ended, which is no error here.
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits until the command ends. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            self.reap()?;
            if let Some(status) = self.ended {
                return Ok(status);
            }
            // One signal may stand for the ends of several.
            self.changes.recv().await;
        }
    }

    /// Waits for what has ended, without blocking.
    fn reap(&mut self) -> io::Result<()> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        while self.adopts {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                // It ended after it was looked at above.
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => {
                    self.ended = Some(ExitStatus::from_raw(code << 8));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    self.ended = Some(ExitStatus::from_raw(signal as i32));
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                // An orphan, also one that ended by a signal that has no name.
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The program that runs, also if its file was replaced since.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn own_program() -> io::Result<std::path::PathBuf> {
    Ok("/proc/self/exe".into())
}

#[cfg(not(target_os = "linux"))]
fn own_program() -> io::Result<std::path::PathBuf> {
    std::env::current_exe()
}

/// Lets the next child have this descriptor. Nothing else is started in between.
fn inherit(descriptor: &impl AsFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}
