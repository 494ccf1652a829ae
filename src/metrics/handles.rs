//! The metrics as the components hold them: structs of handles, one field per time series.
//!
//! A handle is made once and then costs an atomic operation; looking a metric up by name and labels at every beat
//! would cost more than the beat. Making the struct also registers every series of it at zero, so that a rate over a
//! verdict that has not happened yet is 0 and not a hole, and an alert on it can fire at the first occurrence. And a
//! label value that is not a field cannot be written at all: the label sets are closed by the compiler.
//!
//! The structs are cheap to clone, and clones count into the same series. They bind to the recorder in effect when they
//! are made, so [`super::install`] comes first; without a recorder they count into nothing, which suits unit tests.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{budget::UsageMetrics, names};

/// Defines structs with one handle per value of one label.
macro_rules! families {
    ($(
        $(#[$doc:meta])* $struct:ident: $type:ident = $make:ident!($name:expr, $label:literal) {
            $($(#[$field_doc:meta])* $field:ident = $value:literal,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $struct { $($(#[$field_doc])* pub $field: $type,)* }

        impl $struct {
            /// Registers every series at zero and returns the handles.
            #[must_use]
            pub fn new() -> Self {
                Self { $($field: $make!($name, $label => $value),)* }
            }
        }

        impl Default for $struct {
            fn default() -> Self {
                Self::new()
            }
        }
    )*};
}

families! {
    /// `musterd_beats_total`, by verdict.
    BeatMetrics: Counter = counter!(names::BEATS, "verdict") {
        /// Accepted.
        ok = "ok",
        /// No such lease or instance on record, or none that the caller has a right to.
        unknown = "unknown",
        /// The lease has ended.
        expired = "expired",
        /// A newer registration has the instance id.
        replaced = "replaced",
        /// The lease is of an older epoch.
        fenced = "fenced",
        /// Refused because this daemon cannot save beats in time.
        not_saved = "not_saved",
        /// The lease is newer than what this daemon has applied.
        not_yet_seen = "not_yet_seen",
    }

    /// `musterd_registrations_total`, by outcome.
    RegistrationMetrics: Counter = counter!(names::REGISTRATIONS, "outcome") {
        /// A new lease for a new instance id.
        created = "created",
        /// The same owner again: the same lease.
        renewed = "renewed",
        /// A new lease in the place of one that had ended.
        replaced = "replaced",
        /// Not the current epoch.
        fenced = "fenced",
        /// Another owner's live instance has the id.
        taken = "taken",
        /// Bad input, or no right to register under the logical id.
        invalid = "invalid",
        /// The budget of records has no room for it.
        full = "full",
        /// The database did not do it, or it is not known whether it did.
        failed = "failed",
    }

    /// `musterd_deaths_total`, by reason.
    DeathMetrics: Counter = counter!(names::DEATHS, "reason") {
        /// No beat within the TTL.
        stale = "stale",
        /// The epoch was rotated.
        old_epoch = "old_epoch",
        /// By its owner's wish.
        deregistered = "deregistered",
        /// A new registration took its place.
        replaced = "replaced",
        /// An operator's decision.
        operator = "operator",
    }

    /// `musterd_resolves_total`, by result.
    ResolveMetrics: Counter = counter!(names::RESOLVES, "result") {
        /// An instance was named.
        found = "found",
        /// No instance of this logical id is on record.
        unknown_logical_id = "unknown_logical_id",
        /// Instances are on record, none is alive.
        no_live_instance = "no_live_instance",
        /// Bad input, or no right to resolve the logical id.
        invalid = "invalid",
        /// The view is not loaded, or not at the revision asked for.
        not_yet_seen = "not_yet_seen",
    }

    /// `musterd_feed_resyncs_total`, by cause.
    ResyncMetrics: Counter = counter!(names::FEED_RESYNCS, "cause") {
        /// The first load.
        start = "start",
        /// The feed's connection was lost.
        connection = "connection",
        /// The history of revisions is another one, for example after a restored backup.
        history = "history",
        /// Tombstones that were needed have been purged.
        gap = "gap",
    }

    /// `musterd_refused_total`, by reason.
    RefusedMetrics: Counter = counter!(names::REFUSED, "reason") {
        /// The address has as many gRPC connections as it may have.
        connections_of_address = "connections_of_address",
        /// The connection has as many streams without an end as it may have.
        streams_of_connection = "streams_of_connection",
        /// The daemon has as many watchers as it admits.
        watchers = "watchers",
        /// The registry has as many records, or bytes of them, as it may have.
        registry_full = "registry_full",
        /// The address has its share of these.
        registry_full_of_address = "registry_full_of_address",
        /// The request is larger than 1 MiB.
        request_too_large = "request_too_large",
        /// All places for HTTP connections were taken; the connection is for probes only.
        http_connections = "http_connections",
        /// The address has all HTTP connections that one address may have; this one is for probes only.
        http_connections_of_address = "http_connections_of_address",
        /// The head of an HTTP request was not complete in time.
        http_slow_head = "http_slow_head",
        /// The credential of a caller is missing, or no good.
        unauthenticated = "unauthenticated",
        /// The caller may not do what it asked for.
        permission_denied = "permission_denied",
        /// The identity of the caller has used up a quota.
        quota_exceeded = "quota_exceeded",
        /// An HTTP request named no host, or another one than this daemon.
        http_host = "http_host",
    }

    /// `musterd_insecure`, by what is missing.
    InsecureMetrics: Gauge = gauge!(names::INSECURE, "what") {
        /// Encryption.
        tls = "tls",
        /// Authentication of callers.
        auth = "auth",
    }

    /// `musterd_instances`, by status.
    InstanceMetrics: Gauge = gauge!(names::INSTANCES, "status") {
        /// Registered, not ready.
        starting = "starting",
        /// Ready.
        alive = "alive",
        /// Finishing.
        draining = "draining",
        /// Gone, kept for the record.
        dead = "dead",
    }

    /// `musterd_logical_ids`, by whether an alive instance serves them.
    LogicalIdMetrics: Gauge = gauge!(names::LOGICAL_IDS, "served") {
        /// With an alive instance.
        served = "true",
        /// On record, without an alive instance.
        unserved = "false",
    }
}

/// Defines structs of handles without labels, or with structs of handles inside.
macro_rules! groups {
    ($(
        $(#[$doc:meta])* $struct:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $make:expr,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $struct { $($(#[$field_doc])* pub $field: $type,)* }

        impl $struct {
            /// Registers every series at zero and returns the handles.
            #[must_use]
            pub fn new() -> Self {
                Self { $($field: $make,)* }
            }
        }

        impl Default for $struct {
            fn default() -> Self {
                Self::new()
            }
        }
    )*};
}

groups! {
    /// For the view: what this daemon knows.
    ViewMetrics {
        /// Instances by status.
        instances: InstanceMetrics = InstanceMetrics::new(),
        /// Logical ids by whether they are served.
        logical_ids: LogicalIdMetrics = LogicalIdMetrics::new(),
        /// Deaths by reason.
        deaths: DeathMetrics = DeathMetrics::new(),
        /// What the records use.
        usage: UsageMetrics = UsageMetrics::new(),
        /// Number of the current epoch.
        epoch_number: Gauge = gauge!(names::EPOCH_NUMBER),
        /// Applied revision.
        revision: Gauge = gauge!(names::REVISION),
    }

    /// For the feed.
    FeedMetrics {
        /// Seconds since PostgreSQL last confirmed the view; set it at scrape.
        lag_seconds: Gauge = gauge!(names::FEED_LAG),
        /// Full reloads by cause.
        resyncs: ResyncMetrics = ResyncMetrics::new(),
        /// Rows with a value that cannot be read.
        rows: RowMetrics = RowMetrics::new(),
    }

    /// For rows as they are read from PostgreSQL.
    RowMetrics {
        /// Rows with a value that cannot be read.
        unreadable: Counter = counter!(names::ROWS_UNREADABLE),
    }

    /// For the flusher of beats.
    FlushMetrics {
        /// Seconds the oldest unsaved beat has waited; set it at scrape.
        lag_seconds: Gauge = gauge!(names::FLUSH_LAG),
        /// Leases per flush.
        leases: Histogram = histogram!(names::FLUSH_LEASES),
        /// Seconds per flush.
        seconds: Histogram = histogram!(names::FLUSH_SECONDS),
        /// Failed flushes.
        failures: Counter = counter!(names::FLUSH_FAILURES),
    }

    /// For the writer.
    WriterMetrics {
        /// Changes per group commit.
        group_size: Histogram = histogram!(names::WRITER_GROUP_SIZE),
        /// Seconds per group commit.
        seconds: Histogram = histogram!(names::WRITER_SECONDS),
        /// Changes that wait.
        queue: Gauge = gauge!(names::WRITER_QUEUE),
    }

    /// Whether expiry is on hold.
    HoldMetrics {
        /// 1 while held.
        held: Gauge = gauge!(names::EXPIRY_HELD),
        /// 1 while deaths are paced.
        pace: Gauge = gauge!(names::EXPIRY_BRAKE, "mode" => "pace"),
        /// 1 while no lease expires.
        protect: Gauge = gauge!(names::EXPIRY_BRAKE, "mode" => "protect"),
    }

    /// Whether the daemon is ready; `http` sets it at scrape.
    ReadyMetrics {
        /// 1 if ready.
        ready: Gauge = gauge!(names::READY),
    }

    /// For the log; set it at scrape.
    LogMetrics {
        /// Lines that were dropped.
        dropped: Counter = counter!(names::LOG_LINES_DROPPED),
    }

    /// For the acceptor of gRPC connections.
    IncomingMetrics {
        /// Open connections.
        connections: Gauge = gauge!(names::GRPC_CONNECTIONS),
        /// Failed accepts.
        accept_errors: Counter = counter!(names::GRPC_ACCEPT_ERRORS),
    }
}

/// For one of the reapers.
#[derive(Clone, Debug)]
pub struct ReaperMetrics {
    /// Runs that did what there was to do.
    pub ok: Counter,
    /// Runs that found expiry on hold.
    pub held: Counter,
    /// Runs that failed; the next tick repeats them.
    pub failed: Counter,
    /// Instances declared dead or purged.
    pub reaped: Counter,
    /// Runs that have failed since the last one that succeeded.
    pub consecutive_failures: Gauge,
}

impl ReaperMetrics {
    /// For the reaper of stale instances.
    #[must_use]
    pub fn stale() -> Self {
        Self::of("stale")
    }

    /// For the reaper of instances of older epochs.
    #[must_use]
    pub fn old_epoch() -> Self {
        Self::of("old_epoch")
    }

    /// For the purge of old tombstones.
    #[must_use]
    pub fn purge() -> Self {
        Self::of("purge")
    }

    pub(super) fn of(reaper: &'static str) -> Self {
        Self {
            consecutive_failures: gauge!(names::REAPER_CONSECUTIVE_FAILURES, "reaper" => reaper),
            ok: counter!(names::REAPER_RUNS, "reaper" => reaper, "outcome" => "ok"),
            held: counter!(names::REAPER_RUNS, "reaper" => reaper, "outcome" => "held"),
            failed: counter!(names::REAPER_RUNS, "reaper" => reaper, "outcome" => "failed"),
            reaped: counter!(names::REAPED, "reaper" => reaper),
        }
    }
}

/// For one pool of connections; set them at scrape.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    /// Connections the pool holds.
    pub size: Gauge,
    /// Those of them that are idle.
    pub available: Gauge,
    /// Callers that wait for one.
    pub waiting: Gauge,
}

impl PoolMetrics {
    /// For the pool of the daemon's own work: writer, flusher, reapers.
    #[must_use]
    pub fn engine() -> Self {
        Self::of("engine")
    }

    /// For the pool of what operators ask for.
    #[must_use]
    pub fn operator() -> Self {
        Self::of("operator")
    }

    fn of(pool: &'static str) -> Self {
        Self {
            size: gauge!(names::POOL_CONNECTIONS, "pool" => pool, "state" => "size"),
            available: gauge!(names::POOL_CONNECTIONS, "pool" => pool, "state" => "available"),
            waiting: gauge!(names::POOL_CONNECTIONS, "pool" => pool, "state" => "waiting"),
        }
    }
}

/// Which database the daemon works on.
#[derive(Debug)]
pub struct DatabaseMetrics {
    /// Changes to another database.
    pub changes: Counter,
    /// Sessions whose database was behind.
    pub behind: Counter,
}

impl DatabaseMetrics {
    /// Zero so far.
    #[must_use]
    pub fn new() -> Self {
        Self { changes: counter!(names::DATABASE_CHANGES), behind: counter!(names::DATABASE_BEHIND) }
    }
}

impl Default for DatabaseMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Publishes the version that runs, as `musterd_build_info{version}`.
pub fn publish_version(version: &'static str) {
    gauge!(names::BUILD_INFO, "version" => version).set(1.0);
}
