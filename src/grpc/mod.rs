//! The gRPC services of the daemon.
//!
//! - [`registry`], [`discovery`], [`cluster`]: the services; a handler parses, calls, converts. Messages and errors are
//!   translated in [`crate::wire`].
//! - [`beat_stream`], [`watch`]: the streams of two of them.
//! - `reader`: the view as calls read it.
//! - [`server`]: puts the services together with health, reflection and counting ([`observe`], `fast_path`), on the connections
//!   of [`crate::connections`].
//!
//! - [`crate::gate`] stands in front: which identity calls, and whether it has any right that the method needs; its rights for as long
//!   as a stream lasts. `permit`: what a caller may do to a lease.
//!
//! How to add a call: the method and its comments in `proto/`, a handler in the service's file, its row in the table of [`crate::gate`],
//! conversions in [`crate::wire::convert`], a test in `tests/it/`.

pub mod beat_stream;
pub mod cluster;
mod decisions;
pub mod discovery;
mod fast_path;
pub mod observe;
mod permit;
mod reader;
pub mod registry;
pub mod server;
mod span;
pub mod watch;
mod who_am_i;
