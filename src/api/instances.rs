//! `GET /api/v1/instances`, a page of instances; `GET /api/v1/explain`, how each instance of a logical id stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Extension,
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Value, json};

use super::{
    answer::{json, limit},
    asker::Asker,
    error::ApiError,
    instance::instance,
    query::Query,
    status_cache::StatusCache,
    value,
};
use crate::{
    json::value::long,
    model::{
        Epoch, InstanceId, InstanceStatus, InvalidInput, LogicalId,
        explain::{Candidate, Explained, Standing, explain as rank},
        input::{self, LOGICAL_ID_MAX_BYTES, NAME_MAX_BYTES, invalid},
    },
    view::{
        Entry, Name, Snapshot,
        list::{Cursor, Filter, page},
        resolve::{Choice, resolve},
    },
};

/// Most instances of a name that are ranked for one answer.
const RANKED_MAX: usize = 2_000;

/// `GET /api/v1/instances?name=&prefix=&status=&node=&label=k=v&limit=&after=`.
pub(super) async fn list(
    State(cache): State<StatusCache>,
    Extension(asker): Extension<Asker>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::read(raw.as_deref(), &["name", "prefix", "status", "node", "label", "limit", "after"])?;
    let (mut filter, limit, after) = (filter(&query)?, limit(&query)?, position(query.text("after")?)?);
    let readable = asker.readable(&filter.logical_id, &filter.logical_id_prefix)?;
    filter.readable = readable.names;
    let (snapshot, now) = (Arc::clone(&cache.view().snapshot()), cache.now());
    let epoch = snapshot.cluster().ok_or_else(ApiError::not_yet_seen)?.epoch;
    let page = page(&snapshot, &filter, after.as_ref(), limit);
    let rows: Vec<Value> = page.entries.iter().map(|entry| instance(&cache, entry, epoch, now.now_ms)).collect();
    let next = page.next.map_or(String::new(), |next| format!("{}:{}", next.instance_id, next.logical_id));
    let body = json!({
        "instances": rows,
        "next": next,
        "revision": long(snapshot.revision()),
        "staleFor": value::duration(cache.view().stale_for()),
        "filtered": readable.is_filtered,
    });
    Ok(json(body.to_string()))
}

fn filter(query: &Query) -> Result<Filter, InvalidInput> {
    let (name, prefix, node) = (query.text("name")?, query.text("prefix")?, query.text("node")?);
    input::plain_text("name", name, LOGICAL_ID_MAX_BYTES)?;
    input::plain_text("prefix", prefix, LOGICAL_ID_MAX_BYTES)?;
    input::plain_text("node", node, NAME_MAX_BYTES)?;
    if !name.is_empty() && !prefix.is_empty() {
        return invalid("prefix", "is given together with name; give one of them");
    }
    let statuses = match query.text("status")? {
        "" => BTreeSet::new(),
        "any" => BTreeSet::from(InstanceStatus::ALL),
        word => match InstanceStatus::from_word(word) {
            Some(status) => BTreeSet::from([status]),
            None => return invalid("status", "is not a status; choose starting, alive, draining, dead or any"),
        },
    };
    Ok(Filter {
        logical_id: name.to_owned(),
        logical_id_prefix: prefix.to_owned(),
        statuses,
        node_id: node.to_owned(),
        labels: query.labels()?,
        ..Filter::default()
    })
}

fn position(text: &str) -> Result<Option<Cursor>, InvalidInput> {
    if text.is_empty() {
        return Ok(None);
    }
    let position = text.split_once(':').and_then(|(id, name)| {
        let instance_id = input::instance_id("after", id).ok()?;
        Some(Cursor { logical_id: LogicalId::from_record(name), instance_id })
    });
    match position {
        Some(position) => Ok(Some(position)),
        None => invalid("after", "is no place in this list; give the `next` of the page before, or leave it out"),
    }
}

/// `GET /api/v1/explain?name=&limit=`.
pub(super) async fn explain(
    State(cache): State<StatusCache>,
    Extension(asker): Extension<Asker>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::read(raw.as_deref(), &["name", "limit"])?;
    let (logical_id, limit) = (query.text("name")?, limit(&query)?);
    input::required_text("name", logical_id, LOGICAL_ID_MAX_BYTES)?;
    asker.readable(logical_id, "")?;
    let (snapshot, now) = (Arc::clone(&cache.view().snapshot()), cache.now());
    let epoch = snapshot.cluster().ok_or_else(ApiError::not_yet_seen)?.epoch;
    let Some(name) = snapshot.name(logical_id) else {
        let problem = format!("no instance of {logical_id} is on record; check the spelling");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "UNKNOWN_LOGICAL_ID", problem));
    };
    let entries = to_rank(&snapshot, logical_id, name, epoch, now.now_ms);
    let candidates: Vec<_> = entries.values().map(|entry| candidate(entry, epoch, now.now_ms)).collect();
    let explained = rank(&candidates);
    let chosen = explained.first().filter(|first| matches!(first.standing, Standing::Chosen { .. }));
    let rows = explained.iter().take(limit).filter_map(|it| {
        let entry = entries.get(&it.instance_id)?;
        let silent_for = value::silent_for(&entry.lease, now.now_ms);
        Some(row(it, instance(&cache, entry, epoch, now.now_ms), silent_for))
    });
    let body = json!({
        "logicalId": logical_id,
        "chosen": chosen.map(|chosen| chosen.instance_id.to_string()),
        "candidates": rows.collect::<Vec<_>>(),
        "instances": name.all.len(),
        "complete": name.all.len() <= entries.len().min(limit),
        "revision": long(snapshot.revision()),
        "staleFor": value::duration(cache.view().stale_for()),
    });
    Ok(json(body.to_string()))
}

/// The instances of a name that are worth ranking: all, or of very many those that matter, the chosen one among them.
fn to_rank(
    snapshot: &Snapshot,
    logical_id: &str,
    name: &Name,
    epoch: Epoch,
    now_ms: u64,
) -> BTreeMap<InstanceId, Arc<Entry>> {
    let chosen = resolve(snapshot, logical_id, &Choice::default(), now_ms).ok().map(|chosen| chosen.entry);
    let alive = name.alive.iter().filter(|entry| entry.instance.status_in(epoch) == InstanceStatus::Alive);
    let entries = alive.take(RANKED_MAX).chain(name.all.iter().take(RANKED_MAX)).map(Arc::clone).chain(chosen);
    entries.map(|entry| (entry.instance.instance_id, entry)).collect()
}

fn candidate(entry: &Entry, epoch: Epoch, now_ms: u64) -> Candidate {
    let instance = &entry.instance;
    Candidate {
        instance_id: instance.instance_id,
        status: instance.status,
        death: instance.death().and_then(|death| death.reason),
        epoch_is_current: instance.epoch.id == epoch.id,
        suspect: entry.lease.is_suspect(now_ms),
        started_at: instance.started_at,
        excluded: false,
        labels_match: true,
    }
}

fn row(explained: &Explained, instance: Value, silent_for: Value) -> Value {
    let by = match explained.standing {
        Standing::Outranked { by, .. } => Some(by.to_string()),
        _ => None,
    };
    json!({
        "rank": explained.rank,
        "standing": explained.standing.as_str(),
        "because": explained.standing.because(),
        "by": by,
        "why": explained.to_string(),
        "silentFor": silent_for,
        "instance": instance,
    })
}
