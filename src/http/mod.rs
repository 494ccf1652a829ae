//! The HTTP port: metrics and targets for Prometheus, probes for whatever runs the daemon, the status page for people.
//!
//! - [`routes`]: metrics, probes, and which path has which answer.
//! - [`listener`], [`places`]: how many connections there may be, and for how long one may do nothing.
//! - [`guard`]: what every request passes first, and the headers of every answer; [`host`]: the names of this daemon.
//! - [`logical_ids`], [`service_discovery`]: for Prometheus.
//! - [`page`]: the status page, as files in the binary; it knows nothing but the API.
//! - [`api`]: what the page shows, as JSON.
//! - [`board`]: the one summary that every reader shares; [`events`] pushes it.

pub mod api;
pub mod beats;
pub mod board;
pub mod error;
pub mod events;
mod guard;
pub mod host;
pub mod listener;
pub mod logical_ids;
pub mod page;
pub mod places;
pub mod query;
mod respond;
pub mod routes;
pub mod server;
pub mod service_discovery;
