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
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::{convert, failure::Failure, reader, selection};
use crate::{
    model::{Epoch, Revision},
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
    let next = match history {
        None => Next::Snapshot { snapshot: Arc::clone(&snapshot), after: None, reset: false },
        Some(history_id) if can_resume(&snapshot, history_id, resume_after) => {
            Next::Resume { snapshot: Arc::clone(&snapshot), after: resume_after }
        }
        Some(_) => Next::Snapshot { snapshot: Arc::clone(&snapshot), after: None, reset: true },
    };
    let watcher = Watcher { view, filter, batches, seen: snapshot.revision(), next, stop, _permit: permit };
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

struct Watcher {
    view: View,
    filter: Filter,
    batches: Receiver<Arc<Batch>>,
    /// Batches up to here are known to the client.
    seen: Revision,
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
        let mut response = header(&snapshot);
        response.reset = reset;
        let page = page(&snapshot, &self.filter, after.as_ref(), PAGE);
        if let Some(cluster) = snapshot.cluster() {
            response.events = page.entries.iter().map(|entry| self.event(entry, cluster.epoch, true)).collect();
        }
        self.next = match page.next {
            // Until it is complete, nothing may be resumed from it.
            Some(next) => {
                response.revision = 0;
                Next::Snapshot { snapshot, after: Some(next), reset: false }
            }
            None => {
                response.snapshot_complete = true;
                self.seen = response_revision(&response);
                Next::Changes
            }
        };
        response
    }

    fn resume(&mut self, snapshot: &Snapshot, after: Revision) -> WatchResponse {
        let mut response = header(snapshot);
        if let Some(cluster) = snapshot.cluster() {
            let changed = changed_after(snapshot, &self.filter, after);
            response.events = changed
                .iter()
                .map(|entry| self.event(entry, cluster.epoch, self.filter.matches(entry, cluster.epoch)))
                .collect();
        }
        self.seen = response_revision(&response);
        self.next = Next::Changes;
        response
    }

    async fn changes(&mut self) -> Result<WatchResponse, Failure> {
        let mut response = WatchResponse::default();
        loop {
            let batch = match timeout(BOOKMARK_PERIOD, self.batches.recv()).await {
                Ok(Ok(batch)) => batch,
                Ok(Err(RecvError::Lagged(_))) => return Err(Failure::WatcherTooSlow),
                Ok(Err(RecvError::Closed)) => return Err(Failure::Write(WriteError::ShuttingDown)),
                Err(_) => {
                    self.fill_header(&mut response);
                    self.next = Next::Changes;
                    return Ok(response);
                }
            };
            if batch.reset {
                let snapshot = Arc::clone(&self.view.snapshot());
                return Ok(self.page(snapshot, None, true));
            }
            self.take(&batch, &mut response);
            while response.events.len() < EVENTS_ENOUGH
                && let Ok(batch) = self.batches.try_recv()
            {
                if batch.reset {
                    let snapshot = Arc::clone(&self.view.snapshot());
                    return Ok(self.page(snapshot, None, true));
                }
                self.take(&batch, &mut response);
            }
            if !response.events.is_empty() || response.epoch_number != 0 {
                self.fill_header(&mut response);
                self.next = Next::Changes;
                return Ok(response);
            }
        }
    }

    /// Takes over what of a batch concerns this watcher.
    fn take(&mut self, batch: &Batch, response: &mut WatchResponse) {
        let epoch = batch.cluster.epoch;
        if batch.cluster.revision > self.seen && batch.hints.is_empty() {
            let events = batch.changes.iter().filter_map(|change| self.change_event(change, epoch));
            response.events.extend(events);
            self.seen = batch.cluster.revision;
            if batch.changes.is_empty() {
                // A revision without a change of an instance is a rotation: worth telling at once.
                response.epoch_number = epoch.number;
            }
        }
        response.events.extend(batch.hints.iter().filter_map(|hint| self.hint_event(hint, epoch)));
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

    /// Says how far the client has seen everything, which may be less than the latest snapshot.
    fn fill_header(&self, response: &mut WatchResponse) {
        let events = std::mem::take(&mut response.events);
        *response = header(&self.view.snapshot());
        response.events = events;
        response.revision = self.seen.0;
    }
}

fn header(snapshot: &Snapshot) -> WatchResponse {
    let Some(cluster) = snapshot.cluster() else { return WatchResponse::default() };
    WatchResponse {
        revision: cluster.revision.0,
        history_id: cluster.history_id.to_string(),
        cluster_epoch: cluster.epoch.id.to_string(),
        epoch_number: cluster.epoch.number,
        ..Default::default()
    }
}

fn response_revision(response: &WatchResponse) -> Revision {
    Revision(response.revision)
}
