//! The protocol as JSON, by the proto3 JSON mapping: what the commands and the HTTP API print is what any other tool that
//! knows `muster.v1` prints and reads.
//!
//! Names are lowerCamelCase. This is a stable contract: fields are added, never renamed or removed.
//!
//! - [`value`]: durations, timestamps, 64-bit integers.
//! - [`messages`]: what `musterd-client` returns, as the commands print it.

pub(crate) mod messages;
pub(crate) mod value;
