//! The gRPC side of the daemon; the only place that sees the generated types.
//!
//! - [`registry`], [`discovery`], [`cluster`]: the services; a handler parses, calls, converts.
//! - [`convert`]: requests into values (with every violation at once), values into answers.
//! - [`failure`]: everything that can go wrong as one closed list, and its one translation into a status.
//! - [`server`]: puts them together with health, reflection, limits and counting ([`observe`], [`incoming`], [`connection`], [`direct`]).
//!
//! - [`answer_size`], [`limits`]: no answer is larger than what clients take; what a connection and a call may take.
//!
//! How to add a call: the method and its comments in `proto/`, a handler in the service's file, conversions in
//! [`convert`], a test in `tests/it/`.

mod addresses;
pub mod answer_size;
pub mod beat_stream;
mod bounds;
pub mod cluster;
mod connection;
pub mod convert;
mod direct;
pub mod discovery;
pub mod failure;
pub mod incoming;
mod limits;
pub mod observe;
pub mod page_token;
mod reader;
pub mod registry;
mod selection;
pub mod server;
pub mod watch;
