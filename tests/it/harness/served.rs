//! A registry that a daemon serves: the database, the daemon, clients of every service, and what tests ask of them.
//!
//! What must succeed is unwrapped here; what must fail is read as a [`Refusal`], the whole of what a caller is told.

use std::{collections::HashMap, fmt::Debug, time::Duration};

use musterd::proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use super::{
    daemon::Daemon,
    registry::{Registry, get, id},
    wire::Wire,
};

/// A registry in a database of its own, and a daemon that serves it.
#[derive(Debug)]
pub(crate) struct Served {
    /// The database.
    pub(crate) sql: Registry,
    /// The daemon.
    pub(crate) daemon: Daemon,
    /// A connection to the daemon.
    pub(crate) clients: Wire,
}

impl Served {
    /// Makes an empty registry and serves it.
    pub(crate) async fn start() -> Self {
        let sql = Registry::head().await;
        let daemon = Daemon::start(sql.database.url()).await;
        let clients = Wire::of(&daemon).await;
        Self { sql, daemon, clients }
    }

    /// The latest revision, as PostgreSQL has it.
    pub(crate) async fn revision(&self) -> u64 {
        let revision: i64 = get(&self.sql.client, "SELECT revision FROM cluster_metadata").await;
        u64::try_from(revision).unwrap()
    }
}

/// The registration of an alive instance of a process of its own.
pub(crate) fn registration(instance: u128, logical_id: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        instance_id: id(instance).to_string(),
        logical_id: logical_id.to_owned(),
        node_id: "node".to_owned(),
        ip_address: "10.0.0.1".to_owned(),
        pid: i64::try_from(instance).unwrap(),
        ttl: Some(seconds(300)),
        initial_status: v1::InstanceStatus::Alive.into(),
        ..Default::default()
    }
}

/// A duration on the wire.
pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// What a caller is told by an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The status code.
    pub(crate) code: Code,
    /// The reason in `ErrorInfo`; empty if there is none.
    pub(crate) reason: String,
    /// The metadata in `ErrorInfo`.
    pub(crate) metadata: HashMap<String, String>,
    /// The message.
    pub(crate) message: String,
    /// Fields and descriptions in `BadRequest`.
    pub(crate) fields: Vec<(String, String)>,
    /// The delay in `RetryInfo`.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// Code and reason.
    pub(crate) fn verdict(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }
}

/// Reads the error that a call must end with.
pub(crate) fn refusal<T: Debug>(result: Result<T, tonic::Status>) -> Refusal {
    let status = result.unwrap_err();
    let details = status.get_error_details();
    let info = details.error_info();
    if let Some(info) = info {
        assert_eq!(info.domain, "musterd");
    }
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    Refusal {
        code: status.code(),
        reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
        metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        fields: violations.into_iter().map(|violation| (violation.field, violation.description)).collect(),
        retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
    }
}
