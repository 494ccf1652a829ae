//! The native core of the Python package `musterd`: `musterd-client` for Python.
//!
//! Three rules shape it:
//!
//! * **Native code never calls Python.** Threads of this crate put events into a queue and write one byte to a socket pair
//!   ([`events`]); a Python thread reads it. So no native thread waits for the GIL, neither while an application holds it nor
//!   while the interpreter ends.
//! * **No function waits.** A function that Python calls starts a call on the runtime of this crate ([`runtime`]) and returns;
//!   the outcome is an event. So no function releases the GIL, and no Python thread is inside this crate when the process
//!   forks or the interpreter ends.
//! * **A child process owns nothing of its parent** ([`owned`]): it neither uses nor drops what was made before the fork,
//!   because the threads that serve it are gone.

mod changes;
mod client;
mod convert;
mod events;
mod exit;
mod owned;
mod progress;
mod registration;
mod router;
mod runtime;

/// The native core of musterd. Use the package `musterd`, not this module.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use crate::{
        changes::Changes,
        client::Client,
        convert::{Failure, Foreign},
        registration::Registration,
        router::{Router, Target},
        runtime::{after_fork_in_child, after_fork_in_parent, before_fork, drain, fileno},
    };
}
