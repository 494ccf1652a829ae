//! Ends the process natively, for an application that must not act without its lease: also while Python code or a library
//! holds the GIL.

use std::{thread, time::Duration};

use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

/// Sends SIGTERM to this process, and SIGKILL after `grace`.
pub(crate) fn begin(grace: Duration) {
    let me = Pid::this();
    let finish = move || {
        // The kernel may deliver the signal to the thread that sends it. It would not wake the main thread then, which is
        // the one that runs Python's handlers.
        let _ = SigSet::all().thread_block();
        let _ = kill(me, Signal::SIGTERM);
        thread::sleep(grace);
        let _ = kill(me, Signal::SIGKILL);
    };
    if thread::Builder::new().name("musterd-exit".to_owned()).spawn(finish).is_err() {
        // Without a thread that waits there is no grace.
        let _ = kill(me, Signal::SIGKILL);
    }
}
