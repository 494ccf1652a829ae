//! Every metric by name, kind and help text, in one table.
//!
//! A name is an interface: dashboards and alerts outlive releases. So all names stand here, once, and the code and the
//! `HELP` lines are made from the same entry. Units are base units (seconds, not milliseconds), counters end in
//! `_total`, and label sets are closed: a logical id or an instance id is never a label, because a fleet of a million
//! instances would become a million time series. Only what is asked for on a path of its own, and bounded there, has the
//! logical id ([`per_logical_id`]).

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the daemon runs.
    Counter,
    /// The present value.
    Gauge,
    /// A distribution over fixed buckets.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name on the wire.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says, for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($kind:ident $constant:ident = $name:literal: $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// All metrics that are defined here.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $constant, kind: Kind::$kind, help: $help },)*
        ];
    };
}

metrics! {
    Gauge INSTANCES = "musterd_instances":
        "Instances on record, by status; instances of older epochs count as dead.";
    Gauge LOGICAL_IDS = "musterd_logical_ids":
        "Logical ids on record, by whether an alive instance serves them; one that left on purpose counts as neither.";
    Gauge RECORDS = "musterd_records":
        "Records this daemon holds, the dead ones included while they are kept.";
    Gauge RECORDS_LIMIT = "musterd_records_limit":
        "Most records before new registrations are refused (--max-records).";
    Gauge RECORD_BYTES = "musterd_record_bytes":
        "What the records take in the memory of this daemon, as the budget counts it.";
    Gauge RECORD_BYTES_LIMIT = "musterd_record_bytes_limit":
        "Most bytes of records before new registrations are refused (--max-record-bytes).";
    Gauge EPOCH_NUMBER = "musterd_epoch_number":
        "Number of the current epoch as this daemon knows it.";
    Gauge REVISION = "musterd_revision":
        "Revision this daemon has applied.";
    Counter DEATHS = "musterd_deaths_total":
        "Deaths seen in the feed, by reason; every daemon counts each of them, so compare daemons, do not add them up.";

    Counter BEATS = "musterd_beats_total":
        "Beats received, by verdict.";
    Counter REGISTRATIONS = "musterd_registrations_total":
        "Register calls, by outcome.";
    Counter RESOLVES = "musterd_resolves_total":
        "Names resolved, by result.";

    Gauge FEED_LAG = "musterd_feed_lag_seconds":
        "Age of the last confirmation by PostgreSQL that this daemon's view is current.";
    Counter FEED_RESYNCS = "musterd_feed_resyncs_total":
        "Full reloads of the view, by cause.";
    Counter DATABASE_CHANGES = "musterd_database_changes_total":
        "Changes of this daemon to another database: a promoted standby, a restored copy, or one that lost changes.";
    Counter DATABASE_BEHIND = "musterd_database_behind_total":
        "Sessions refused because their database was behind what this daemon had seen.";
    Counter ROWS_UNREADABLE = "musterd_rows_unreadable_total":
        "Rows with a value that this daemon cannot read, each counted once; the value is left out.";

    Gauge SCHEMA_DRIFT = "musterd_schema_drift_objects":
        "Functions, views and indexes of the registry that another program has changed, as last compared; the daemon restores them.";

    Gauge SCHEMA_AHEAD = "musterd_schema_ahead":
        "1 if a newer musterd has migrated the database, 0 otherwise; the daemon then repairs nothing, and below the oldest version that may serve it takes no changes.";

    Gauge FLUSH_LAG = "musterd_flush_lag_seconds":
        "By how much saving beats is late: time since all due beats were last saved, beyond the flush period of 1 s.";
    Histogram FLUSH_LEASES = "musterd_flush_leases":
        "Leases saved by one flush.";
    Histogram FLUSH_SECONDS = "musterd_flush_seconds":
        "Duration of one flush of beats to PostgreSQL.";
    Counter FLUSH_FAILURES = "musterd_flush_failures_total":
        "Flushes of beats that failed; they are repeated.";

    Counter REAPER_RUNS = "musterd_reaper_runs_total":
        "Runs of the reapers, by reaper and outcome.";
    Gauge REAPER_CONSECUTIVE_FAILURES = "musterd_reaper_consecutive_failures":
        "Runs of a reaper that have failed since the last one that succeeded.";
    Counter REAPED = "musterd_reaped_total":
        "Leases expired (stale, old_epoch) or records purged (purge) by this daemon.";
    Gauge DEATHS_UNRELEASED = "musterd_deaths_unreleased":
        "Deaths that hooks still have to run for, counted up to 100,000, as last read; 0 without a hook.";
    Gauge RELEASE_LAG = "musterd_death_release_lag_seconds":
        "How long ago the first of the deaths that are not released died; 0 if all are.";
    Counter HOOK_FAILURES = "musterd_hook_failures_total":
        "Runs of hooks by this daemon that failed; they are repeated.";
    Histogram HOOK_SECONDS = "musterd_hook_seconds":
        "Duration of one run of a hook by this daemon.";
    Gauge EXPIRY_HELD = "musterd_expiry_held":
        "1 while expiry is on hold, 0 otherwise.";
    Gauge EXPIRY_BRAKE = "musterd_expiry_brake":
        "1 while this mode of the expiry rate limit is on (mode: pace slows expiry, protect stops it), 0 otherwise.";

    Histogram WRITER_GROUP_SIZE = "musterd_writer_group_size":
        "Changes committed together.";
    Histogram WRITER_SECONDS = "musterd_writer_seconds":
        "Duration of one group commit.";
    Gauge WRITER_QUEUE = "musterd_writer_queue":
        "Changes that wait for the next group commit.";

    Gauge POOL_CONNECTIONS = "musterd_pool_connections":
        "Connections to PostgreSQL, by pool and state; waiting counts callers, not connections.";

    Counter LOG_LINES_DROPPED = "musterd_log_lines_dropped_total":
        "Log lines that were dropped because standard error could not be written, or not soon enough.";
    Counter AUDIT_EVENTS = "musterd_audit_events_total":
        "Events of the audit log, by outcome: recorded, suppressed (over 10 refusals of one identity and reason in a second), dropped (the file of --audit-file could not be written, or not soon enough).";
    Gauge READY = "musterd_ready":
        "1 if /readyz answers 200, 0 otherwise.";
    Gauge BUILD_INFO = "musterd_build_info":
        "Always 1; the label is the version that runs.";

    Gauge GRPC_CONNECTIONS = "musterd_grpc_connections":
        "Open gRPC connections.";
    Counter GRPC_ACCEPT_ERRORS = "musterd_grpc_accept_errors_total":
        "Connections that could not be accepted, usually because file descriptors ran out.";
    Counter REFUSED = "musterd_refused_total":
        "Connections, streams and requests refused because of a limit or a check, by reason.";
    Counter TLS_HANDSHAKES = "musterd_tls_handshakes_total":
        "TLS handshakes of clients, by port and outcome.";
    Counter SECURITY_RELOADS = "musterd_security_reloads_total":
        "Reloads of the files for TLS, of the policy or of the keys of issuers that changed something or failed, by files (what: tls, policy, jwks) and outcome; while they fail, the previous ones are used.";
    Gauge CERTIFICATE_EXPIRY = "musterd_certificate_expiry_seconds":
        "Time until a certificate expires, 0 if it has expired; only with TLS.";
    Gauge CERTIFICATE_LIFETIME = "musterd_certificate_lifetime_seconds":
        "How long a certificate is valid in all; only with TLS.";
    Gauge INSECURE = "musterd_insecure":
        "1 if the daemon can be reached from other machines without this protection (what: tls, auth), 0 otherwise.";
    Gauge POLICY_FINGERPRINT = "musterd_policy_fingerprint":
        "A number that differs between daemons whose policies or tokens in use differ; 0 without a policy.";
    Counter GRPC_STARTED = "grpc_server_started_total":
        "RPCs begun, by service and method.";
    Counter GRPC_HANDLED = "grpc_server_handled_total":
        "RPCs ended, by service, method and status code; Canceled includes answers whose caller was gone.";
    Histogram GRPC_HANDLING_SECONDS = "grpc_server_handling_seconds":
        "Duration of RPCs to the end of the answer; for streams, their lifetime.";
}

/// The metrics of `/metrics/logical-ids`, where the logical id is a label and its number is bounded by the caller.
pub mod per_logical_id {
    use super::{Kind, Metric};

    metrics! {
        Gauge INSTANCES = "musterd_logical_id_instances":
            "Live instances of a logical id, by status.";
        Gauge SUSPECT = "musterd_logical_id_suspect":
            "Alive instances of a logical id that are suspect on this daemon.";
        Gauge BEST_LEASE = "musterd_logical_id_best_lease":
            "Lease of the instance that a logical id resolves to, 0 if there is none; it changes with every takeover.";
        Gauge OMITTED = "musterd_logical_ids_omitted":
            "Logical ids that match and are left out because of the limit; the best served are left out first.";
    }
}

/// Registers the help text of every metric with the recorder in effect.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}
