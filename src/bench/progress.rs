//! One line on standard error that says how far it is, where that is a terminal; and the signals that end the load early.
//!
//! The line is for people: a log or a pipe gets none of it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{Instant, interval},
};

use crate::terminal::{cursor::has_cursor, output};

/// How often the line is written.
const PERIOD: Duration = Duration::from_millis(250);

/// Whether the user wants the end. Cheap to clone and to ask.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for SIGINT (Ctrl-C), SIGTERM and SIGHUP: the first asks for the end of the load, the second for the end of
    /// the program.
    pub(super) fn on_signals() -> Self {
        let stop = Self::default();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let told = stop.clone();
            tokio::spawn(async move {
                let Ok(mut signals) = signal(kind) else { return };
                while signals.recv().await.is_some() {
                    if told.0.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                    output::note("ending; what was registered is deregistered (interrupt again to leave it)");
                }
            });
        }
        stop
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A line that counts, as long as it lives.
#[derive(Debug)]
pub(super) struct Progress {
    done: Arc<AtomicU64>,
    line: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows `what`, the count, and how much of `total` (if known) that is.
    pub(super) fn start(what: &'static str, total: Option<u64>) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&done);
        let line = (io::stderr().is_terminal() && has_cursor()).then(|| tokio::spawn(show(what, total, counted)));
        Self { done, line }
    }

    /// What to count with, from any task.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            line.abort();
            write("");
        }
    }
}

async fn show(what: &'static str, total: Option<u64>, done: Arc<AtomicU64>) {
    let started = Instant::now();
    let mut tick = interval(PERIOD);
    loop {
        tick.tick().await;
        write(&line(what, done.load(Ordering::Relaxed), total, started.elapsed()));
    }
}

fn line(what: &str, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
    format!("{what}: {done}{total}, {:.0} s", elapsed.as_secs_f64())
}

/// Replaces the line. There is nowhere to report a failure to.
fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "\r\x1b[K{text}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_line_has_the_total_if_there_is_one() {
        assert_eq!(line("registering", 5, Some(10), Duration::from_secs(2)), "registering: 5 of 10, 2 s");
        assert_eq!(line("beating", 5, None, Duration::ZERO), "beating: 5, 0 s");
    }
}
