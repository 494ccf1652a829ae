//! Metrics: what Prometheus scrapes from `/metrics`.
//!
//! [`names`] says what there is, [`handles`] and [`rpc`] are what components hold, and this file sets up the recorder
//! behind them and renders it. Values that change by themselves (ages, pool sizes, counts of the view) are set at
//! scrape by a closure that the composition root gives to `http`; nothing polls them in between.
//!
//! Histograms have fixed buckets: by default the exporter renders a histogram as a summary, whose quantiles
//! cannot be added up over daemons. Recorded samples pile up in memory until they are sorted into buckets, which
//! happens at each scrape; a daemon that is not scraped needs [`upkeep`] for that, or it grows without end.

pub mod audit;
mod budget;
pub mod handles;
pub mod names;
mod policy;
pub mod release;
pub mod rpc;
pub mod schema;
pub mod tls;

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio_util::sync::CancellationToken;

pub use audit::AuditMetrics;
pub use budget::{BudgetMetrics, UsageMetrics};
pub use handles::{
    BeatMetrics, DatabaseMetrics, DeathMetrics, FeedMetrics, FlushMetrics, HoldMetrics, IncomingMetrics,
    InsecureMetrics, InstanceMetrics, LogMetrics, LogicalIdMetrics, PoolMetrics, ReadyMetrics, ReaperMetrics,
    RefusedMetrics, RegistrationMetrics, ResolveMetrics, ResyncMetrics, RowMetrics, ViewMetrics, WriterMetrics,
    publish_version,
};
pub use policy::PolicyMetrics;
pub use release::ReleaseMetrics;
pub use rpc::MethodMetrics;
pub use schema::SchemaMetrics;
pub use tls::{CertificateMetrics, HandshakeMetrics, ReloadMetrics};

/// How often [`upkeep`] sorts samples into buckets.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Upper bounds of `*_seconds`: a lookup in memory takes 0.1 ms with the network, a failing write gives up after 2 s,
/// a graceful shutdown after 10 s.
const SECONDS_BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of `musterd_flush_leases`: from one lease to a large fleet's share of a tick.
const LEASES_BUCKETS: [f64; 11] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0];

/// Upper bounds of `musterd_writer_group_size`: the writer takes at most 256 at once.
const GROUP_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Why metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The buckets were refused.
    #[error("cannot set the histogram buckets")]
    Buckets(#[from] BuildError),
    /// This process has a metrics recorder already.
    #[error("metrics are set up already")]
    AlreadyInstalled,
}

/// Renders the metrics. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    recorder: PrometheusHandle,
    process: Arc<metrics_process::Collector>,
    /// Set if it is not the recorder of the process.
    scope: Option<Scope>,
    registry: Option<Arc<str>>,
}

/// What records the metrics of one registry of several. All of them carry its name, because its recorder adds it: a handle
/// costs what it costs without a label, and none can be made without one.
#[derive(Clone)]
pub struct Scope {
    recorder: Arc<PrometheusRecorder>,
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

impl Scope {
    /// Handles that `make` makes belong to this registry.
    pub fn within<T>(&self, make: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&*self.recorder, make)
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Returns all metrics in the Prometheus text format 0.0.4, with `process_*` read at this moment.
    #[must_use]
    pub fn render(&self) -> String {
        match &self.scope {
            None => self.process.collect(),
            Some(scope) => scope.within(|| self.process.collect()),
        }
        self.recorder.render()
    }

    /// The registry of several whose metrics these are.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// Sorts the samples that were recorded since the last time into their buckets.
    pub fn run_upkeep(&self) {
        self.recorder.run_upkeep();
    }
}

/// Makes the recorder of this process. Call it before any struct of [`handles`] is made.
///
/// # Errors
///
/// [`Error::AlreadyInstalled`] if called twice.
pub fn install() -> Result<Handle, Error> {
    let (recorder, handle) = build()?;
    metrics::set_global_recorder(recorder).map_err(|_| Error::AlreadyInstalled)?;
    names::describe();
    handle.process.describe();
    Ok(handle)
}

/// Makes the recorder of one registry of several, whose metrics all carry its name.
///
/// # Errors
///
/// [`Error::Buckets`].
pub fn of_registry(name: &str) -> Result<(Scope, Handle), Error> {
    let (recorder, mut handle) = made(PrometheusBuilder::new().add_global_label("registry", name))?;
    let scope = Scope { recorder: Arc::new(recorder) };
    scope.within(|| {
        names::describe();
        handle.process.describe();
    });
    (handle.scope, handle.registry) = (Some(scope.clone()), Some(name.into()));
    Ok((scope, handle))
}

/// Makes a recorder without installing it, so that tests can have one each.
pub(crate) fn build() -> Result<(PrometheusRecorder, Handle), Error> {
    made(PrometheusBuilder::new())
}

fn made(builder: PrometheusBuilder) -> Result<(PrometheusRecorder, Handle), Error> {
    let recorder = builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(names::FLUSH_LEASES.to_owned()), &LEASES_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(names::WRITER_GROUP_SIZE.to_owned()), &GROUP_BUCKETS)?
        .build_recorder();
    let handle = Handle { recorder: recorder.handle(), process: Arc::default(), scope: None, registry: None };
    Ok((recorder, handle))
}

/// Runs the upkeep of the recorder every [`UPKEEP_INTERVAL`] until `token` is cancelled.
pub async fn upkeep(handle: Handle, token: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all_rendered() -> String {
        let (recorder, handle) = build().unwrap();
        metrics::with_local_recorder(&recorder, || {
            names::describe();
            handle.process.describe();
            let _ = (BeatMetrics::new(), RegistrationMetrics::new(), ResolveMetrics::new(), ViewMetrics::new());
            let _ = (FeedMetrics::new(), FlushMetrics::new(), WriterMetrics::new(), HoldMetrics::new());
            let _ = (ReaperMetrics::stale(), ReaperMetrics::old_epoch(), ReaperMetrics::purge());
            let _ = (PoolMetrics::engine(), PoolMetrics::operator(), ReadyMetrics::new(), IncomingMetrics::new());
            let _ = (RefusedMetrics::new(), LogMetrics::new(), DatabaseMetrics::new(), AuditMetrics::new());
            let _ = (BudgetMetrics::new(), InsecureMetrics::new(), ReloadMetrics::tls(), SchemaMetrics::new());
            let _ = PolicyMetrics::new();
            let _ = (HandshakeMetrics::grpc(), CertificateMetrics::server(), ReleaseMetrics::new());
            publish_version("0.0.0");
            MethodMetrics::new("muster.v1.RegistryService", "Beat").handled(5, Duration::from_millis(2));
            handle.render()
        })
    }

    #[test]
    fn every_metric_is_described_and_every_described_metric_appears() {
        let text = all_rendered();
        let helped: BTreeSet<&str> =
            text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
        let typed: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for metric in names::ALL {
            assert!(helped.contains(metric.name) && typed.contains(metric.name), "{} is missing", metric.name);
        }
        let undescribed: Vec<_> = typed.difference(&helped).collect();
        assert!(undescribed.is_empty(), "without help: {undescribed:?}");
        assert!(typed.contains("process_resident_memory_bytes"), "{typed:?}");
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in names::ALL {
            assert!(metric.name.starts_with("musterd_") || metric.name.starts_with("grpc_server_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == names::Kind::Counter, "{}", metric.name);
        }
    }

    #[test]
    fn series_that_have_not_happened_yet_are_zero_and_not_absent() {
        let text = all_rendered();
        for line in [
            r#"musterd_beats_total{verdict="not_saved"} 0"#,
            r#"musterd_logical_ids{served="false"} 0"#,
            r#"musterd_reaper_runs_total{reaper="purge",outcome="held"} 0"#,
            r#"musterd_pool_connections{pool="operator",state="waiting"} 0"#,
            r#"musterd_build_info{version="0.0.0"} 1"#,
        ] {
            assert!(text.contains(line), "{line} not in:\n{text}");
        }
    }

    #[test]
    fn histograms_are_rendered_with_buckets_and_not_as_summaries() {
        let text = all_rendered();
        assert!(!text.contains("quantile="), "{text}");
        assert!(text.contains(r#"musterd_flush_leases_bucket{le="100000"} 0"#), "{text}");
        assert!(text.contains(r#"grpc_method="Beat",le="0.0025"} 1"#), "{text}");
    }
}
