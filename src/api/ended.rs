//! `GET /api/v1/ended`: the leases of a logical id or of an instance id that have ended.
//!
//! The one answer that needs PostgreSQL: memory holds the latest lease of each instance, not those before it. Requests for it
//! share one turn with those of gRPC, so however many come, operators keep a connection.

use axum::{
    Extension,
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    answer::{json, limit},
    asker::Asker,
    error::ApiError,
    instance::death,
    query::Query,
    status_cache::StatusCache,
};
use crate::{
    json::value::{long, time},
    model::{
        Ended, EndedLease, Holder, InvalidInput,
        input::{self, LOGICAL_ID_MAX_BYTES, invalid},
    },
};

/// `GET /api/v1/ended?name=&instance=&aliveAt=&limit=`.
pub(super) async fn ended(
    State(cache): State<StatusCache>,
    Extension(asker): Extension<Asker>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::read(raw.as_deref(), &["name", "instance", "aliveAt", "limit"])?;
    let asked = Ended { holder: holder(&query)?, alive_at: alive_at(&query)?, limit: limit(&query)? };
    let name = match &asked.holder {
        Holder::LogicalId(name) => name.as_str(),
        Holder::Instance(_) => "",
    };
    let readable = asker.readable(name, "")?;
    let leases = cache.ended(asked, readable.names).await.ok_or_else(unavailable)?;
    let body = json!({
        "leases": leases.iter().map(lease).collect::<Vec<_>>(),
        "filtered": readable.is_filtered,
    });
    Ok(json(body.to_string()))
}

fn holder(query: &Query) -> Result<Holder, InvalidInput> {
    match (query.text("name")?, query.text("instance")?) {
        (name, "") => {
            input::required_text("name", name, LOGICAL_ID_MAX_BYTES)?;
            Ok(Holder::LogicalId(name.to_owned()))
        }
        ("", id) => input::instance_id("instance", id).map(Holder::Instance),
        _ => invalid("instance", "is given together with name; give one of them"),
    }
}

fn alive_at(query: &Query) -> Result<Option<DateTime<Utc>>, InvalidInput> {
    match query.text("aliveAt")? {
        "" => Ok(None),
        text => match DateTime::parse_from_rfc3339(text) {
            Ok(at) => Ok(Some(at.to_utc())),
            Err(_) => invalid("aliveAt", "is not a time; give it in RFC 3339, such as 2026-01-31T12:00:00Z"),
        },
    }
}

fn unavailable() -> ApiError {
    let message = "the database cannot be reached, and ended leases are on record there alone; ask again in a moment";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "DATABASE_UNAVAILABLE", message.to_owned())
}

/// The form of `muster.v1.EndedLease`.
fn lease(lease: &EndedLease) -> Value {
    json!({
        "leaseId": long(lease.lease_id),
        "instanceId": lease.instance_id.to_string(),
        "logicalId": lease.logical_id.as_str(),
        "actorName": lease.actor_name.as_deref().unwrap_or_default(),
        "nodeId": lease.node_id.as_deref().unwrap_or_default(),
        "owner": lease.owner.as_deref().unwrap_or_default(),
        "epochNumber": long(lease.epoch_number),
        "startedAt": time(lease.started_at),
        "death": death(&lease.death),
    })
}
