//! The HTTP port: metrics for Prometheus, probes for whatever runs the daemon.

pub mod listener;
pub mod routes;
pub mod server;
