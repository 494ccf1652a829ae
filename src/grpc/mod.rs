//! The gRPC side of the daemon; the only place that sees the generated types.

pub mod incoming;
pub mod observe;
