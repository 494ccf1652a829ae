//! Drains an instance that makes no progress: its beats go on from native threads, so a process that hangs for ever would
//! otherwise stay alive in the registry.

use std::{
    sync::{
        Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use musterd_client::{Registration, Status};
use tokio::time::sleep;

use crate::events::Event;
use crate::runtime::Process;

/// The longest and the shortest pause between two looks at the latest tick.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The progress of one instance.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    ticked_ms: AtomicU64,
    /// The status that the application wants.
    wanted: Mutex<Status>,
}

impl Progress {
    pub(crate) fn new(status: Status) -> Self {
        Self { began: Instant::now(), ticked_ms: AtomicU64::new(0), wanted: Mutex::new(status) }
    }

    /// The application has made progress.
    pub(crate) fn tick(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ticked_ms.store(ms, Ordering::Relaxed);
    }

    /// The application wants this status.
    pub(crate) fn want(&self, status: Status) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn wanted(&self) -> Status {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_for(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.ticked_ms.load(Ordering::Relaxed)))
    }
}

/// Sets an instance DRAINING when its application has not ticked for `limit`, and ALIVE when it ticks again, until the
/// registration is gone. A change that no daemon takes is tried again; a lease that follows a loss meanwhile is drained too.
pub(crate) async fn watch(
    process: &'static Process,
    token: u64,
    registration: Weak<Registration>,
    progress: Weak<Progress>,
    limit: Duration,
) {
    let pause = (limit / 8).clamp(PAUSE_MIN, PAUSE_MAX);
    // The lease that was drained; it stays after a loss, so that the end of the stall is told.
    let mut drained = None;
    loop {
        sleep(pause).await;
        let (Some(registration), Some(progress)) = (registration.upgrade(), progress.upgrade()) else { return };
        if progress.wanted() != Status::Alive {
            drained = None;
            continue;
        }
        let Some(lease) = registration.lease().map(|lease| lease.lease_id) else { continue };
        let stalls = progress.idle_for() > limit;
        let was_told = drained.is_some();
        let (change, reason) = match drained {
            Some(_) if !stalls => (Status::Alive, String::new()),
            Some(of) if of == lease => continue,
            None if !stalls => continue,
            _ => (Status::Draining, format!("Python has made no progress for {} s", limit.as_secs_f64())),
        };
        if registration.set_status_of_lease_because(change, &reason).await.is_ok() {
            drained = stalls.then_some(lease);
            if was_told != stalls {
                process.events.push(Event::Stalled(token, stalls));
            }
        }
    }
}
