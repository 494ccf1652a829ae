//! Signals on their way to the command.
//!
//! A signal that was ignored when this process started (`nohup`, a shell's background job) stays ignored, and so is
//! ignored by the command, as if it had been started without us: a handler would turn it into the default, which is to
//! die, in the command. Where the operating system does not tell which are ignored (other than Linux), all are caught.
//!
//! What a key press on the terminal sends (SIGINT, SIGQUIT) goes to the whole foreground group, so the command got it
//! already; a second one means "at once" to many programs. A signal does not say where it came from; whether this process
//! is in the foreground is the best guess there is. `kill -INT` to a supervisor in the foreground is thereby not passed on.

use std::{fs, io, task::Poll};

use nix::{
    sys::signal::Signal,
    unistd::{getpgrp, tcgetpgrp},
};
use tokio::signal::unix::{self, SignalKind};

/// The signals that are passed on.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The signals this process receives instead of dying of them.
pub(crate) struct Signals {
    caught: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    /// Takes over the signals that are passed on, except for those that are ignored.
    pub(crate) fn catch() -> io::Result<Self> {
        let ignored = fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_mask(&status));
        let wanted = PASSED_ON.into_iter().filter(|&signal| ignored >> (signal as i32 - 1) & 1 == 0);
        let caught = wanted.map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?)));
        Ok(Self { caught: caught.collect::<io::Result<_>>()? })
    }

    /// The next signal. Waits for ever if there is none.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            let mut caught = self.caught.iter_mut();
            let ready = caught.find_map(|(signal, stream)| stream.poll_recv(context).is_ready().then_some(*signal));
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The mask of ignored signals in the text of `/proc/self/status`; bit 0 is signal 1.
fn ignored_mask(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether the command has still to be told.
pub(crate) fn concerns_the_command(signal: Signal) -> bool {
    !(matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && is_foreground())
}

/// Whether this process belongs to the foreground group of its terminal. Without a terminal: no.
fn is_foreground() -> bool {
    fs::File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tmusterd\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t00\n";
        assert_eq!(ignored_mask(status), 0x1001);
        assert_eq!(ignored_mask("Name:\tx\n"), 0);
    }

    #[test]
    fn only_signals_of_the_keyboard_may_be_held_back() {
        assert!(concerns_the_command(Signal::SIGTERM));
        assert!(concerns_the_command(Signal::SIGHUP));
        assert!(concerns_the_command(Signal::SIGUSR1));
    }
}
