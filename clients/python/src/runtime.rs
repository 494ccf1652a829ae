//! The runtime of this process: one thread for calls and watches. Beats have a thread of their own in `musterd-client`.
//!
//! It is made at the first use and never dropped. A child process makes its own at its first use; it leaks that of its
//! parent, whose threads it does not have.

use std::{
    cell::RefCell,
    future, process,
    sync::{Mutex, PoisonError},
    thread,
};

use musterd_client::Fork;
use pyo3::{exceptions::PyOSError, prelude::*};
use tokio::runtime::{Builder, Handle};

use crate::events::Events;

/// What a process has one of.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    runtime: Handle,
    pub(crate) events: Events,
}

/// Locked by functions that Python calls only, which hold the GIL: so it is free whenever Python forks.
static CURRENT: Mutex<Option<&'static Process>> = Mutex::new(None);

impl Process {
    /// That of this process.
    pub(crate) fn current() -> PyResult<&'static Self> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = current.filter(|process| process.pid == process::id()) {
            return Ok(process);
        }
        let process: &'static Self = Box::leak(Box::new(Self::start()?));
        *current = Some(process);
        Ok(process)
    }

    fn start() -> PyResult<Self> {
        let refused = |error: std::io::Error| {
            PyOSError::new_err(format!("the operating system refused a thread for the calls of musterd: {error}"))
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (handle, events) = (runtime.handle().clone(), Events::new().map_err(refused)?);
        let life = move || runtime.block_on(future::pending::<()>());
        thread::Builder::new().name("musterd-calls".to_owned()).spawn(life).map_err(refused)?;
        Ok(Self { pid: process::id(), runtime: handle, events })
    }

    /// Runs a task on the runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(task));
    }

    /// The runtime, for code that spawns tasks itself.
    pub(crate) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }
}

/// The file descriptor that is readable when there are events.
#[pyfunction]
pub(crate) fn fileno() -> PyResult<i32> {
    Ok(Process::current()?.events.fileno())
}

/// All events that wait, as tuples of token, kind and value.
#[pyfunction]
pub(crate) fn drain(py: Python<'_>) -> PyResult<Vec<(u64, &'static str, Py<PyAny>)>> {
    let events = Process::current()?.events.take();
    events.into_iter().map(|event| event.into_python(py)).collect()
}

thread_local! {
    /// The fork that this thread is about to make.
    static FORK: RefCell<Option<Fork>> = const { RefCell::new(None) };
}

/// Before a fork: waits until no connection is being opened or closed, which takes no GIL.
#[pyfunction]
pub(crate) fn before_fork() {
    FORK.set(Some(Fork::prepare()));
}

/// After a fork, in the parent.
#[pyfunction]
pub(crate) fn after_fork_in_parent() {
    FORK.set(None);
}

/// After a fork, in the child: closes what it has inherited of its parent's connections.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    if let Some(fork) = FORK.take() {
        fork.close_inherited_sockets();
    }
}
