//! Statistics of the registry: counts and states that need a pass over all instances or names.
//!
//! - [`registry_stats`]: one pass over everything; [`cache`] runs it when a caller asks, and keeps the latest.
//! - [`names`]: pages of logical ids, the worst first; [`search`]: which of them a text means.
//! - [`counts`]: how each logical id is served, the worst served first.

pub mod cache;
pub mod counts;
pub mod names;
pub mod registry_stats;
pub mod search;

pub use cache::StatsCache;
pub use registry_stats::{LATELY, NameState, RegistryStats, Timestamps};
