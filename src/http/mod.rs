//! The HTTP port: metrics and targets for Prometheus, probes for whatever runs the daemon.

pub mod listener;
pub mod logical_ids;
pub mod query;
pub mod routes;
pub mod server;
pub mod service_discovery;
