//! How much one connection and one request may be. `limits` enforces it, `failure` tells it to the caller.

/// Largest request. The largest that are accepted, 100,000 lease ids and 1,000 names, have up to 1,000,000 bytes.
pub(crate) const REQUEST_MAX_BYTES: usize = 1024 * 1024;
/// Streams without an end on one connection.
pub(crate) const STREAMS_MAX: u32 = 256;
/// Calls at the same time on one connection, those streams among them.
pub(crate) const HTTP2_STREAMS_MAX: u32 = 2 * STREAMS_MAX;
