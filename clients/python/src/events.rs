//! What native threads tell Python: a queue, and a socket pair of which one end is readable while the queue holds events.
//!
//! Both ends stay open for the life of the process, so that no write ever fails for want of a reader, also while the
//! interpreter ends.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::{Mutex, MutexGuard, PoisonError},
};

use musterd_client::{Error, NoTarget, Resolved, State, TargetChange};
use pyo3::{IntoPyObjectExt as _, prelude::*};

use crate::convert;

/// From so many events on, those are left out that Python can read from the registration itself: that a lease is held or
/// doubtful. The number of the others is limited by what the application has called and by the TTLs of its leases.
const MANY: usize = 100_000;

/// The outcome of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Resolved(Box<Resolved>),
    Changed(Option<TargetChange>),
    Failed(Error),
    NoTarget(NoTarget),
}

/// One event, for the caller or registration that the token names.
#[derive(Debug)]
pub(crate) enum Event {
    /// A call has ended.
    Done(u64, Outcome),
    /// A registration has entered a state.
    State(u64, State),
    /// Another daemon takes the beats of a client.
    Daemon(u64, String),
    /// An application makes no progress, or makes progress again.
    Stalled(u64, bool),
}

impl Event {
    /// Whether it can be read from the registration as well.
    fn is_repeated(&self) -> bool {
        matches!(self, Self::State(_, State::Held(_) | State::Doubtful(_) | State::Pending) | Self::Stalled(..))
    }

    pub(crate) fn into_python(self, py: Python<'_>) -> PyResult<(u64, &'static str, Py<PyAny>)> {
        let (token, kind, value) = match self {
            Self::Done(token, Outcome::Done) => (token, "done", py.None()),
            Self::Done(token, Outcome::Resolved(resolved)) => (token, "done", convert::resolved(py, *resolved)?),
            Self::Done(token, Outcome::Changed(change)) => (token, "done", convert::changed(py, change)?),
            Self::Done(token, Outcome::Failed(error)) => (token, "failed", convert::failure(py, &error)?),
            Self::Done(token, Outcome::NoTarget(none)) => (token, "failed", convert::no_target(py, &none)?),
            Self::State(token, state) => (token, "state", convert::state(py, &state)?),
            Self::Daemon(token, daemon) => (token, "daemon", daemon.into_py_any(py)?),
            Self::Stalled(token, stalled) => (token, "stalled", stalled.into_py_any(py)?),
        };
        Ok((token, kind, value))
    }
}

/// The events that wait for Python.
#[derive(Debug)]
pub(crate) struct Events {
    waiting: Mutex<VecDeque<Event>>,
    reader: UnixStream,
    writer: UnixStream,
}

impl Events {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        Ok(Self { waiting: Mutex::default(), reader, writer })
    }

    /// Adds an event.
    pub(crate) fn push(&self, event: Event) {
        let mut waiting = self.waiting();
        if waiting.len() >= MANY && event.is_repeated() {
            return;
        }
        waiting.push_back(event);
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            // A buffer that is full has bytes to read.
            let _ = (&self.writer).write(&[0]);
        }
    }

    /// Takes all events.
    pub(crate) fn take(&self) -> VecDeque<Event> {
        std::mem::take(&mut *self.waiting())
    }

    pub(crate) fn fileno(&self) -> i32 {
        self.reader.as_raw_fd()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Result<(), Error>> for Outcome {
    fn from(outcome: Result<(), Error>) -> Self {
        outcome.map_or_else(Self::Failed, |()| Self::Done)
    }
}

impl From<Result<Resolved, Error>> for Outcome {
    fn from(outcome: Result<Resolved, Error>) -> Self {
        outcome.map_or_else(Self::Failed, |resolved| Self::Resolved(Box::new(resolved)))
    }
}

impl From<Result<(), NoTarget>> for Outcome {
    fn from(outcome: Result<(), NoTarget>) -> Self {
        outcome.map_or_else(Self::NoTarget, |()| Self::Done)
    }
}
