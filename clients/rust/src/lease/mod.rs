//! Holding leases.
//!
//! ```text
//!  Registration  the application's handle: state, fencing check, status, attributes, close
//!      |  commands
//!  lease_keeper  one loop per client: makes calls, decides about loss by the client's own clock
//!      |  table, of entries
//!  beats         one loop per client: renews all leases over one stream, on any daemon
//! ```
//!
//! Both loops run on a thread of their own ([`thread`]), so that an application that blocks its runtime keeps its leases.
//! A registration is an [`entry`] of a [`table`] and the [`cell`] that it shares with the application: a process may hold
//! thousands. The rules of loss are pure and stand in [`rules`].

mod beats;
mod calls;
mod cell;
mod clock;
mod commands;
mod entry;
mod lease_keeper;
mod observer;
mod register;
mod registration;
mod rules;
mod state;
mod table;
mod thread;
mod update;

pub use observer::Beat;
pub(crate) use observer::BeatObserver;
pub use register::{OnLost, Register};
pub use registration::Registration;
pub use state::{Lease, LossReason, Lost, State};
pub(crate) use thread::BeatThread;
pub use update::Update;
