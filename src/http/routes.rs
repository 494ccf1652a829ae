//! What the HTTP port answers.
//!
//! `/livez` says that the process runs and nothing else: restarting a daemon because its PostgreSQL is away would throw
//! away the memory it answers from. `/readyz` says whether to send callers here, and what is missing if not.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::ACCEPT},
    middleware::from_fn_with_state,
    response::Response,
    routing::get,
};
use serde_json::json;

use super::{
    guard::{Guard, guard},
    host::Hosts,
    logical_ids, page,
    respond::{JSON, PROMETHEUS, respond, text},
    service_discovery,
};
use crate::{
    access::Access,
    api::{self, asker::Asker, status_cache::StatusCache, summary::problem},
    audit::Audit,
    lifecycle::Readiness,
    metrics::{Handle, ReadyMetrics, RefusedMetrics},
    status::{State as Condition, Status},
};

/// How long `/readyz` waits for statistics: a probe must not wait until a million instances are read.
const STATS_BOUND: Duration = Duration::from_millis(200);

const INDEX: &str = "\
musterd

/                     the status page, for a browser
/metrics              metrics in the Prometheus text format
/metrics/logical-ids  metrics by logical id, the worst served first: prefix, limit
/sd/prometheus        living instances as targets for http_sd: name, prefix, label, status, node, max_stale
/livez                200 while the process runs
/readyz               200 if callers should come here, 503 and what is missing if not; JSON with Accept: application/json
/api/v1/summary       JSON: is the registry well, how many instances, what changed last
/api/v1/names         JSON: logical ids, the worst first: filter, state, limit, after
/api/v1/instances     JSON: instances: name, prefix, status, node, label, limit, after
/api/v1/explain       JSON: how Resolve ranks each instance of a logical id, and why: name, limit
/api/v1/ended         JSON: leases that have ended: name or instance, aliveAt, limit
/api/v1/events        the summary every second, as server-sent events
";

/// What the routes answer from. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    metrics: Handle,
    readiness: Readiness,
    cache: StatusCache,
    hosts: Hosts,
    access: Access,
    audit: Audit,
    ready: ReadyMetrics,
    refused: RefusedMetrics,
    refresh: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl Http {
    /// Answers from `metrics`, `readiness` and `cache`, under the names of `hosts`, what `access` allows. `refresh` is called before each rendering
    /// of the metrics and sets the gauges that change by themselves; it must not block.
    #[must_use]
    pub fn new(
        metrics: Handle,
        readiness: Readiness,
        cache: StatusCache,
        (hosts, access, audit): (Hosts, Access, Audit),
        refresh: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (ready, refused) = (ReadyMetrics::new(), RefusedMetrics::new());
        Self { metrics, readiness, cache, hosts, access, audit, ready, refused, refresh: Arc::new(refresh) }
    }

    /// Counts what this port refuses.
    #[must_use]
    pub fn refused(&self) -> &RefusedMetrics {
        &self.refused
    }

    /// Returns the routes.
    pub fn router(self) -> Router {
        let (page, api) = (page::router(), api::router(self.cache.clone()));
        let view = self.cache.view().clone();
        let (hosts, access, audit) = (self.hosts.clone(), self.access.clone(), self.audit.clone());
        let checks = Guard { hosts, access, audit, refused: self.refused.clone() };
        let (logical_ids, service_discovery) =
            (logical_ids::router(view.clone(), self.metrics.registry()), service_discovery::router(view));
        Router::new()
            .route("/", get(index))
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { text(StatusCode::OK, "ok\n".to_owned()) }))
            .route("/readyz", get(readyz))
            .with_state(self)
            .merge(page)
            .merge(api)
            .merge(logical_ids)
            .merge(service_discovery)
            .fallback(|| async { text(StatusCode::NOT_FOUND, "not found; see /\n".to_owned()) })
            .layer(from_fn_with_state(checks, guard))
    }
}

async fn index(headers: HeaderMap) -> Response {
    if page::wants_html(&headers) { page::html() } else { text(StatusCode::OK, INDEX.to_owned()) }
}

async fn metrics(State(http): State<Http>) -> Response {
    http.ready.ready.set(if http.readiness.is_ready() { 1.0 } else { 0.0 });
    (http.refresh)();
    respond(StatusCode::OK, PROMETHEUS, http.metrics.render())
}

async fn readyz(State(http): State<Http>, Extension(asker): Extension<Asker>, headers: HeaderMap) -> Response {
    let mut status = http.cache.status(STATS_BOUND).await;
    if !asker.may_see_details() {
        // Names and addresses are for readers.
        (status.conditions, status.problems) = (Vec::new(), Vec::new());
    }
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if wants_json(&headers) { respond(code, JSON, as_json(&status)) } else { text(code, as_text(&status)) }
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| value.contains(JSON))
}

/// A line for each condition, then one for each problem; consequences are indented below their cause.
fn as_text(status: &Status) -> String {
    let mut lines = String::from(if status.ready { "ready\n" } else { "not ready\n" });
    let mut line = |indent: &str, mark: &str, name: &str, detail: &str| {
        let separator = if detail.is_empty() { "" } else { ": " };
        lines.push_str(&format!("{indent}{:<10} {name}{separator}{detail}\n", format!("[{mark}]")));
    };
    for state in &status.conditions {
        line("", state.state.as_str(), state.name, &state.detail);
    }
    for problem in &status.problems {
        let indent = if problem.cause.is_some() { "  " } else { "" };
        line(indent, problem.severity.as_str(), problem.code.as_str(), &problem.summary);
    }
    lines
}

fn as_json(status: &Status) -> String {
    let conditions = status.conditions.iter().map(|it| {
        let ok = it.state != Condition::Missing;
        json!({"name": it.name, "ok": ok, "state": it.state.as_str(), "detail": it.detail})
    });
    json!({
        "ready": status.ready,
        "severity": status.severity.as_str(),
        "conditions": conditions.collect::<Vec<_>>(),
        "problems": status.problems.iter().map(problem).collect::<Vec<_>>(),
    })
    .to_string()
}
