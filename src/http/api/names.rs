//! `GET /api/v1/names`: logical ids, the worst first.

use std::{num::NonZeroU16, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde_json::{Value, json};

use super::{ApiError, instance, json, limit, value};
use crate::{
    http::{board::Board, query::Query},
    model::{
        Epoch, InvalidInput, LogicalId,
        input::{self, LOGICAL_ID_MAX_BYTES, invalid},
    },
    view::{
        Entry,
        names::{NameFilter, Place, names as page},
        survey::{Moment, NameState, NameSummary},
    },
};

/// `GET /api/v1/names?filter=&state=&limit=&after=`.
pub(super) async fn names(State(board): State<Board>, RawQuery(raw): RawQuery) -> Result<Response, ApiError> {
    let query = Query::read(raw.as_deref(), &["filter", "state", "limit", "after"])?;
    let (filter, limit, after) = (filter(&query)?, limit(&query)?, place(query.text("after")?)?);
    let survey = Arc::clone(&board.summary().await?.survey);
    let (snapshot, now) = (Arc::clone(&board.view().snapshot()), board.moment());
    let epoch = snapshot.cluster().ok_or_else(ApiError::not_yet_seen)?.epoch;
    let page = page(&snapshot, &survey, &filter, after.as_ref(), limit, now);
    let rows: Vec<Value> = page.rows.iter().map(|(name, summary)| row(name, summary, epoch, now)).collect();
    let body = json!({
        "names": rows,
        "next": page.next.map_or(String::new(), |place| format!("{}:{}", place.state.as_str(), place.logical_id)),
        "revision": value::long(snapshot.revision()),
        "staleFor": value::duration(board.view().stale_for()),
    });
    Ok(json(body.to_string()))
}

fn filter(query: &Query) -> Result<NameFilter, InvalidInput> {
    let text = query.text("filter")?;
    input::plain_text("filter", text, LOGICAL_ID_MAX_BYTES)?;
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
    Ok(NameFilter { text: text.to_owned(), state })
}

fn place(text: &str) -> Result<Option<Place>, InvalidInput> {
    if text.is_empty() {
        return Ok(None);
    }
    let place = text.split_once(':').and_then(|(state, name)| {
        Some(Place { state: NameState::from_word(state)?, logical_id: LogicalId::from_record(name) })
    });
    match place {
        Some(place) => Ok(Some(place)),
        None => invalid("after", "is no place in this list; give the `next` of the page before, or leave it out"),
    }
}

fn row(name: &LogicalId, summary: &NameSummary, epoch: Epoch, now: Moment) -> Value {
    json!({
        "logicalId": name.as_str(),
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

fn best(entry: &Entry, now: Moment) -> Value {
    let (instance, lease) = (&entry.instance, &entry.lease);
    json!({
        "instanceId": instance.instance_id.to_string(),
        "ipAddress": instance.ip_address.map(|ip| ip.to_string()).unwrap_or_default(),
        "port": instance.port.map(NonZeroU16::get).unwrap_or_default(),
        "nodeId": instance.node_id.as_deref().unwrap_or_default(),
        "ttl": value::duration(instance.ttl.as_duration()),
        "leaseRemaining": value::duration(std::time::Duration::from_millis(lease.remaining_ms(now.now_ms))),
        "suspect": lease.is_suspect(now.now_ms),
    })
}
