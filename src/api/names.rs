//! `GET /api/v1/names`: logical ids, the worst first.

use std::{num::NonZeroU16, sync::Arc};

use axum::{
    Extension,
    extract::{RawQuery, State},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    answer::{ROWS_MAX, json, limit},
    asker::Asker,
    error::ApiError,
    instance,
    query::Query,
    status_cache::StatusCache,
    value,
};
use crate::{
    access::Names,
    json::value::long,
    model::{
        Epoch, InvalidInput, LogicalId,
        input::{self, LOGICAL_ID_MAX_BYTES, invalid},
    },
    stats::{
        NameState, Timestamps,
        names::{Cursor, NameFilter, NameRow, NamesPage, named, names as page},
        search::{Found, Search},
    },
    view::Entry,
};

/// `GET /api/v1/names?search=&filter=&state=&limit=&after=`, or `GET /api/v1/names?name=`.
pub(super) async fn names(
    State(cache): State<StatusCache>,
    Extension(asker): Extension<Asker>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::read(raw.as_deref(), &["name", "search", "filter", "state", "limit", "after"])?;
    let readable = asker.names();
    let is_filtered = !readable.is_everything();
    let asked = asked(&query, readable)?;
    let stats = Arc::clone(&cache.summary().await?.stats);
    let (snapshot, now) = (Arc::clone(&cache.view().snapshot()), cache.now());
    let epoch = snapshot.cluster().ok_or_else(ApiError::not_yet_seen)?.epoch;
    let page = match asked {
        Asked::Named(names) => {
            NamesPage { rows: named(&snapshot, &stats, names.iter().map(String::as_str), now), next: None }
        }
        Asked::Page { filter, limit, after } => {
            let (snapshot, stats) = (Arc::clone(&snapshot), Arc::clone(&stats));
            // Away from the threads that answer callers: a search looks at much, and a name may have many instances.
            let search = move || page(&snapshot, &stats, &filter, after.as_ref(), limit, now);
            tokio::task::spawn_blocking(search).await.map_err(|error| ApiError::fault("a search", &error))?
        }
    };
    let rows: Vec<Value> = page.rows.iter().map(|found| row(found, epoch, now)).collect();
    let body = json!({
        "names": rows,
        "next": page.next.map_or(String::new(), |place| format!("{}:{}", place.state.as_str(), place.logical_id)),
        "revision": long(snapshot.revision()),
        "staleFor": value::duration(cache.view().stale_for()),
        "filtered": is_filtered,
    });
    Ok(json(body.to_string()))
}

/// What is asked for.
enum Asked {
    /// These names.
    Named(Vec<String>),
    /// A page of those that a filter finds.
    Page { filter: NameFilter, limit: usize, after: Option<Cursor> },
}

fn asked(query: &Query, readable: Names) -> Result<Asked, InvalidInput> {
    let mut names: Vec<String> = query.all("name").map(str::to_owned).collect();
    if names.is_empty() {
        let (filter, limit, after) = (filter(query, readable)?, limit(query)?, place(query.text("after")?)?);
        return Ok(Asked::Page { filter, limit, after });
    }
    for other in ["search", "filter", "state", "limit", "after"] {
        if query.all(other).next().is_some() {
            return invalid(other, "is given together with name; give one of them");
        }
    }
    for name in &names {
        input::required_text("name", name, LOGICAL_ID_MAX_BYTES)?;
    }
    if names.len() > ROWS_MAX {
        return invalid("name", format!("is given {} times; give it at most {ROWS_MAX} times", names.len()));
    }
    names.retain(|name| readable.contains(name));
    Ok(Asked::Named(names))
}

fn filter(query: &Query, readable: Names) -> Result<NameFilter, InvalidInput> {
    let (text, filter) = (query.text("search")?, query.text("filter")?);
    input::plain_text("search", text, LOGICAL_ID_MAX_BYTES)?;
    input::plain_text("filter", filter, LOGICAL_ID_MAX_BYTES)?;
    if !text.is_empty() && !filter.is_empty() {
        return invalid("filter", "is given together with search; give one of them");
    }
    let search = if text.is_empty() { Search::names(filter) } else { Search::everything(text) };
    let state = match query.text("state")? {
        "" => None,
        word => match NameState::from_word(word) {
            Some(state) => Some(state),
            None => {
                let words = NameState::ALL.map(NameState::as_str).join(", ");
                return invalid("state", format!("is not a state of a name; choose {words}"));
            }
        },
    };
    Ok(NameFilter { search, state, readable })
}

fn place(text: &str) -> Result<Option<Cursor>, InvalidInput> {
    if text.is_empty() {
        return Ok(None);
    }
    let place = text.split_once(':').and_then(|(state, name)| {
        Some(Cursor { state: NameState::from_word(state)?, logical_id: LogicalId::from_record(name) })
    });
    match place {
        Some(place) => Ok(Some(place)),
        None => invalid("after", "is no place in this list; give the `next` of the page before, or leave it out"),
    }
}

fn row(row: &NameRow, epoch: Epoch, now: Timestamps) -> Value {
    let summary = &row.summary;
    json!({
        "logicalId": row.logical_id.as_str(),
        "found": row.found.as_ref().map(|(found, entry)| found_json(*found, entry)),
        "state": summary.state.as_str(),
        "alive": summary.alive,
        "suspect": summary.suspect,
        "starting": summary.starting,
        "draining": summary.draining,
        "dead": summary.dead,
        "best": summary.best.as_ref().map(|entry| best(entry, now)),
        "lastDeath": summary.last_dead.as_ref().and_then(|entry| {
            entry.instance.death_in(epoch).as_ref().map(instance::death)
        }),
    })
}

/// What a search found, if not the name: of which instance, which field, and its value.
fn found_json(found: Found, entry: &Entry) -> Value {
    let instance = &entry.instance;
    let value = match found {
        Found::Node => instance.node_id.as_deref().unwrap_or_default().to_owned(),
        Found::Address => instance.ip_address.map(|ip| ip.to_string()).unwrap_or_default(),
        Found::InstanceId => instance.instance_id.to_string(),
    };
    json!({"field": found.as_str(), "value": value, "instanceId": instance.instance_id.to_string()})
}

fn best(entry: &Entry, now: Timestamps) -> Value {
    let (instance, lease) = (&entry.instance, &entry.lease);
    json!({
        "instanceId": instance.instance_id.to_string(),
        "ipAddress": instance.ip_address.map(|ip| ip.to_string()).unwrap_or_default(),
        "port": instance.port.map(NonZeroU16::get).unwrap_or_default(),
        "nodeId": instance.node_id.as_deref().unwrap_or_default(),
        "ttl": value::duration(instance.ttl.as_duration()),
        "leaseRemaining": value::duration(std::time::Duration::from_millis(lease.remaining_ms(now.now_ms))),
        "silentFor": value::silent_for(lease, now.now_ms),
        "suspect": lease.is_suspect(now.now_ms),
    })
}
