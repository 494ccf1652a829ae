//! What an instance says of itself, and what its registration does when a lease is lost.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use uuid::Uuid;

use super::state::{Observer, State};
use crate::{
    error::Error,
    model::Status,
    wire::{self, RegisterRequest},
};

/// What to do after a lease was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLost {
    /// Register again. The instance id stays, unless another process has taken it. An instance that named its epoch does
    /// not register again once that epoch has passed.
    #[default]
    Rejoin,
    /// As [`Self::Rejoin`], and an instance that named its epoch goes on in the current one once that epoch has passed.
    RejoinAnyEpoch,
    /// As [`Self::Rejoin`], but only within the epoch: after a rotation, stay without a lease.
    RejoinSameEpoch,
    /// Stay without a lease.
    Stop,
}

/// An instance to register.
#[derive(Clone, Debug)]
#[must_use]
pub struct Register {
    pub(super) logical_id: String,
    pub(super) instance_id: Uuid,
    pub(super) cluster_epoch: Option<Uuid>,
    pub(super) actor_name: String,
    pub(super) serve_route: String,
    pub(super) node_id: String,
    pub(super) ip: Option<IpAddr>,
    /// Whether the address is that of the connection.
    pub(super) finds_ip: bool,
    pub(super) port: u16,
    pub(super) pid: u32,
    pub(super) ttl: Duration,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) version: String,
    pub(super) status: Status,
    pub(super) on_lost: OnLost,
    /// Whether the registry alone ends the lease.
    pub(super) until_told: bool,
    pub(super) observer: Option<Observer>,
}

impl Register {
    /// An instance of this logical id: alive at once, with a TTL of 15 s and a new instance id.
    pub fn new(logical_id: impl Into<String>) -> Self {
        Self {
            logical_id: logical_id.into(),
            instance_id: Uuid::new_v4(),
            cluster_epoch: None,
            actor_name: String::new(),
            serve_route: String::new(),
            node_id: String::new(),
            ip: None,
            finds_ip: false,
            port: 0,
            pid: std::process::id(),
            ttl: Duration::from_secs(15),
            labels: BTreeMap::new(),
            version: String::new(),
            status: Status::Alive,
            on_lost: OnLost::Rejoin,
            until_told: false,
            observer: None,
        }
    }

    /// Where it can be reached.
    pub fn address(mut self, ip: IpAddr, port: u16) -> Self {
        (self.ip, self.port) = (Some(ip), port);
        self
    }

    /// The IP address at which it can be reached.
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// It can be reached at the address that this machine has in its connection to the daemon:
    /// [`Registration::source`](super::Registration::source) tells which one that is.
    pub fn ip_of_connection(mut self) -> Self {
        self.finds_ip = true;
        self
    }

    /// The port at which it can be reached.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Its process id. Default: that of this process.
    pub fn pid(mut self, pid: u32) -> Self {
        self.pid = pid;
        self
    }

    /// How long the lease lives after each beat: 2 s to 300 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The status to begin with: starting or alive.
    pub fn status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// Identifies this incarnation.
    pub fn instance_id(mut self, instance_id: Uuid) -> Self {
        self.instance_id = instance_id;
        self
    }

    /// Registers in this epoch only.
    pub fn cluster_epoch(mut self, cluster_epoch: Uuid) -> Self {
        self.cluster_epoch = Some(cluster_epoch);
        self
    }

    /// Name of the actor.
    pub fn actor_name(mut self, actor_name: impl Into<String>) -> Self {
        self.actor_name = actor_name.into();
        self
    }

    /// Deployment name or base route.
    pub fn serve_route(mut self, serve_route: impl Into<String>) -> Self {
        self.serve_route = serve_route.into();
        self
    }

    /// Node on which it runs.
    pub fn node(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = node_id.into();
        self
    }

    /// A label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Version of the software.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// What to do after a lease was lost.
    pub fn on_lost(mut self, on_lost: OnLost) -> Self {
        self.on_lost = on_lost;
        self
    }

    /// The lease is kept until the registry ends it, also if no beat was acknowledged for the TTL: for an instance that
    /// does nothing that others must not do meanwhile. After a long outage it then goes on with the lease that it had.
    /// [`Registration::require`](super::Registration::require) fails all the same.
    pub fn until_told(mut self) -> Self {
        self.until_told = true;
        self
    }

    /// Tells `observer` each state that the registration enters, in their order. A reader of
    /// [`Registration::states`](super::Registration::states) sees the latest state only, and may miss a loss that a new
    /// lease followed at once. The observer is called on the thread that beats: it must not block.
    pub fn observer(mut self, observer: impl Fn(&State) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer::new(observer));
        self
    }

    pub(super) fn to_wire(&self) -> Result<RegisterRequest, Error> {
        if self.ttl.is_zero() {
            return Err(Error::invalid("ttl", "is 0; choose 2 s to 300 s"));
        }
        // An instance that drains is not registered again, so only these two occur.
        let status = if self.status == Status::Starting { Status::Starting } else { Status::Alive };
        Ok(RegisterRequest {
            instance_id: self.instance_id.to_string(),
            logical_id: self.logical_id.clone(),
            cluster_epoch: self.cluster_epoch.as_ref().map(Uuid::to_string).unwrap_or_default(),
            actor_name: self.actor_name.clone(),
            serve_route: self.serve_route.clone(),
            node_id: self.node_id.clone(),
            ip_address: self.ip.as_ref().map(IpAddr::to_string).unwrap_or_default(),
            port: self.port.into(),
            pid: self.pid.into(),
            ttl: wire::to_duration(self.ttl),
            labels: self.labels.clone().into_iter().collect(),
            version: self.version.clone(),
            initial_status: wire::InstanceStatus::from(status).into(),
        })
    }
}
