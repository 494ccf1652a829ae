//! From when on something is late: what the status page, `musterd status` and `musterd check` judge the registry by.
//!
//! They stand here once, so that one of them never calls well what another complains about.

use std::time::Duration;

/// The feed polls once a second: confirmed less recently than this, the registry in memory may be behind.
pub const STALE_AFTER: Duration = Duration::from_secs(3);
/// A reaper looks every 30 s at least, and may wait 10 s for an answer.
pub const REAPER_LATE_AFTER: Duration = Duration::from_secs(45);
/// A daemon that has not saved for so long is silent: nobody is declared dead meanwhile.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Silent for so long, a daemon is given up.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(15);
