//! Client of musterd, a service-discovery registry for fleets of actors.
//!
//! - [`Client`] calls any of several daemons: it stays with the one that answered last, and goes on to the next one when
//!   that daemon cannot be reached or says that another one should be asked.
//! - [`Registration`] holds a lease. A thread of its own renews it, so that a blocked runtime loses no lease, and the
//!   client's own clock decides when the lease is lost: TTL after the last acknowledged beat was *sent*.
//! - [`Watch`] streams changes and resumes on any daemon after the last revision that was seen.
//! - [`Router`] picks live instances from a cache that watches fill, without a call; [`Changes`] streams what it knows.
//! - Operators find the state of the cluster and all that they may change as methods of [`Client`] too.
//! - [`Error`] has a reason of a closed list, and tells whether the same call may succeed later.
//!
//! Words are those of the project's glossary. The protocol (`muster.v1`) is an implementation detail: no type of the
//! gRPC crates appears in this API.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tls-ring` (default) | `https://` addresses, by rustls with ring |
//! | `tonic` | `MusterChannel`: balances the calls of a client of tonic over the live instances of a name |
//! | `tower` | `Directory`: the live instances of a name as a `tower::discover::Discover` |
//! | `tracing` | log records: leases granted and lost, failed beats and registrations, the daemon in use, interrupted watches |
//! | `metrics` | counters of the same: `musterd_client_..._total` |
//!
//! # Layers
//!
//! ```text
//!  address, reason, error, model, cluster            values
//!  wire                                              generated types, and their translation to values
//!  tls, sockets, connect, daemons                            connections, fail-over, retries
//!  observe                                           log records and counters
//!  client, reads, history, operators, watch, lease, router    what an application calls
//!  channel                                           a channel for clients of tonic, on the router
//! ```

mod address;
mod backoff;
#[cfg(feature = "tonic")]
mod channel;
mod choice;
mod client;
mod cluster;
mod connect;
mod daemons;
mod error;
mod history;
mod lease;
mod model;
mod observe;
mod operators;
mod reads;
mod reason;
mod router;
mod sockets;
mod tls;
mod token;
mod watch;
mod wire;

pub use address::{Address, AddressError};
#[cfg(feature = "tonic")]
pub use channel::{ChannelSettings, InstanceTls, MusterChannel};
pub use choice::{Choice, Policy};
pub use client::{Builder, Client};
pub use cluster::{
    Brake, BrakeMode, Changed, Cluster, Counts, Daemon, Decision, DecisionFilter, Epoch, Expiry, Grant, Health, Hold,
    LostDaemon, Port, Problem, Quota, Rotated, Severity, WhoAmI,
};
pub use error::{Error, Violation};
pub use history::{Ended, EndedLease};
pub use lease::{Beat, Lease, LossReason, Lost, OnLost, Register, Registration, State, Update};
pub use model::{Death, DeathReason, Filter, Instance, Status};
pub use reads::{Found, Page, Resolved, ResolvedAll};
pub use reason::{Kind, Reason};
#[cfg(feature = "tower")]
pub use router::Directory;
pub use router::{Changes, NoTarget, Router, RouterSettings, Target, TargetChange};
pub use sockets::Fork;
pub use tls::{Tls, TlsFailure};
pub use token::Token;
pub use watch::{Batch, Change, Step, Watch};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
