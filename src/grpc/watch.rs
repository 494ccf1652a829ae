//! Watch: a snapshot, then every change among the instances that match.
//!
//! A watcher subscribes to the hub before it looks at the snapshot, so nothing falls between the two. It is driven by
//! its client: nothing is read from the hub until the client has taken the response before. One that falls too far
//! behind is told so and ended; it resumes after what it has seen and gets the difference.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{Receiver, error::RecvError},
    },
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::{convert, failure::Failure, reader, selection};
use crate::{
    model::{Cluster, Epoch, Revision},
    proto::{shared::WatchResponse, v1},
    registry::Error as WriteError,
    view::{
        Entry, Snapshot, View,
        hub::{Batch, Change, Hint},
        list::{Filter, Position, changed_after, page},
    },
};

/// Most watchers of one daemon.
pub const WATCHERS_MAX: usize = 16_384;
/// How often a watcher without changes is told the revision.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(5);
/// Instances of one response of a snapshot.
const PAGE: usize = 500;
/// Events after which a response gathers no further batches.
const EVENTS_ENOUGH: usize = 1_000;

/// The responses.
pub type Responses = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// Begins to watch.
pub(super) async fn begin(
    request: v1::WatchRequest,
    view: View,
    stop: CancellationToken,
    permit: OwnedSemaphorePermit,
) -> Result<Responses, Failure> {
    let (filter, history) = selection::watch(&request)?;
    // Before the snapshot: what comes between the two is seen twice, and left out by its revision.
    let batches = view.hub().subscribe();
    let resume_after = Revision(request.resume_after);
    let same_history = view.snapshot().cluster().is_some_and(|cluster| Some(cluster.history_id) == history);
    let snapshot = reader::snapshot(&view, if same_history { resume_after.0 } else { 0 }).await?;
    let seen = Seen::of(snapshot.cluster().ok_or(Failure::NotYetSeen)?);
    let next = match history {
        None => Next::Snapshot { snapshot: Arc::clone(&snapshot), after: None, reset: false },
        Some(history_id) if can_resume(&snapshot, history_id, resume_after) => {
            Next::Resume { snapshot: Arc::clone(&snapshot), after: resume_after }
        }
        Some(_) => Next::Snapshot { snapshot: Arc::clone(&snapshot), after: None, reset: true },
    };
    let watcher = Watcher { view, filter, batches, seen, next, stop, _permit: permit };
    Ok(Box::pin(stream::unfold(watcher, async |mut watcher| {
        let response = watcher.respond().await?;
        Some((response.map_err(Status::from), watcher))
    })))
}

/// Whether the difference to what a watcher has seen is still on record.
fn can_resume(snapshot: &Snapshot, history_id: Uuid, after: Revision) -> bool {
    snapshot
        .cluster()
        .is_some_and(|cluster| cluster.history_id == history_id && cluster.purged <= after && after <= cluster.revision)
}

/// What the next response tells.
enum Next {
    Snapshot { snapshot: Arc<Snapshot>, after: Option<Position>, reset: bool },
    Resume { snapshot: Arc<Snapshot>, after: Revision },
    Changes,
    Nothing,
}

/// Up to where a client knows everything.
///
/// Never read from the latest snapshot, which may be ahead of the batches: a revision of one history beside the id of
/// another would be resumed as if it were of that.
#[derive(Clone, Copy)]
struct Seen {
    revision: Revision,
    history_id: Uuid,
    epoch: Epoch,
}

impl Seen {
    fn of(cluster: &Cluster) -> Self {
        Self { revision: cluster.revision, history_id: cluster.history_id, epoch: cluster.epoch }
    }

    /// A response that tells so, and nothing else yet.
    fn response(self) -> WatchResponse {
        WatchResponse {
            revision: self.revision.0,
            history_id: self.history_id.to_string(),
            cluster_epoch: self.epoch.id.to_string(),
            epoch_number: self.epoch.number,
            ..Default::default()
        }
    }
}

struct Watcher {
    view: View,
    filter: Filter,
    batches: Receiver<Arc<Batch>>,
    seen: Seen,
    next: Next,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    async fn respond(&mut self) -> Option<Result<WatchResponse, Failure>> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Snapshot { snapshot, after, reset } => Some(Ok(self.page(snapshot, after, reset))),
            Next::Resume { snapshot, after } => Some(Ok(self.resume(&snapshot, after))),
            Next::Changes => {
                let stop = self.stop.clone();
                match stop.run_until_cancelled(self.changes()).await {
                    Some(response) => Some(response),
                    None => Some(Err(Failure::Write(WriteError::ShuttingDown))),
                }
            }
            Next::Nothing => None,
        }
    }

    fn page(&mut self, snapshot: Arc<Snapshot>, after: Option<Position>, reset: bool) -> WatchResponse {
        let seen = snapshot.cluster().map_or(self.seen, Seen::of);
        let mut response = WatchResponse { reset, ..seen.response() };
        let page = page(&snapshot, &self.filter, after.as_ref(), PAGE);
        response.events = page.entries.iter().map(|entry| self.event(entry, seen.epoch, true)).collect();
        self.next = match page.next {
            // Until it is complete, nothing may be resumed from it.
            Some(next) => {
                response.revision = 0;
                Next::Snapshot { snapshot, after: Some(next), reset: false }
            }
            None => {
                response.snapshot_complete = true;
                self.seen = seen;
                Next::Changes
            }
        };
        response
    }

    fn resume(&mut self, snapshot: &Snapshot, after: Revision) -> WatchResponse {
        self.seen = snapshot.cluster().map_or(self.seen, Seen::of);
        let epoch = self.seen.epoch;
        let changed = changed_after(snapshot, &self.filter, after);
        let events = changed.iter().map(|entry| self.event(entry, epoch, self.filter.matches(entry, epoch)));
        let response = WatchResponse { events: events.collect(), ..self.seen.response() };
        self.next = Next::Changes;
        response
    }

    async fn changes(&mut self) -> Result<WatchResponse, Failure> {
        let told = self.seen.epoch;
        // Of the whole response: changes that do not match must not put the bookmark off.
        let bookmark_at = Instant::now() + BOOKMARK_PERIOD;
        let mut events = Vec::new();
        loop {
            let mut next = match timeout_at(bookmark_at, self.batches.recv()).await {
                Ok(Ok(batch)) => Some(batch),
                Ok(Err(RecvError::Lagged(_))) => return Err(Failure::WatcherTooSlow),
                Ok(Err(RecvError::Closed)) => return Err(Failure::Write(WriteError::ShuttingDown)),
                Err(_) => break,
            };
            while let Some(batch) = next {
                if batch.reset {
                    let snapshot = Arc::clone(&self.view.snapshot());
                    return Ok(self.page(snapshot, None, true));
                }
                self.take(&batch, &mut events);
                next = if events.len() < EVENTS_ENOUGH { self.batches.try_recv().ok() } else { None };
            }
            if !events.is_empty() || self.seen.epoch != told || Instant::now() >= bookmark_at {
                break;
            }
        }
        self.next = Next::Changes;
        Ok(WatchResponse { events, ..self.seen.response() })
    }

    /// Takes over what of a batch concerns this watcher.
    fn take(&mut self, batch: &Batch, events: &mut Vec<Bytes>) {
        let epoch = batch.cluster.epoch;
        if batch.cluster.revision > self.seen.revision && batch.hints.is_empty() {
            events.extend(batch.changes.iter().filter_map(|change| self.change_event(change, epoch)));
            self.seen = Seen::of(&batch.cluster);
        }
        events.extend(batch.hints.iter().filter_map(|hint| self.hint_event(hint, epoch)));
    }

    fn change_event(&self, change: &Change, epoch: Epoch) -> Option<Bytes> {
        if !change.vanished && self.filter.matches(&change.entry, epoch) {
            return Some(change.put.get_or_init(|| self.event(&change.entry, epoch, true)).clone());
        }
        // As it was written before: it stays known to the watcher until it is told otherwise.
        let matched = change.before.as_ref().is_some_and(|before| self.filter.matches(before, before.instance.epoch));
        matched.then(|| change.gone.get_or_init(|| self.event(&change.entry, epoch, false)).clone())
    }

    fn hint_event(&self, hint: &Hint, epoch: Epoch) -> Option<Bytes> {
        let event = || {
            let kind = if hint.suspect { v1::WatchEventType::Suspect } else { v1::WatchEventType::Recovered };
            let instance = v1::Instance {
                instance_id: hint.entry.instance.instance_id.to_string(),
                logical_id: hint.entry.instance.logical_id.to_string(),
                lease_id: hint.entry.instance.lease_id.0,
                suspect: hint.suspect,
                ..Default::default()
            };
            v1::WatchEvent { r#type: kind.into(), instance: Some(instance) }.encode_to_vec().into()
        };
        self.filter.matches(&hint.entry, epoch).then(|| hint.encoded.get_or_init(event).clone())
    }

    fn event(&self, entry: &Entry, epoch: Epoch, matches: bool) -> Bytes {
        let kind = if matches { v1::WatchEventType::Put } else { v1::WatchEventType::Gone };
        let instance = convert::instance(entry, epoch, &self.view);
        v1::WatchEvent { r#type: kind.into(), instance: Some(instance) }.encode_to_vec().into()
    }
}
