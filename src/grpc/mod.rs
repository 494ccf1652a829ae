//! The gRPC services of the daemon.
//!
//! - [`registry`], [`discovery`], [`cluster`]: the services; a handler parses, calls, converts. Messages and errors are
//!   translated in [`crate::wire`].
//! - [`beat_stream`], [`watch`]: the streams of two of them.
//! - `reader`: the view as calls read it.
//! - [`server`]: puts the services together with health, reflection and counting ([`observe`], `direct`), on the connections
//!   of [`crate::connections`].
//!
//! How to add a call: the method and its comments in `proto/`, a handler in the service's file, conversions in
//! [`crate::wire::convert`], a test in `tests/it/`.

pub mod beat_stream;
pub mod cluster;
mod direct;
pub mod discovery;
pub mod observe;
mod reader;
pub mod registry;
pub mod server;
pub mod watch;
