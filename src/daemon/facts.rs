//! Gathers what the health of this daemon is judged by: a few atomic reads, so that every caller may ask at any time.

use std::time::Duration;

use super::parts::Parts;
use crate::{
    config::ServeConfig,
    postgres::Behind,
    registry::health::{Failures, SchemaState},
    stats::{NameState, RegistryStats},
    status::{BehindDatabase, Condition, Facts, FailingReaper, Gather, Names, Port, Ports, Release, Schema},
    store::deaths::ReleaseState,
    view::View,
};

/// How many unserved names a problem lists.
const UNSERVED_SHOWN: usize = 5;
/// Statistics older than this say nothing about the present.
const STATS_MAX_AGE_MS: u64 = 60_000;

/// The gatherer of a daemon.
pub(super) fn gather(parts: &Parts) -> Gather {
    let stats = parts.stats.clone();
    let (view, leases, health) = (parts.view.clone(), parts.leases.clone(), parts.health.clone());
    let (readiness, daemon_id) = (parts.readiness.clone(), parts.identity.daemon_id);
    let database = parts.database.clone();
    let (security, budget, ports) = (parts.security.clone(), parts.config.budget, ports(&parts.config));
    Gather::new(move || {
        let (snapshot, now_ms) = (view.snapshot(), view.clock().now_ms());
        let (cluster, daemons) = (snapshot.cluster(), view.daemons());
        let conditions = readiness.snapshot().conditions.into_iter();
        Facts {
            daemon_id,
            loaded: cluster.is_some(),
            conditions: conditions
                .map(|state| Condition { name: state.condition.name(), ok: state.ok, detail: state.detail })
                .collect(),
            stale_for: view.stale_for(),
            confirmed_at: view.database_time(view.confirmed_ms()),
            behind: database.behind().map(|Behind { host, revision, seen }| BehindDatabase { host, revision, seen }),
            database_latency: health.database_latency(),
            blocker: health.blocker(),
            flush_lag: Duration::from_millis(leases.save_lag_ms(now_ms)),
            last_reap_age: health.last_reap_age(),
            failing_reapers: health.failing_reapers().into_iter().map(failing).collect(),
            schema: schema(health.schema_state()),
            release: release(health.release_state()),
            hold: cluster.and_then(|cluster| view.hold(cluster)),
            brake: cluster.and_then(|cluster| cluster.brake.clone()),
            ports,
            certificates: security.certificates(),
            stale_list: security.stale_list(),
            security_failures: security.failures(),
            usage: snapshot.usage(),
            budget,
            daemons: daemons.present.clone(),
            lost_daemons: daemons.lost.clone(),
            names: names(&view, stats.latest().as_deref(), now_ms),
        }
    })
}

/// By the addresses of the settings, in which a name stands as what it resolved to.
fn ports(config: &ServeConfig) -> Ports {
    let (with_tls, with_policy) = (config.tls.is_some(), config.access.is_some());
    let port = |on_network| Port { on_network, with_tls, with_policy };
    let (grpc, http) = config.on_network();
    Ports { grpc: port(grpc), http: port(http) }
}

fn failing(failures: Failures) -> FailingReaper {
    let Failures { reaper, count, failing_for, error } = failures;
    FailingReaper { name: reaper.as_str(), failures: count, failing_for, error }
}

/// That it is too new is a condition of readiness.
fn schema(state: SchemaState) -> Schema {
    Schema { drift: state.drift, ahead: state.ahead }
}

fn release(state: ReleaseState) -> Release {
    let ReleaseState { unreleased, oldest, failure, waiting, .. } = state;
    Release { unreleased, oldest, failure, waiting }
}

/// The counts are those of this moment; suspicion and the first names are as of the latest statistics.
fn names(view: &View, stats: Option<&RegistryStats>, now_ms: u64) -> Names {
    let counts = view.snapshot().counts();
    let (live, unserved) = (counts.logical_ids_live, counts.logical_ids_unserved);
    let stats = stats.filter(|stats| now_ms.saturating_sub(stats.taken_ms) < STATS_MAX_AGE_MS);
    let shown = UNSERVED_SHOWN.min(usize::try_from(unserved).unwrap_or(UNSERVED_SHOWN));
    let first = stats.iter().flat_map(|stats| stats.listed(NameState::Unserved)).take(shown);
    Names {
        live,
        unserved,
        unserved_first: first.map(ToString::to_string).collect(),
        all_suspect: stats.map_or(0, |stats| stats.count(NameState::AllSuspect).min(live)),
    }
}
