//! What signals do to the daemon.
//!
//! | signal | effect |
//! |---|---|
//! | SIGTERM, SIGINT, SIGQUIT | the first asks for a graceful shutdown, the second aborts everything |
//! | SIGHUP | files that settings were read from are read again |
//! | SIGUSR1, SIGUSR2, SIGALRM, SIGXFSZ | none: by default they would end the process where it is |
//!
//! Each ignored signal has a handler rather than `SIG_IGN`, because that would be inherited by the private PostgreSQL.
//! SIGPIPE is ignored by Rust's runtime. SIGTSTP and SIGCONT keep their defaults: a daemon on a terminal can be suspended,
//! and what it missed meanwhile is found out as after any other pause.

use std::{
    error::Error,
    io,
    task::{Context, Poll},
};

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

use super::{reason::Reason, reload::Reload, tasks::Lifecycle};

/// All signals that have a handler.
const CAUGHT: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGXFSZ,
];

impl Lifecycle {
    /// Calls `reload` at each SIGHUP, in the order of these calls, and logs under the name `what` what came of it.
    ///
    /// It runs on a thread of the runtime: it may read a small file, and tells others of the new value without waiting.
    pub fn on_reload<E: Error>(
        &self,
        what: &'static str,
        reload: impl Fn() -> Result<Reload, E> + Send + Sync + 'static,
    ) {
        self.inner.reloaders.add(what, reload);
    }

    /// From now on signals have the effects of the table above.
    ///
    /// # Errors
    ///
    /// The operating system refused a handler.
    pub fn watch_signals(&self) -> io::Result<()> {
        let caught = CAUGHT.map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?)));
        let mut caught: Vec<_> = caught.into_iter().collect::<io::Result<_>>()?;
        let (lifecycle, done) = (self.clone(), self.inner.immediate.clone());
        self.inner.signals.spawn(async move {
            let mut next = async || std::future::poll_fn(|context| poll_next(&mut caught, context)).await;
            while let Some(signal) = done.run_until_cancelled(next()).await {
                lifecycle.received(signal);
            }
        });
        Ok(())
    }

    fn received(&self, signal: Signal) {
        let name = signal.as_str();
        match signal {
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT if !self.inner.stopping.is_cancelled() => {
                self.shut_down(Reason::Signal(name));
            }
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => {
                tracing::warn!(signal = name, "second signal, stopping at once");
                self.abort_all();
            }
            Signal::SIGHUP => self.inner.reloaders.run(),
            _ => tracing::info!(signal = name, "signal ignored"),
        }
    }
}

fn poll_next(caught: &mut [(Signal, unix::Signal)], context: &mut Context<'_>) -> Poll<Signal> {
    let ready = caught.iter_mut().find_map(|(signal, stream)| stream.poll_recv(context).is_ready().then_some(*signal));
    ready.map_or(Poll::Pending, Poll::Ready)
}
