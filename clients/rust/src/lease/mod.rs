//! Holding leases.
//!
//! ```text
//!  Registration  the application's handle: state, fencing check, status, close
//!      |  commands
//!  lease_keeper  one task per registration: registers, decides about loss, registers again
//!      |  hold, release
//!  beats         one task per client: renews all leases over one stream, on any daemon
//! ```
//!
//! Keepers and beats run on a thread of their own ([`thread`]), so that an application that blocks its runtime keeps its
//! leases. The rules of loss are pure and stand in [`rules`].

mod beats;
mod clock;
mod lease_keeper;
mod register;
mod registration;
mod rules;
mod state;
mod thread;

pub use register::{OnLost, Register};
pub use registration::Registration;
pub use state::{Lease, LossReason, Lost, State};
pub(crate) use thread::BeatThread;
