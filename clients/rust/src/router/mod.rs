//! A router: picks live instances from a cache that watches fill, without a call.
//!
//! One watch per name, begun at the first use and ended when the name was not used for a while; with many names one for all
//! of them ([`shared`]). A pick gives the same answer as the daemon's Resolve ([`rank`]), but for instances that the
//! application reported as failed, which the cache cannot know yet.

mod cache;
mod changes;
#[cfg(feature = "tower")]
mod directory;
mod follow;
mod known;
mod no_target;
mod rank;
mod shared;
mod watches;

#[cfg(feature = "tower")]
pub use self::directory::Directory;
pub use self::{
    cache::{Router, RouterSettings, Target},
    changes::{Changes, TargetChange},
    no_target::NoTarget,
};
