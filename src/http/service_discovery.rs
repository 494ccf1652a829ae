//! `/sd/prometheus`: the live instances as targets, in the form of Prometheus' HTTP service discovery.
//!
//! Prometheus asks for the whole list every time, and takes what it gets at its word: an empty list removes every
//! target, and with them the alerts on them. So an empty list is only ever the truth. When this daemon is unsure (it has
//! not loaded the registry, or PostgreSQL has not confirmed it for too long), it answers 503, and Prometheus keeps
//! the list it has.
//!
//! The list is of one moment and in a stable order, by logical id and instance id. It is written a part at a time while
//! it is sent, so that a large one is never in memory as text.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use super::respond::{JSON, text};
use crate::{
    api::{
        asker::Asker,
        error::ApiError,
        query::{Query, quoted},
    },
    model::{
        Epoch, InstanceStatus, InvalidInput, Labels,
        input::{self, LOGICAL_ID_MAX_BYTES, NAME_MAX_BYTES, invalid},
    },
    view::{
        Entry, Snapshot, View,
        list::{Filter, page},
    },
};

/// Most targets of one list. More than one Prometheus can scrape; a list that is longer is refused, never cut.
pub const TARGETS_MAX: usize = 100_000;

/// How old the view may be, if the caller does not say: what is older is no better than the list that Prometheus has.
pub const MAX_STALE: Duration = Duration::from_secs(30);

/// What a caller may ask for. The view of a healthy daemon is up to a second old.
const MAX_STALE_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(86_400);

const PARAMETERS: &[&str] = &["name", "prefix", "label", "status", "node", "max_stale"];

/// Targets written at a time: about half a megabyte.
const CHUNK: usize = 1_000;

/// Instances looked at before the filter is asked whether that was enough.
const PAGE: usize = 10_000;

/// Says that targets which the caller may not read are left out: the form of the list has no place for it.
const FILTERED: header::HeaderName = header::HeaderName::from_static("musterd-filtered");

/// The route.
pub fn router<S>(view: View) -> Router<S> {
    Router::new().route("/sd/prometheus", get(answer)).with_state(view)
}

async fn answer(State(view): State<View>, Extension(asker): Extension<Asker>, uri: Uri) -> Response {
    let (mut filter, max_stale) = match Query::read(uri.query(), PARAMETERS).and_then(|query| read(&query)) {
        Ok(read) => read,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let is_filtered = match asker.readable(&filter.logical_id, &filter.logical_id_prefix) {
        Ok(readable) => {
            filter.readable = readable.names;
            readable.is_filtered
        }
        Err(denied) => return ApiError::from(denied).into_text(),
    };
    if let Some(problem) = unsure(&view, max_stale) {
        return text(StatusCode::SERVICE_UNAVAILABLE, problem);
    }
    let snapshot = Arc::clone(&view.snapshot());
    // Of a million instances this takes a while: not on a thread that serves actors.
    let found = tokio::task::spawn_blocking(move || Targets::find(&snapshot, &filter, TARGETS_MAX)).await;
    match found {
        Ok(Some(targets)) if is_filtered => ([(FILTERED, "true")], targets.into_response()).into_response(),
        Ok(Some(targets)) => targets.into_response(),
        Ok(None) => {
            let problem = format!("more than {TARGETS_MAX} targets; narrow them with name, prefix, label, node\n");
            text(StatusCode::BAD_REQUEST, problem)
        }
        Err(error) => {
            tracing::error!(%error, "targets could not be listed");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the list could not be made; see the daemon's log\n".to_owned())
        }
    }
}

/// Why there can be no list now, if so.
fn unsure(view: &View, max_stale: Duration) -> Option<String> {
    if view.applied().is_none() {
        return Some("the registry is not loaded yet; keep the list you have\n".to_owned());
    }
    let stale_for = view.stale_for();
    (stale_for > max_stale).then(|| {
        let (stale_for, max_stale) = (stale_for.as_secs(), humantime::format_duration(max_stale));
        format!("PostgreSQL has not confirmed the list for {stale_for} s, max_stale is {max_stale}; keep the list you have\n")
    })
}

/// The conditions, and how old the view may be.
fn read(query: &Query) -> Result<(Filter, Duration), InvalidInput> {
    let text_of = |name: &str, max_bytes| -> Result<String, InvalidInput> {
        let text = query.one(name)?.unwrap_or_default();
        input::plain_text(name, text, max_bytes)?;
        Ok(text.to_owned())
    };
    let filter = Filter {
        logical_id: text_of("name", LOGICAL_ID_MAX_BYTES)?,
        logical_id_prefix: text_of("prefix", LOGICAL_ID_MAX_BYTES)?,
        statuses: statuses(query)?,
        node_id: text_of("node", NAME_MAX_BYTES)?,
        labels: query.labels()?,
        ..Filter::default()
    };
    if !filter.logical_id.is_empty() && !filter.logical_id_prefix.is_empty() {
        return invalid("prefix", "is given together with name; give one of them");
    }
    Ok((filter, max_stale(query)?))
}

fn statuses(query: &Query) -> Result<BTreeSet<InstanceStatus>, InvalidInput> {
    let mut statuses = BTreeSet::new();
    for word in query.all("status").flat_map(|words| words.split(',')) {
        match InstanceStatus::from_word(word) {
            Some(status) if status != InstanceStatus::Dead => statuses.insert(status),
            _ => return invalid("status", format!("is {}; choose from starting, alive, draining", quoted(word))),
        };
    }
    Ok(statuses)
}

fn max_stale(query: &Query) -> Result<Duration, InvalidInput> {
    let Some(text) = query.one("max_stale")? else { return Ok(MAX_STALE) };
    match humantime::parse_duration(text) {
        Ok(max_stale) if MAX_STALE_RANGE.contains(&max_stale) => Ok(max_stale),
        _ => invalid("max_stale", format!("is {}; write a duration from 2s to 24h, such as 30s", quoted(text))),
    }
}

/// The instances of one list, as of one moment.
struct Targets {
    epoch: Epoch,
    entries: Vec<(SocketAddr, Arc<Entry>)>,
}

impl Targets {
    /// Finds what matches and has an address; `None` if that is more than `limit`.
    fn find(snapshot: &Snapshot, filter: &Filter, limit: usize) -> Option<Self> {
        let epoch = snapshot.cluster()?.epoch;
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let page = page(snapshot, filter, after.as_ref(), PAGE);
            entries.extend(page.entries.into_iter().filter_map(|entry| Some((address(&entry)?, entry))));
            if entries.len() > limit {
                return None;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Some(Self { epoch, entries }),
            }
        }
    }

    /// The list as JSON, in parts.
    fn into_parts(self) -> impl Iterator<Item = Result<Bytes, serde_json::Error>> {
        let Self { epoch, entries } = self;
        let parts = entries.len().div_ceil(CHUNK).max(1);
        (0..parts).map(move |part| {
            let mut json = Vec::new();
            for (at, (address, entry)) in entries.iter().enumerate().skip(part * CHUNK).take(CHUNK) {
                json.extend_from_slice(if at == 0 { b"[\n" } else { b",\n" });
                serde_json::to_writer(&mut json, &Group::of(*address, entry, epoch))?;
            }
            if part + 1 == parts {
                json.extend_from_slice(if entries.is_empty() { b"[]\n" } else { b"\n]\n" });
            }
            Ok(Bytes::from(json))
        })
    }
}

impl IntoResponse for Targets {
    fn into_response(self) -> Response {
        let body = Body::from_stream(futures_util::stream::iter(self.into_parts()));
        ([(header::CONTENT_TYPE, JSON)], body).into_response()
    }
}

fn address(entry: &Entry) -> Option<SocketAddr> {
    Some(SocketAddr::new(entry.instance.ip_address?, entry.instance.port?.get()))
}

/// One target group of Prometheus: an instance and its labels.
#[derive(Debug, Serialize)]
struct Group {
    targets: [SocketAddr; 1],
    labels: BTreeMap<String, String>,
}

impl Group {
    /// What the instance does not have is left out: to Prometheus an empty label and none are the same.
    fn of(address: SocketAddr, entry: &Entry, epoch: Epoch) -> Self {
        let instance = &entry.instance;
        let known = [
            ("logical_id", Some(instance.logical_id.to_string())),
            ("instance_id", Some(instance.instance_id.to_string())),
            ("lease_id", Some(instance.lease_id.to_string())),
            ("epoch_number", Some(instance.epoch.number.to_string())),
            ("status", Some(instance.status_in(epoch).as_str().to_owned())),
            ("node_id", instance.node_id.as_deref().map(str::to_owned)),
            ("actor_name", instance.actor_name.as_deref().map(str::to_owned)),
            ("serve_route", instance.serve_route.as_deref().map(str::to_owned)),
            ("version", instance.version.as_deref().map(str::to_owned)),
            ("owner", instance.owner.as_ref().map(|owner| owner.text().to_string())),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((format!("__meta_musterd_{name}"), value?)));
        let mut labels: BTreeMap<_, _> = known.collect();
        for (name, value) in by_label_name(&instance.labels) {
            labels.insert(format!("__meta_musterd_labelpresent_{name}"), "true".to_owned());
            labels.insert(format!("__meta_musterd_label_{name}"), value.to_owned());
        }
        Self { targets: [address], labels }
    }
}

/// Labels by their keys as Prometheus can have them. Of keys that become the same name, the one that is that name
/// already is kept, else the first in order.
fn by_label_name(labels: &Labels) -> BTreeMap<String, &str> {
    let mut named = BTreeMap::new();
    let (exact, changed): (Vec<_>, Vec<_>) = labels.iter().partition(|(key, _)| label_name(key) == *key);
    for (key, value) in exact.into_iter().chain(changed) {
        named.entry(label_name(key)).or_insert(value);
    }
    named
}

/// A key as the end of the name of a label of Prometheus: every character but ASCII letters, digits and `_` becomes
/// `_`, as in the service discovery of Kubernetes.
fn label_name(key: &str) -> String {
    key.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::fixture::instance, view::fixture::loaded};

    fn labels_of(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_record(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())))
    }

    fn refused(query: &str) -> String {
        Query::read(Some(query), PARAMETERS).and_then(|query| read(&query)).unwrap_err().to_string()
    }

    #[test]
    fn keys_become_names_that_prometheus_accepts() {
        for (key, name) in [("tier", "tier"), ("app.kubernetes.io/name", "app_kubernetes_io_name"), ("größe", "gr__e")]
        {
            assert_eq!(label_name(key), name);
        }
    }

    #[test]
    fn of_keys_that_become_one_name_the_same_one_is_kept_every_time() {
        let labels =
            labels_of(&[("a-b", "dash"), ("a.b", "dot"), ("a_b", "exact"), ("c/d", "slash"), ("c:d", "colon")]);
        let named = by_label_name(&labels);
        assert_eq!(named.into_iter().collect::<Vec<_>>(), [("a_b".to_owned(), "exact"), ("c_d".to_owned(), "slash")]);
    }

    #[test]
    fn query_sets_which_instances_and_the_maximum_age_of_the_list() {
        let query = "name=organ&label=tier=gpu&label=zone=a%3Db&status=alive,draining&node=n1&max_stale=1m";
        let (filter, max_stale) = read(&Query::read(Some(query), PARAMETERS).unwrap()).unwrap();
        assert_eq!((filter.logical_id.as_str(), filter.node_id.as_str()), ("organ", "n1"));
        assert_eq!(filter.labels, labels_of(&[("tier", "gpu"), ("zone", "a=b")]));
        assert_eq!(filter.statuses, BTreeSet::from([InstanceStatus::Alive, InstanceStatus::Draining]));
        assert_eq!(max_stale, Duration::from_secs(60));
        let (filter, max_stale) = read(&Query::read(None, PARAMETERS).unwrap()).unwrap();
        assert_eq!((filter, max_stale), (Filter::default(), MAX_STALE));
    }

    #[test]
    fn contradictory_query_is_refused_by_name() {
        for (query, refusal) in [
            ("status=dead", "status: is \"dead\"; choose from starting, alive, draining"),
            ("status=", "status: is \"\"; choose from starting, alive, draining"),
            ("label=tier", "label: is \"tier\"; write label=KEY=VALUE"),
            ("label==a", "label: is \"=a\"; write label=KEY=VALUE"),
            ("label=a=1&label=a=2", "label: has the key \"a\" twice; give each key once"),
            ("name=a&prefix=b", "prefix: is given together with name; give one of them"),
            ("name=a%0Ab", "name: has the control character U+000A; remove it"),
            ("max_stale=1s", "max_stale: is \"1s\"; write a duration from 2s to 24h, such as 30s"),
            ("max_stale=soon", "max_stale: is \"soon\"; write a duration from 2s to 24h, such as 30s"),
        ] {
            assert_eq!(refused(query), refusal);
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_and_never_cut() {
        let view = loaded((1..=3).map(|number| (instance(number, "organ", InstanceStatus::Alive), 0)));
        let find = |limit| Targets::find(&view.snapshot(), &Filter::default(), limit);
        assert_eq!(find(3).unwrap().entries.len(), 3);
        assert!(find(2).is_none());
    }
}
