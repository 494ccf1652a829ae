//! Values and pure rules: what an instance is, what may change into what, who ranks before whom.
//!
//! Nothing here does I/O, knows SQL or sees a protobuf type, so every rule can be tested alone. Texts from outside
//! become values here, once, at the edge ([`input`]); what PostgreSQL holds is taken as it is, because a row that
//! was written by hand must not stop the feed.

pub mod blocker;
pub mod budget;
pub mod cluster;
pub mod decision;
pub mod explain;
pub mod history;
pub mod ids;
pub mod input;
pub mod instance;
pub mod lease;
pub mod operation;
pub mod owner;
pub mod position;
pub mod ranking;
pub mod renewer;
pub mod spread;
pub mod status;

#[cfg(test)]
pub(crate) mod fixture;

pub use blocker::Blocker;
pub use budget::{Budget, Origin, Usage};
pub use cluster::{Brake, BrakeMode, Cluster, DaemonRecord, Daemons, Epoch, EpochRecord, Hold, LostDaemon};
pub use decision::{DECISION_FILTER_MAX_BYTES, Decision, DecisionFilter, Note, NoteAction};
pub use history::{Ended, EndedLease, Holder};
pub use ids::{EpochId, InstanceId, LeaseId, LogicalId, Revision};
pub use input::{InvalidInput, Labels, Ttl};
pub use instance::{Death, Details, Instance, StatusNote};
pub use lease::Lease;
pub use operation::{Operation, Outcome, Registration, Rotation, StatusChange, Verdict};
pub use owner::Owner;
pub use position::TextPosition;
pub use status::{DeathReason, InstanceStatus};
