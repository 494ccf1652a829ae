//! What a rule of the policy is about: values that know neither rules nor files.
//!
//! - [`identity`]: the names of callers, by kind of credential.
//! - [`verb`]: what can be granted; [`names`]: on which logical ids.
//! - [`addresses`]: which addresses a registration may have.
//! - [`authorization`]: the header that a token comes in.
//! - [`quota`]: what one identity may use, and what it uses.

pub(crate) mod addresses;
pub mod authorization;
pub mod identity;
pub mod names;
pub mod quota;
mod verb;

pub use identity::{Identity, InvalidIdentity, Kind};
pub use names::Names;
pub use verb::Verb;
