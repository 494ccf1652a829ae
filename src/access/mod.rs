//! Identities, rights, and the policy that grants them: rules that know neither gRPC nor HTTP. [`files`] alone reads files.
//!
//! A port asks [`Access`] for the [`Caller`] of a connection's certificate and a call's `Authorization`, and asks the caller
//! what it may: one [`Verb`] on one logical id. A caller is a snapshot: it keeps the rights it was made with. What lives
//! longer than a call compares [`Caller::generation`] with [`Access::generation`], or waits for [`Access::changes`], and takes
//! the present caller from [`Access::refresh`].
//!
//! - [`certificate`]: from a client certificate to an identity.
//! - [`tokens`]: static tokens, stored as digests.
//! - JSON web tokens are verified by [`crate::jwt`]; the policy names their issuers.
//! - [`policy`]: the rules, and the file that they stand in; what they are about is in [`rights`](crate::rights).
//! - [`caller`], [`refusal`]: what a port works with.
//!
//! Without a policy access is open: every caller is `anonymous` and may do everything, at no cost.
//!
//! Rules grant and never deny, and what no rule grants is refused. What `anonymous` may, every identity may: a caller could
//! leave its credential out.

mod call;
pub mod caller;
mod callers;
pub mod certificate;
pub mod files;
mod grants;
mod live;
mod memory;
pub mod policy;
pub mod refusal;
pub mod tokens;

pub use crate::rights::{Identity, InvalidIdentity, Kind, Names, Verb, authorization::authorization, identity, names};
pub(crate) use crate::rights::{
    addresses::{counted as counted_address, special as special_address},
    quota::Exceeded,
};
pub use call::Call;
pub use caller::Caller;
pub(crate) use callers::Callers;
pub use certificate::Certificate;
pub use files::{FileError, Files, Keeper, read_policy};
pub use live::{Access, Changes};
pub use memory::Memory;
pub use policy::{Policy, PolicyError};
pub use refusal::{Denied, Refused};
pub use tokens::{TokenError, Tokens};
