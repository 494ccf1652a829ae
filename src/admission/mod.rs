//! Which changes the daemon takes in, decided before any of them reaches PostgreSQL.
//!
//! - [`queue`]: the places in front of the writer, shared among addresses.
//! - [`budget`]: the room for records, of which each address has a share as well.
//!
//! Both refuse with a [`Refusal`]: a refused change was not applied.

pub mod budget;
pub mod queue;
mod refusal;

pub use budget::Admission;
pub use refusal::Refusal;
