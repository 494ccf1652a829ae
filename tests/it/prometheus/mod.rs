//! What `deploy/prometheus/` holds, against the program and against a real Prometheus.
//!
//! A rule or a panel over a metric that does not exist is silent, and silence looks like health. So every query is read
//! ([`promql`]) and its metrics, labels and label values are looked up among what a daemon exports ([`queries`]), every
//! alert is shown to fire and to be silent by its unit tests ([`files`]), and a real Prometheus loads all of it,
//! scrapes a daemon and finds targets through it ([`server`]).

mod files;
mod promql;
mod queries;
mod server;
mod tools;
