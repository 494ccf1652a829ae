//! Connections to the gRPC port, from their accept to their end.
//!
//! - [`incoming`]: accepts them within fixed limits; [`addresses`]: how many each address has.
//! - [`admin`]: the socket for the user of the daemon.
//! - [`connection`]: one of them, with its place and its deadline for the preface.
//! - [`ending`]: an answer that ends with the credential of its caller.
//! - [`limits`]: what one connection and one call may take.

pub(crate) mod addresses;
pub mod admin;
pub(crate) mod connection;
pub(crate) mod ending;
pub mod incoming;
pub(crate) mod limits;
