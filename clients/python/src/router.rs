//! A router, as Python sees it: picks from the cache without a call.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use musterd_client::{Choice, Instance, RouterSettings};
use pyo3::prelude::*;
use uuid::Uuid;

use crate::{
    changes::Changes,
    convert::{self, Foreign},
    events::Event,
    owned::Owned,
    runtime::Process,
};

/// A router.
#[pyclass(frozen, module = "musterd._core")]
#[derive(Debug)]
pub(crate) struct Router {
    inner: Owned<(&'static Process, musterd_client::Router)>,
}

impl Router {
    pub(crate) fn new(process: &'static Process, client: &musterd_client::Client, settings: RouterSettings) -> Self {
        let router = musterd_client::Router::on(client, settings, process.runtime());
        Self { inner: Owned::new((process, router)) }
    }

    fn inner(&self) -> PyResult<(&'static Process, &musterd_client::Router)> {
        self.inner.get().map(|(process, router)| (*process, router)).ok_or_else(|| Foreign::new_err(()))
    }
}

#[pymethods]
impl Router {
    /// Picks the best instance from the cache: the pick that is asked for most, without its arguments.
    fn pick_best(&self, logical_id: &str) -> PyResult<Target> {
        let (_, router) = self.inner()?;
        match router.pick(logical_id, &Choice::best()) {
            Ok(target) => Ok(Target::picked(target)),
            Err(none) => Err(convert::raise_no_target(&none)),
        }
    }

    /// Picks an instance from the cache.
    #[pyo3(signature = (logical_id, policy, key, near, labels, exclude))]
    fn pick(
        &self,
        logical_id: &str,
        policy: &str,
        key: Option<String>,
        near: Option<String>,
        labels: BTreeMap<String, String>,
        exclude: Vec<Uuid>,
    ) -> PyResult<Target> {
        let (_, router) = self.inner()?;
        let choice = convert::choice(policy, key, near, labels, exclude)?;
        match router.pick(logical_id, &choice) {
            Ok(target) => Ok(Target::picked(target)),
            Err(none) => Err(convert::raise_no_target(&none)),
        }
    }

    /// The live instances of a name, and each change of them.
    fn watch(&self, logical_id: &str) -> PyResult<Changes> {
        let (process, router) = self.inner()?;
        Ok(Changes::new(process, router.changes(logical_id)))
    }

    /// Waits until the instances of a name are known; the outcome is an event.
    fn ready(&self, token: u64, logical_id: String) -> PyResult<()> {
        let (process, router) = self.inner()?;
        let router = router.clone();
        process.spawn(async move {
            let outcome = router.ready(&logical_id).await;
            process.events.push(Event::Done(token, outcome.into()));
        });
        Ok(())
    }

    /// All live instances of a name, the best first.
    fn targets(&self, logical_id: &str) -> PyResult<Vec<Target>> {
        let (_, router) = self.inner()?;
        let targets = router.targets(logical_id).into_iter();
        Ok(targets.map(Target::picked).collect())
    }

    /// The seconds since a daemon confirmed what is known of a name; `None` before its first snapshot.
    fn stale_for(&self, logical_id: &str) -> PyResult<Option<f64>> {
        let (_, router) = self.inner()?;
        Ok(router.stale_for(logical_id).map(|age| age.as_secs_f64()))
    }
}

/// A live instance to call.
#[pyclass(frozen, module = "musterd")]
#[derive(Debug)]
pub(crate) struct Target {
    known: Known,
}

#[derive(Debug)]
enum Known {
    /// By a router, which leaves it out after a failure.
    Picked(Owned<musterd_client::Target>),
    /// By a call.
    Resolved(Box<Instance>),
}

impl Target {
    pub(crate) fn picked(target: musterd_client::Target) -> Self {
        Self { known: Known::Picked(Owned::new(target)) }
    }

    pub(crate) fn of_call(instance: Instance) -> Self {
        Self { known: Known::Resolved(Box::new(instance)) }
    }

    fn instance(&self) -> PyResult<&Instance> {
        match &self.known {
            Known::Picked(target) => target.get().map(|target| target.instance()).ok_or_else(|| Foreign::new_err(())),
            Known::Resolved(instance) => Ok(instance),
        }
    }

    fn host(&self) -> PyResult<String> {
        Ok(match self.instance()?.ip {
            Some(IpAddr::V6(ip)) => format!("[{ip}]"),
            Some(ip) => ip.to_string(),
            None => String::new(),
        })
    }
}

#[pymethods]
impl Target {
    /// The IP address; empty if it is not known.
    #[getter]
    fn ip(&self) -> PyResult<String> {
        Ok(self.instance()?.ip.map(|ip| ip.to_string()).unwrap_or_default())
    }

    /// The port; 0 if it is not known.
    #[getter]
    fn port(&self) -> PyResult<u16> {
        Ok(self.instance()?.port.unwrap_or_default())
    }

    /// `host:port`, with an IPv6 address in brackets.
    #[getter]
    fn address(&self) -> PyResult<String> {
        Ok(format!("{}:{}", self.host()?, self.port()?))
    }

    /// `http://host:port`.
    #[getter]
    fn url(&self) -> PyResult<String> {
        Ok(format!("http://{}", self.address()?))
    }

    /// The instance id.
    #[getter]
    fn instance_id(&self) -> PyResult<Uuid> {
        Ok(self.instance()?.instance_id)
    }

    /// The name under which it registered.
    #[getter]
    fn logical_id(&self) -> PyResult<String> {
        Ok(self.instance()?.logical_id.clone())
    }

    /// Its lease, a fencing token.
    #[getter]
    fn lease_id(&self) -> PyResult<u64> {
        Ok(self.instance()?.lease_id)
    }

    /// Whether it has missed two beats, or its stream of beats broke.
    #[getter]
    fn suspect(&self) -> PyResult<bool> {
        Ok(self.instance()?.suspect)
    }

    /// The node on which it runs; empty if it is not known.
    #[getter]
    fn node_id(&self) -> PyResult<String> {
        Ok(self.instance()?.node_id.clone())
    }

    /// Name of the actor; empty if it has none.
    #[getter]
    fn actor_name(&self) -> PyResult<String> {
        Ok(self.instance()?.actor_name.clone())
    }

    /// Deployment name or base route; empty if it has none.
    #[getter]
    fn serve_route(&self) -> PyResult<String> {
        Ok(self.instance()?.serve_route.clone())
    }

    /// Version of its software; empty if it is not known.
    #[getter]
    fn version(&self) -> PyResult<String> {
        Ok(self.instance()?.version.clone())
    }

    /// Its labels.
    #[getter]
    fn labels(&self) -> PyResult<BTreeMap<String, String>> {
        Ok(self.instance()?.labels.clone())
    }

    /// Why it has its status, in the words of what set it; empty if no reason was given.
    #[getter]
    fn status_reason(&self) -> PyResult<String> {
        Ok(self.instance()?.status_reason.clone())
    }

    /// Since when it has this status and reason, in UTC by the database clock.
    #[getter]
    fn status_since(&self) -> PyResult<Option<SystemTime>> {
        Ok(self.instance()?.status_since)
    }

    /// The lease for the receiver of a call, which refuses a lower one than it has seen: `{"musterd-lease": "4711"}`.
    #[getter]
    fn headers(&self) -> PyResult<BTreeMap<&'static str, String>> {
        Ok(BTreeMap::from([("musterd-lease", self.lease_id()?.to_string())]))
    }

    /// A call to it has failed: its router leaves it out for so many seconds, by default for `exclude_for`, as long as there
    /// is another instance.
    #[pyo3(signature = (for_ = None))]
    fn failed(&self, for_: Option<f64>) -> PyResult<()> {
        let Known::Picked(target) = &self.known else { return Ok(()) };
        let Some(target) = target.get() else { return Ok(()) };
        match for_ {
            Some(time) => target.failed_for(convert::seconds("for_", time)?),
            None => target.failed(),
        }
        Ok(())
    }

    fn __repr__(&self) -> PyResult<String> {
        let instance = self.instance()?;
        let address = self.address()?;
        Ok(format!(
            "<Target {} {} at {address}, lease {}>",
            instance.logical_id, instance.instance_id, instance.lease_id
        ))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(other) = other.cast::<Self>() else { return Ok(false) };
        Ok(self.instance()?.lease_id == other.get().instance()?.lease_id)
    }

    fn __hash__(&self) -> PyResult<u64> {
        self.lease_id()
    }
}
