//! The HTTP port: metrics and targets for Prometheus, probes for whatever runs the daemon, the status page for people.
//!
//! - [`routes`]: metrics, probes, and who answers what.
//! - [`logical_ids`], [`service_discovery`]: for Prometheus.
//! - [`page`]: the status page, as files in the binary; it knows nothing but the API.
//! - [`api`]: what the page shows, as JSON.
//! - [`board`]: the one summary that every reader shares; [`events`] pushes it.

pub mod api;
pub mod beats;
pub mod board;
pub mod events;
pub mod listener;
pub mod logical_ids;
pub mod page;
pub mod query;
pub mod routes;
pub mod server;
pub mod service_discovery;
