//! A registration, as Python sees it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use musterd_client::{State, Status, Update};
use pyo3::{IntoPyObjectExt as _, prelude::*};
use uuid::Uuid;

use crate::{
    convert::{self, Foreign},
    events::Event,
    owned::Owned,
    progress::Progress,
    runtime::Process,
};

/// A registration. Dropping it gives the lease back; in a child of the process that made it, it does nothing.
#[pyclass(frozen, module = "musterd._core")]
#[derive(Debug)]
pub(crate) struct Registration {
    inner: Owned<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: &'static Process,
    registration: Arc<musterd_client::Registration>,
    progress: Arc<Progress>,
}

impl Registration {
    pub(crate) fn new(
        process: &'static Process,
        registration: Arc<musterd_client::Registration>,
        progress: Arc<Progress>,
    ) -> Self {
        Self { inner: Owned::new(Inner { process, registration, progress }) }
    }

    fn inner(&self) -> PyResult<&Inner> {
        self.inner.get().ok_or_else(|| Foreign::new_err(()))
    }
}

#[pymethods]
impl Registration {
    /// The lease id if at least so many seconds are left of the lease; 0 otherwise.
    fn require(&self, remaining: f64) -> PyResult<u64> {
        let registration = &self.inner()?.registration;
        let held = if remaining > 0.0 {
            registration.require_for(convert::seconds("remaining", remaining)?)
        } else {
            registration.require()
        };
        Ok(held.unwrap_or_default())
    }

    /// The lease that was lost, and why; for a caller that `require` has refused.
    fn lost(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let lost = self.inner()?.registration.require().err();
        lost.map(|lost| convert::lost(lost).into_py_any(py)).transpose()
    }

    /// The state: its name, and the lease or the loss that belongs to it.
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let registration = &self.inner()?.registration;
        let state = registration.state();
        // The clock is ahead of the thread that watches it.
        match (state, registration.require()) {
            (State::Held(_) | State::Doubtful(_), Err(lost)) => convert::state(py, &State::Lost(lost)),
            _ => convert::state(py, &state),
        }
    }

    /// The seconds that are left of the lease.
    fn remaining(&self) -> PyResult<f64> {
        Ok(self.inner()?.registration.remaining().as_secs_f64())
    }

    /// Why the registry cannot be reached or refuses the registration.
    fn trouble(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let trouble = self.inner()?.registration.trouble();
        trouble.map(|error| convert::failure(py, &error)).transpose()
    }

    /// The instance id.
    fn instance_id(&self) -> PyResult<Uuid> {
        Ok(self.inner()?.registration.instance_id())
    }

    /// The address of this machine in the connection to the daemon.
    fn source(&self) -> PyResult<Option<String>> {
        Ok(self.inner()?.registration.source().map(|ip| ip.to_string()))
    }

    /// Changes the status, and says why; the outcome is an event.
    fn set_status(&self, token: u64, status: &str, reason: String) -> PyResult<()> {
        let (inner, status) = (self.inner()?, convert::status(status)?);
        inner.progress.want(status);
        let (process, registration) = (inner.process, Arc::clone(&inner.registration));
        process.spawn(async move {
            let outcome = registration.set_status_because(status, &reason).await;
            process.events.push(Event::Done(token, outcome.into()));
        });
        Ok(())
    }

    /// Changes attributes; what is `None` stays as it is. The outcome is an event.
    fn update(
        &self,
        token: u64,
        labels: Option<BTreeMap<String, String>>,
        version: Option<String>,
        actor_name: Option<String>,
    ) -> PyResult<()> {
        let inner = self.inner()?;
        let mut update = version.into_iter().fold(Update::new(), Update::version);
        update = actor_name.into_iter().fold(update, Update::actor_name);
        update = labels.into_iter().fold(update, Update::labels);
        let (process, registration) = (inner.process, Arc::clone(&inner.registration));
        process.spawn(async move {
            let outcome = registration.update(update).await;
            process.events.push(Event::Done(token, outcome.into()));
        });
        Ok(())
    }

    /// Drains for so many seconds, then gives the lease back; the outcome is an event.
    fn leave(&self, token: u64, drain: f64) -> PyResult<()> {
        let (inner, drain) = (self.inner()?, convert::seconds("drain", drain)?);
        if drain > Duration::ZERO {
            inner.progress.want(Status::Draining);
        }
        let (process, registration) = (inner.process, Arc::clone(&inner.registration));
        process.spawn(async move {
            let outcome = registration.leave(drain).await;
            process.events.push(Event::Done(token, outcome.into()));
        });
        Ok(())
    }

    /// The application has made progress.
    fn tick(&self) -> PyResult<()> {
        self.inner()?.progress.tick();
        Ok(())
    }
}
