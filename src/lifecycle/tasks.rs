//! The tasks of the daemon: starting them under names, noticing their end, and ending them stage by stage.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{reason::Reason, reload::Reloaders, stage::Stage, watchdog::Watchdog};
use crate::telemetry;

/// How long all stages together may take: 9 s, which leaves 1 s of the promised 10 for aborting and exiting.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(9);

/// How long an aborted stage is waited for. Aborting drops the tasks at their next await, which is at once unless one
/// of them blocks its thread.
const ABORT_WAIT: Duration = Duration::from_millis(100);

/// Starts, watches and ends the tasks of the daemon. Clones share everything.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    pub(super) inner: Arc<Inner>,
    /// What each step of its tasks is run by; `None`: by nothing else.
    scope: Option<Scope>,
}

/// Runs the steps of tasks, for example under the name of a registry: it calls what it is given, once.
#[derive(Clone)]
pub struct Scope(Arc<RunStep>);

/// Runs a step that it is given.
type RunStep = dyn Fn(&mut dyn FnMut()) + Send + Sync;

impl Scope {
    /// Runs each step by `run`.
    pub fn new(run: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        Self(Arc::new(run))
    }

    /// Runs one step.
    fn step<T>(&self, step: impl FnOnce() -> T) -> Option<T> {
        let (mut step, mut done) = (Some(step), None);
        (self.0)(&mut || done = step.take().map(|step| step()));
        done
    }

    /// A task whose every step is run by this.
    pub fn task<F: Future + Send>(self, task: F) -> impl Future<Output = F::Output> + Send {
        let mut task = Box::pin(task);
        poll_fn(move |context| self.step(|| task.as_mut().poll(context)).unwrap_or(Poll::Pending))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) stopping: CancellationToken,
    /// Parent of every other token: the second signal.
    pub(super) immediate: CancellationToken,
    stages: [StageState; Stage::ALL.len()],
    asked: OnceLock<(Reason, Instant)>,
    /// A std mutex: held for a few instructions, never across an await.
    running: Mutex<Running>,
    /// The signal handler, which belongs to no stage because it must outlive them all.
    pub(super) signals: TaskTracker,
    pub(super) reloaders: Reloaders,
    watchdog: Arc<Watchdog>,
}

#[derive(Debug)]
struct StageState {
    ending: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

/// The tasks that have not ended, for saying which of them did not end in time.
#[derive(Debug, Default)]
struct Running {
    last_id: u64,
    names: BTreeMap<u64, (Stage, &'static str)>,
}

/// Takes a task off the list of running ones however it ends.
struct Registration {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.inner.running().names.remove(&self.id);
    }
}

/// What a task may return: nothing, or why it failed.
pub trait Ending: Send {
    /// The error and its causes, if it failed.
    fn error(self) -> Option<String>;
}

impl Ending for () {
    fn error(self) -> Option<String> {
        None
    }
}

impl<E: std::error::Error + Send> Ending for Result<(), E> {
    fn error(self) -> Option<String> {
        self.err().map(|error| telemetry::chain(&error))
    }
}

/// How a task ended.
enum Outcome<T> {
    Returned(T),
    Panicked(String),
    Aborted,
}

impl Lifecycle {
    /// Makes a lifecycle in which nothing runs.
    #[must_use]
    pub fn new() -> Self {
        let immediate = CancellationToken::new();
        let stages = Stage::ALL.map(|_| StageState {
            ending: immediate.child_token(),
            abort: immediate.child_token(),
            tasks: TaskTracker::new(),
        });
        let inner = Inner {
            stopping: immediate.child_token(),
            immediate,
            stages,
            asked: OnceLock::new(),
            running: Mutex::default(),
            signals: TaskTracker::new(),
            reloaders: Reloaders::default(),
            watchdog: Arc::default(),
        };
        Self { inner: Arc::new(inner), scope: None }
    }

    /// The same, for tasks whose every step is run by `scope`.
    #[must_use]
    pub fn within(&self, scope: Scope) -> Self {
        Self { inner: Arc::clone(&self.inner), scope: Some(scope) }
    }

    /// Returns the token that is cancelled as soon as a shutdown is asked for: take no new work.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// Returns the token of a stage, which is cancelled when the turn of the stage has come. Its tasks then finish what
    /// they have, and return.
    #[must_use]
    pub fn token(&self, stage: Stage) -> CancellationToken {
        self.inner.stage(stage).ending.clone()
    }

    /// Runs a task without which the daemon must not go on: if it returns, fails or panics before a shutdown was asked
    /// for, the daemon shuts down and exits with 1.
    pub fn spawn_essential<F>(&self, stage: Stage, name: &'static str, task: F)
    where
        F: Future<Output: Ending> + Send + 'static,
    {
        let lifecycle = self.clone();
        self.spawn(stage, name, task, move |outcome| {
            lifecycle.ended(match outcome {
                Outcome::Returned(ending) => Reason::Ended { task: name, error: ending.error() },
                Outcome::Panicked(message) => Reason::Panicked { task: name, message },
                Outcome::Aborted => return,
            });
        });
    }

    /// Runs a task that ends when it has done what it is for. If it panics, the daemon shuts down and exits with 1.
    pub fn spawn_background<F>(&self, stage: Stage, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let lifecycle = self.clone();
        self.spawn(stage, name, task, move |outcome| {
            if let Outcome::Panicked(message) = outcome {
                lifecycle.ended(Reason::Panicked { task: name, message });
            }
        });
    }

    /// A task ended by itself. During a shutdown that is expected, unless it failed.
    fn ended(&self, reason: Reason) {
        let failed = !matches!(&reason, Reason::Ended { error: None, .. });
        if !self.shut_down(reason.clone()) && failed {
            tracing::warn!(%reason, "task failed during shutdown");
        }
    }

    fn spawn<F, D>(&self, stage: Stage, name: &'static str, task: F, done: D)
    where
        F: Future + Send + 'static,
        F::Output: Send,
        D: FnOnce(Outcome<F::Output>) + Send + 'static,
    {
        match self.scope.clone() {
            None => self.spawn_bare(stage, name, task, done),
            Some(scope) => self.spawn_bare(stage, name, scope.task(task), done),
        }
    }

    fn spawn_bare<F, D>(&self, stage: Stage, name: &'static str, task: F, done: D)
    where
        F: Future + Send + 'static,
        F::Output: Send,
        D: FnOnce(Outcome<F::Output>) + Send + 'static,
    {
        let registration = self.register(stage, name);
        let state = self.inner.stage(stage);
        let abort = state.abort.clone();
        state.tasks.spawn(async move {
            // Unwind safety: a task that panicked is never polled again, and what it shares with others is guarded by
            // their own types.
            let outcome = match abort.run_until_cancelled_owned(AssertUnwindSafe(task).catch_unwind()).await {
                Some(Ok(output)) => Outcome::Returned(output),
                Some(Err(panic)) => Outcome::Panicked(panic_message(panic.as_ref())),
                None => Outcome::Aborted,
            };
            drop(registration);
            done(outcome);
        });
    }

    fn register(&self, stage: Stage, name: &'static str) -> Registration {
        let mut running = self.inner.running();
        running.last_id += 1;
        let id = running.last_id;
        running.names.insert(id, (stage, name));
        Registration { inner: Arc::clone(&self.inner), id }
    }

    /// Asks for a graceful shutdown. Returns false if one was asked for before, whose reason then stands.
    pub fn shut_down(&self, reason: Reason) -> bool {
        let now = Instant::now();
        let first = self.inner.asked.set((reason.clone(), now)).is_ok();
        if first && reason.exit_code() == 0 {
            tracing::info!(%reason, "shutting down");
        } else if first {
            tracing::error!(%reason, "shutting down");
        }
        self.inner.watchdog.asked(now);
        self.inner.stopping.cancel();
        first
    }

    /// Aborts every task now. For the second signal.
    pub fn abort_all(&self) {
        self.shut_down(Reason::Requested("aborted"));
        self.inner.immediate.cancel();
    }

    /// Waits until a shutdown is asked for, and returns why.
    pub async fn run_until_shutdown(&self) -> Reason {
        self.inner.stopping.cancelled().await;
        match self.inner.asked.get() {
            Some((reason, _)) => reason.clone(),
            // Reached only if a task cancelled the token instead of calling `shut_down`.
            None => Reason::Requested("stopping token cancelled"),
        }
    }

    /// Returns why a shutdown was asked for, if one was.
    #[must_use]
    pub fn asked(&self) -> Option<Reason> {
        self.inner.asked.get().map(|(reason, _)| reason.clone())
    }

    /// Ends a stage: cancels its token and waits for its tasks, for at most `within` and never beyond
    /// [`SHUTDOWN_LIMIT`] after the shutdown was asked for; then aborts those that are left.
    ///
    /// Returns true if all tasks ended by themselves. Ending a stage twice is harmless.
    pub async fn end(&self, stage: Stage, within: Duration) -> bool {
        self.shut_down(Reason::Requested("a stage was ended"));
        let state = self.inner.stage(stage);
        state.ending.cancel();
        state.tasks.close();
        if timeout(within.min(self.remaining()), state.tasks.wait()).await.is_ok() {
            return !self.inner.immediate.is_cancelled();
        }
        let late: Vec<_> = self.inner.running_in(stage);
        tracing::warn!(?stage, ?late, "tasks did not end in time, aborting them");
        state.abort.cancel();
        if timeout(ABORT_WAIT, state.tasks.wait()).await.is_err() {
            tracing::error!(?stage, late = ?self.inner.running_in(stage), "tasks block their threads");
        }
        false
    }

    /// Ends all stages in order, each within its [`Stage::budget`] and all within `deadline`, then the signal handler.
    ///
    /// Returns true if all tasks ended by themselves. Stages that were ended before cost nothing.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let started = Instant::now();
        let mut clean = true;
        for stage in Stage::ALL {
            let left = deadline.saturating_sub(started.elapsed());
            clean &= self.end(stage, stage.budget().min(left)).await;
        }
        self.inner.immediate.cancel();
        self.inner.signals.close();
        let signals_ended = timeout(ABORT_WAIT, self.inner.signals.wait()).await;
        clean && signals_ended.is_ok()
    }

    /// Starts a thread that exits the process with code 1 at [`WATCHDOG_LIMIT`](super::WATCHDOG_LIMIT) after a shutdown was
    /// asked for.
    ///
    /// Only the composition root calls this: it is what keeps "exit within 10 s, always" true when a thread of the
    /// runtime is stuck.
    ///
    /// # Errors
    ///
    /// The operating system refused the thread.
    pub fn arm_watchdog(&self) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        self.inner.watchdog.arm(move || Stage::ALL.map(|stage| inner.running_in(stage)).concat())?;
        // After that, so that a shutdown that is asked for in between is not missed.
        if let Some((_, at)) = self.inner.asked.get() {
            self.inner.watchdog.asked(*at);
        }
        Ok(())
    }

    /// Adds what the watchdog does before it exits the process, because nothing else will: it must not block.
    pub fn on_watchdog_exit(&self, act: impl Fn() + Send + 'static) {
        self.inner.watchdog.on_exit(act);
    }

    fn remaining(&self) -> Duration {
        self.inner.asked.get().map_or(SHUTDOWN_LIMIT, |(_, at)| SHUTDOWN_LIMIT.saturating_sub(at.elapsed()))
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn stage(&self, stage: Stage) -> &StageState {
        let [readiness, servers, engine, store] = &self.stages;
        match stage {
            Stage::Readiness => readiness,
            Stage::Servers => servers,
            Stage::Engine => engine,
            Stage::Store => store,
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Nothing panics while the lock is held, and if it did the map would still be whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn running_in(&self, stage: Stage) -> Vec<&'static str> {
        self.running().names.values().filter(|(of, _)| *of == stage).map(|(_, name)| *name).collect()
    }
}

/// What a panic says.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
