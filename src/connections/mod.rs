//! Connections to the gRPC port, from their accept to their end.
//!
//! - [`incoming`]: accepts them within fixed limits; [`addresses`]: how many each address has.
//! - [`connection`]: one of them, with its place and its deadline for the preface.
//! - [`limits`]: what one connection and one call may take.

pub(crate) mod addresses;
pub(crate) mod connection;
pub mod incoming;
pub(crate) mod limits;
