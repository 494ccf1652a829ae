//! The live instances of a name as a stream of changes, as Python sees it. Python asks for one change at a time, so that a
//! reader that is slow has no queue.

use std::sync::Arc;

use pyo3::prelude::*;
use tokio::sync::{Mutex, watch};

use crate::{
    convert::Foreign,
    events::{Event, Outcome},
    owned::Owned,
    runtime::Process,
};

/// The changes of a name.
#[pyclass(frozen, module = "musterd._core")]
#[derive(Debug)]
pub(crate) struct Changes {
    inner: Owned<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: &'static Process,
    changes: Arc<Mutex<musterd_client::Changes>>,
    closed: watch::Sender<bool>,
}

impl Changes {
    pub(crate) fn new(process: &'static Process, changes: musterd_client::Changes) -> Self {
        let (changes, closed) = (Arc::new(Mutex::new(changes)), watch::Sender::new(false));
        Self { inner: Owned::new(Inner { process, changes, closed }) }
    }
}

#[pymethods]
impl Changes {
    /// Waits for the next change; the outcome is an event. It has none when the stream was closed.
    fn next(&self, token: u64) -> PyResult<()> {
        let inner = self.inner.get().ok_or_else(|| Foreign::new_err(()))?;
        let (process, changes, mut closed) = (inner.process, Arc::clone(&inner.changes), inner.closed.subscribe());
        process.spawn(async move {
            let next = async { changes.lock().await.next().await };
            let outcome = tokio::select! {
                _ = closed.wait_for(|closed| *closed) => Outcome::Changed(None),
                change = next => match change {
                    Some(Err(none)) => Outcome::NoTarget(none),
                    Some(Ok(change)) => Outcome::Changed(Some(change)),
                    None => Outcome::Changed(None),
                },
            };
            process.events.push(Event::Done(token, outcome));
        });
        Ok(())
    }

    /// Ends the stream.
    fn close(&self) {
        if let Some(inner) = self.inner.get() {
            inner.closed.send_replace(true);
        }
    }
}
