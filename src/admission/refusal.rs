//! Why a change was not taken in.

use crate::model::budget::Full;

/// Why a change was not taken in. It was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All places of the queue, or those of the address, are taken.
    Overloaded,
    /// The budget has no room for the record.
    Full(Full),
    /// The owner of the record has as many as it may have.
    OwnerFull(u64),
    /// The daemon is shutting down.
    ShuttingDown,
}
