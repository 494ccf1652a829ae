//! A router: picks live instances from a cache that watches fill, without a call.
//!
//! One watch per name, begun at the first use and ended when the name was not used for a while. A pick gives the same
//! answer as the daemon's Resolve ([`rank`]), but for instances that the application reported as failed, which the cache
//! cannot know yet.

mod cache;
mod changes;
#[cfg(feature = "tower")]
mod directory;
mod known;
mod no_target;
mod rank;

#[cfg(feature = "tower")]
pub use self::directory::Directory;
pub use self::{
    cache::{Router, RouterSettings, Target},
    changes::{Changes, TargetChange},
    no_target::NoTarget,
};
