//! The read side: the whole registry in memory, and the questions it answers.
//!
//! - [`snapshot`]: the registry at one revision, an immutable value; making the next one from it costs only what
//!   changed.
//! - [`entry`]: an instance and its lease; [`name`]: the instances of one logical id, and whether it is served.
//! - [`writer`]: the one place that makes snapshots, from what the feed brings.
//! - [`reader`]: what readers hold of it.
//! - [`resolve`], [`list`]: questions, as pure functions of a snapshot; what is counted over all of it is in [`crate::stats`].
//! - `usage`: how many records there are, and what they take in memory.
//! - [`hub`]: changes on their way to watchers.
//!
//! One writer, any number of readers, no lock: a reader takes the current snapshot and is done with it in its own time.
//! What it reads may be a moment old; [`View::stale_for`] says how old, and [`View::wait_for`] waits until a revision
//! has arrived. Nothing here knows PostgreSQL.

pub mod entry;
pub mod hub;
pub mod list;
pub mod name;
pub mod reader;
pub mod resolve;
pub mod snapshot;
mod usage;
pub mod writer;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use entry::Entry;
pub use hub::Hub;
pub use name::{Name, Service};
pub use reader::View;
pub use snapshot::{Counts, Snapshot};
pub use writer::ViewWriter;
