//! The thread that keeps "exits within 10 s" true when the runtime cannot.
//!
//! It is started with the daemon, not when the daemon leaves: by then the operating system may refuse another thread. And
//! it is no task, because a runtime whose threads are stuck runs none.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::telemetry;

/// When the watchdog exits the process, counted from the request to shut down.
pub const WATCHDOG_LIMIT: Duration = Duration::from_millis(9_400);

type LastAct = Box<dyn Fn() + Send>;

/// What the thread is told, and what it does last.
#[derive(Default)]
pub(super) struct Watchdog {
    /// Takes the moment at which a shutdown was asked for.
    asked: Mutex<Option<SyncSender<Instant>>>,
    last_acts: Mutex<Vec<LastAct>>,
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").finish_non_exhaustive()
    }
}

impl Watchdog {
    /// A shutdown was asked for at this moment.
    pub(super) fn asked(&self, at: Instant) {
        if let Some(asked) = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Room for one; the thread waits for nothing else.
            let _ = asked.try_send(at);
        }
    }

    fn act(&self) {
        for act in self.last_acts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            act();
        }
    }

    /// Starts the thread, which names the tasks that are still running in its last message.
    ///
    /// # Errors
    ///
    /// The operating system refused the thread.
    pub(super) fn arm(self: &Arc<Self>, running: impl Fn() -> Vec<&'static str> + Send + 'static) -> io::Result<()> {
        let (sender, asked) = sync_channel(1);
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let watchdog = Arc::clone(self);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let Ok(at) = asked.recv() else { return };
            thread::sleep(WATCHDOG_LIMIT.saturating_sub(at.elapsed()));
            tracing::error!(running = ?running(), "shutdown is stuck, exiting");
            watchdog.act();
            telemetry::flush();
            std::process::exit(1);
        })?;
        Ok(())
    }

    /// Adds what is done before the process exits.
    pub(super) fn on_exit(&self, act: impl Fn() + Send + 'static) {
        self.last_acts.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(act));
    }
}
