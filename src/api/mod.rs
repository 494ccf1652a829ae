//! What the status page shows, as JSON: `GET` only, bounded, stable. `docs/http-api.md` describes each field.
//!
//! An instance looks as it does everywhere else: the proto3 JSON form of `muster.v1.Instance`, as `musterd list -o json`
//! prints it. The rest follows the same conventions: lowerCamelCase, durations like `1.5s`, times in RFC 3339; counts are
//! plain numbers. Fields are added, never renamed or removed.
//!
//! - [`status_cache`]: the one summary that every reader shares, written by [`summary`]; [`events`] pushes it; [`beats`]: the rate of
//!   beats in it.
//! - [`names`], [`instances`]: pages of logical ids and of instances; [`instance`], [`value`]: their JSON.
//! - [`ended`]: the history of leases, which is in PostgreSQL alone.
//! - [`asker`]: who asks, and what it may read; [`query`], [`error`]: what a request may ask, and how it is refused.

mod answer;
pub(crate) mod asker;
pub mod beats;
mod ended;
pub mod error;
pub mod events;
pub mod instance;
pub mod instances;
pub mod names;
pub mod query;
pub mod status_cache;
pub mod summary;
pub mod value;

use axum::{Extension, Router, extract::State, http::StatusCode, response::Response, routing::get};

use self::{answer::json, asker::Asker, error::ApiError, status_cache::StatusCache};

/// The routes of the API.
pub(crate) fn router(cache: StatusCache) -> Router {
    Router::new()
        .route("/api/v1/summary", get(summary))
        .route("/api/v1/names", get(names::names))
        .route("/api/v1/instances", get(instances::list))
        .route("/api/v1/explain", get(instances::explain))
        .route("/api/v1/ended", get(ended::ended))
        .route("/api/v1/events", get(events::events))
        .with_state(cache)
}

async fn summary(State(cache): State<StatusCache>, Extension(asker): Extension<Asker>) -> Result<Response, ApiError> {
    let (summary, names) = (cache.summary().await?, asker.names());
    if names.is_everything() {
        return Ok(json(summary.json.clone()));
    }
    let broken =
        || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the summary cannot be read".to_owned());
    summary::restricted(&summary.partial, &names).map(json).ok_or_else(broken)
}
