//! The bounds of settings, which their checks and their errors name.

use std::time::Duration;

/// The shortest time for which dead instances may be kept.
pub const KEEP_DEAD_MIN: Duration = Duration::from_secs(60);
/// The longest time for which dead instances may be kept: 30 days.
pub const KEEP_DEAD_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest time for which the record of an ended lease may be kept: 365 days. The shortest is [`KEEP_DEAD_MIN`].
pub const KEEP_HISTORY_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The shortest time for which decisions may be kept: 7 days, as in `muster_purge_audit`. The longest is [`KEEP_AUDIT_MAX`].
pub const KEEP_AUDIT_MIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest time for which decisions may be kept: 3650 days.
pub const KEEP_AUDIT_MAX: Duration = Duration::from_secs(3_650 * 24 * 60 * 60);
/// Most connections that one address may be allowed: as many as the daemon has open in all.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 10_000;
/// Most records that a daemon may be allowed.
pub const MAX_RECORDS_MAX: u64 = 100_000_000;
/// Fewest bytes that records may be allowed.
pub const MAX_RECORD_BYTES_MIN: u64 = 1 << 20;
/// Most names that `--http-host` takes.
pub const HTTP_HOSTS_MAX: usize = 64;
/// The longest advertised address, in bytes.
pub const ADVERTISE_ADDR_MAX_BYTES: usize = 253;
