//! A command as the child of this process: held until it may start, signalled, waited for, and killed with its parent.
//!
//! `child` starts it and waits for it, `held` is its process before it is the command, `signals` passes signals on. What the
//! command is registered as is no concern of this module.

pub(crate) mod child;
pub mod held;
pub(crate) mod signals;
