//! Which tasks run, what happens when one stops, and how the daemon ends.
//!
//! Every task of the daemon is started here, under a name and in a stage, so that none is forgotten and none dies
//! unnoticed; `clippy.toml` forbids `tokio::spawn` elsewhere. The exceptions are tasks that belong to a handle, which
//! learns of their end: the driver of a connection, whose calls then fail, and the supervision of the private PostgreSQL.
//!
//! An *essential* task is one whose absence breaks a promise: feed, writer, flusher, servers, but also reapers,
//! suspicions and upkeep. If it ends or panics, the daemon shuts down with a reason and a non-zero exit code, and the
//! service manager starts it again. Nothing is restarted in place, because a half-restarted daemon is harder to reason
//! about than a new one. A *background* task may end when it has done what it is for; its panic shuts the daemon down too.
//!
//! Leaving has an order, because each step relies on the next (promise 12):
//!
//! ```text
//!  signal -> stopping -> Readiness: not ready, routers and actors go elsewhere
//!                     -> Servers:   no new connections, streams end, calls under way are answered
//!                     -> Engine:    queued writes are committed, beats are flushed, own daemon row is removed
//!                     -> Store:     the private PostgreSQL is stopped
//! ```
//!
//! And it has an end: each stage has a budget, a stage that overruns it is aborted, and all together stay inside
//! [`SHUTDOWN_LIMIT`] whatever the composition root asks for. A second signal aborts everything at once (`signals`). A
//! runtime whose threads are stuck cannot be relied on to keep that promise, so a plain thread stands by to exit the
//! process (`watchdog`).

mod readiness;
mod reason;
mod reload;
mod service_manager;
mod signals;
mod stage;
mod tasks;
#[cfg(test)]
mod tests;
mod watchdog;

pub use readiness::{Condition, ConditionState, Readiness, Snapshot};
pub use reason::Reason;
pub use reload::Reload;
pub use service_manager::ServiceManager;
pub use stage::Stage;
pub use tasks::{Ending, Lifecycle, SHUTDOWN_LIMIT, Scope, panic_message};
pub use watchdog::WATCHDOG_LIMIT;
