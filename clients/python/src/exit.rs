//! Ends the process natively, for an application that must not act without its lease: also while Python code or a library
//! holds the GIL.

use std::{thread, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Sends SIGTERM to this process, and SIGKILL after `grace`.
pub(crate) fn begin(grace: Duration) {
    let me = Pid::this();
    let finish = move || {
        thread::sleep(grace);
        let _ = kill(me, Signal::SIGKILL);
    };
    let watchdog = thread::Builder::new().name("musterd-exit".to_owned()).spawn(finish);
    // Without the thread that waits there is no grace.
    let _ = kill(me, if watchdog.is_ok() { Signal::SIGTERM } else { Signal::SIGKILL });
}
