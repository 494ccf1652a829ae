//! The gRPC side of the daemon; the only place that sees the generated types.
//!
//! - [`registry`], [`discovery`], [`cluster`]: the services; a handler parses, calls, converts.
//! - [`convert`]: requests into values (with every violation at once), values into answers.
//! - [`failure`]: everything that can go wrong as one closed list, and its one translation into a status.
//! - [`server`]: puts them together with health, reflection, limits and counting ([`observe`], [`incoming`], [`direct`]).
//!
//! How to add a call: the method and its comments in `proto/`, a handler in the service's file, conversions in
//! [`convert`], a test in `tests/it/`.

pub mod beat_stream;
pub mod cluster;
pub mod convert;
mod direct;
pub mod discovery;
pub mod failure;
pub mod incoming;
pub mod observe;
pub mod page_token;
mod reader;
pub mod registry;
mod selection;
pub mod server;
pub mod watch;
