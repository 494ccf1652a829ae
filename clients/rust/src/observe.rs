//! What this crate tells of itself: log records by `tracing`, counters by `metrics`. Without these features, nothing.

#![cfg_attr(not(feature = "tracing"), expect(unused_variables, reason = "the values are those of log records"))]

use std::fmt::Debug;

use uuid::Uuid;

use crate::{address::Address, error::Error};

/// A lease was granted.
pub(crate) fn granted(lease_id: u64, instance_id: Uuid) {
    #[cfg(feature = "tracing")]
    tracing::info!(lease_id, %instance_id, "lease granted");
    #[cfg(feature = "metrics")]
    metrics::counter!("musterd_client_leases_granted_total").increment(1);
}

/// A lease was lost.
pub(crate) fn lost(lease_id: u64, reason: impl Debug) {
    #[cfg(feature = "tracing")]
    tracing::warn!(lease_id, ?reason, "lease lost");
    #[cfg(feature = "metrics")]
    metrics::counter!("musterd_client_leases_lost_total", "reason" => format!("{reason:?}").to_lowercase())
        .increment(1);
}

/// Beats have failed at one daemon, and go on at the next one.
pub(crate) fn beats_failed(error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "beats failed, asking the next daemon");
    #[cfg(feature = "metrics")]
    metrics::counter!("musterd_client_beat_failures_total").increment(1);
}

/// A registration was refused or not answered.
pub(crate) fn registration_failed(error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::info!(%error, "registration failed");
    #[cfg(feature = "metrics")]
    metrics::counter!("musterd_client_registration_failures_total").increment(1);
}

/// This daemon takes the beats from now on.
pub(crate) fn daemon_taken(daemon: &Address) {
    #[cfg(feature = "tracing")]
    tracing::info!(%daemon, "daemon takes beats");
}

/// The watch of a name was interrupted.
pub(crate) fn watch_interrupted(logical_id: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::info!(logical_id, %error, "watch interrupted, resuming");
    #[cfg(feature = "metrics")]
    metrics::counter!("musterd_client_watch_interruptions_total").increment(1);
}
