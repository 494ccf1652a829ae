//! The HTTP port: metrics and targets for Prometheus, probes for whatever runs the daemon, the status page for people.
//!
//! - [`routes`]: metrics, probes, and which path has which answer.
//! - [`listener`], [`places`]: how many connections there may be, and for how long one may do nothing.
//! - [`guard`]: what every request passes first, and the headers of every answer; [`admit`]: who asks; [`host`]: the names of
//!   this daemon.
//! - [`logical_ids`], [`service_discovery`]: for Prometheus.
//! - [`page`]: the status page, as files in the binary; it knows nothing but the API.
//!
//! What the page shows comes from [`crate::api`].

mod admit;
mod guard;
pub mod host;
pub mod listener;
pub mod logical_ids;
pub mod page;
pub mod places;
mod respond;
pub mod routes;
pub mod server;
pub mod service_discovery;
