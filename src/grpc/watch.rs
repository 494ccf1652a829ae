//! Watch: a snapshot, then every change among the instances that match.
//!
//! A watcher subscribes to the hub before it looks at the snapshot, so nothing falls between the two. It is driven by
//! its client: nothing is read from the hub until the client has taken the response before. One that falls too far
//! behind is told so and ended; it resumes after what it has seen and gets the difference.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

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
        list::{Filter, Position, can_tell_changes, changed_after, page},
    },
};

/// Most watchers of one daemon.
pub const WATCHERS_MAX: usize = 16_384;
/// How often a watcher without changes is told the revision.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(5);
/// Instances of one response of a snapshot.
const PAGE: usize = 500;
/// Events after which a response takes up no more...
const EVENTS_ENOUGH: usize = 1_000;
/// ...or their bytes: clients refuse messages over 4 MiB, and a client that does not read holds one of them.
const BYTES_ENOUGH: usize = 1024 * 1024;

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
        Some(history_id) if seen.history_id == history_id && can_tell_changes(&snapshot, &filter, resume_after) => {
            Next::Resume { target: seen, changed: changed_after(&snapshot, &filter, resume_after).into() }
        }
        Some(_) => Next::Snapshot { snapshot: Arc::clone(&snapshot), after: None, reset: true },
    };
    let watcher = Watcher { view, filter, batches, rest: None, seen, next, stop, _permit: permit };
    Ok(Box::pin(stream::unfold(watcher, async |mut watcher| {
        let response = watcher.respond().await?;
        Some((response.map_err(Status::from), watcher))
    })))
}

/// What the next response tells.
enum Next {
    Snapshot {
        snapshot: Arc<Snapshot>,
        after: Option<Position>,
        reset: bool,
    },
    /// What changed up to the target, as far as it is not yet told.
    Resume {
        target: Seen,
        changed: VecDeque<Arc<Entry>>,
    },
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

/// The events of one response.
#[derive(Default)]
struct Events {
    encoded: Vec<Bytes>,
    bytes: usize,
}

impl Events {
    fn push(&mut self, event: Bytes) {
        self.bytes += event.len();
        self.encoded.push(event);
    }

    fn are_enough(&self) -> bool {
        self.encoded.len() >= EVENTS_ENOUGH || self.bytes >= BYTES_ENOUGH
    }
}

struct Watcher {
    view: View,
    filter: Filter,
    batches: Receiver<Arc<Batch>>,
    /// A batch that was too much for one response, and how many of its changes were taken.
    rest: Option<(Arc<Batch>, usize)>,
    seen: Seen,
    next: Next,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    async fn respond(&mut self) -> Option<Result<WatchResponse, Failure>> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Snapshot { snapshot, after, reset } => Some(Ok(self.page(snapshot, after, reset))),
            Next::Resume { target, changed } => Some(Ok(self.resume(target, changed))),
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
        let mut events = Events::default();
        let mut last = None;
        for entry in &page.entries {
            if events.are_enough() {
                break;
            }
            events.push(self.event(entry, seen.epoch, true));
            last = Some(entry);
        }
        let cut = events.encoded.len() < page.entries.len();
        response.events = events.encoded;
        self.next = match if cut { last.map(|last| Position::of(last)) } else { page.next } {
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

    fn resume(&mut self, target: Seen, mut changed: VecDeque<Arc<Entry>>) -> WatchResponse {
        self.seen = target;
        let mut events = Events::default();
        while !events.are_enough()
            && let Some(entry) = changed.pop_front()
        {
            events.push(self.event(&entry, target.epoch, self.filter.matches(&entry, target.epoch)));
            // As far as this: the rest has later revisions.
            self.seen.revision = if changed.is_empty() { target.revision } else { entry.instance.revision };
        }
        self.next = if changed.is_empty() { Next::Changes } else { Next::Resume { target, changed } };
        WatchResponse { events: events.encoded, ..self.seen.response() }
    }

    async fn changes(&mut self) -> Result<WatchResponse, Failure> {
        let told = self.seen.epoch;
        // Of the whole response: changes that do not match must not put the bookmark off.
        let bookmark_at = Instant::now() + BOOKMARK_PERIOD;
        let mut events = Events::default();
        loop {
            let mut next = match self.rest.take() {
                Some(rest) => Some(rest),
                None => match timeout_at(bookmark_at, self.batches.recv()).await {
                    Ok(Ok(batch)) => Some((batch, 0)),
                    Ok(Err(RecvError::Lagged(_))) => return Err(Failure::WatcherTooSlow),
                    Ok(Err(RecvError::Closed)) => return Err(Failure::Write(WriteError::ShuttingDown)),
                    Err(_) => break,
                },
            };
            while let Some((batch, taken)) = next {
                if batch.reset {
                    let snapshot = Arc::clone(&self.view.snapshot());
                    return Ok(self.page(snapshot, None, true));
                }
                self.rest = self.take(batch, taken, &mut events);
                let more = self.rest.is_none() && !events.are_enough();
                next = if more { self.batches.try_recv().ok().map(|batch| (batch, 0)) } else { None };
            }
            if !events.encoded.is_empty() || self.seen.epoch != told || Instant::now() >= bookmark_at {
                break;
            }
        }
        self.next = Next::Changes;
        Ok(WatchResponse { events: events.encoded, ..self.seen.response() })
    }

    /// Takes over what of a batch concerns this watcher, but for so many changes. Returns it if more is left than fits.
    fn take(&mut self, batch: Arc<Batch>, taken: usize, events: &mut Events) -> Option<(Arc<Batch>, usize)> {
        let epoch = batch.cluster.epoch;
        if batch.cluster.revision > self.seen.revision && batch.hints.is_empty() {
            self.seen = Seen { revision: self.seen.revision, ..Seen::of(&batch.cluster) };
            for (at, change) in batch.changes.iter().enumerate().skip(taken) {
                if events.are_enough() {
                    return Some((batch, at));
                }
                if let Some(event) = self.change_event(change, epoch) {
                    events.push(event);
                }
                self.seen.revision = change.entry.instance.revision;
            }
            self.seen = Seen::of(&batch.cluster);
        }
        for event in batch.hints.iter().filter_map(|hint| self.hint_event(hint, epoch)) {
            events.push(event);
        }
        None
    }

    fn change_event(&self, change: &Change, epoch: Epoch) -> Option<Bytes> {
        if self.filter.matches(&change.entry, epoch) {
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
