//! Watch: a snapshot, then every change among the instances that match.
//!
//! ```text
//!   begin --> the instances, a page at a time --> what changed meanwhile --> changes, as the hub brings them
//!   resume -----------------------------------------------^     ^                 |
//!                                                               +-- history broken: reset, and from the start
//! ```
//!
//! A watcher is driven by its client: nothing is read, from the view or from the hub, until the client has taken the
//! response before. In between it holds no snapshot and no list, only how far it has come, because it may stop reading
//! for as long as it likes: each page is read from the registry as it is then, and what has changed since the first one
//! is told at the end, before the snapshot is called complete. A watcher subscribes to the hub before it looks at the
//! view, so nothing falls between the two. One that falls too far behind the hub is told so and ended; it resumes after
//! what it has seen and gets the difference.

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

use super::reader;
use crate::{
    gate::standing::Standing,
    model::{Cluster, Epoch, Revision},
    proto::{encoded::WatchResponse, v1},
    registry::Error as WriteError,
    rights::quota::Held,
    view::{
        Entry, Snapshot, View,
        hub::{Batch, Change, Hint, Slot},
        list::{Changed, Cursor, Filter, Page, can_tell_changes, changed_after, page},
    },
    wire::{convert, failure::Failure, selection},
};

/// Most watchers of one daemon.
pub const WATCHERS_MAX: usize = 10_000;
/// How often a watcher without changes is told the revision.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(5);
/// Instances of one response of a snapshot or a resumption.
const PAGE: usize = 500;
/// Events after which a response takes up no more...
const EVENTS_ENOUGH: usize = 1_000;
/// ...or their bytes: a client that does not read makes the daemon hold one of them.
const BYTES_ENOUGH: usize = 64 * 1024;

/// The responses.
pub type Responses = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// The places of a watcher: among those of the daemon, and of its identity.
type Places = (OwnedSemaphorePermit, Option<Held>);

/// Begins to watch.
pub(super) async fn begin(
    request: v1::WatchRequest,
    standing: Standing,
    view: View,
    stop: CancellationToken,
    places: Places,
) -> Result<Responses, Failure> {
    let (mut filter, history) = selection::watch(&request)?;
    let filtered = selection::restrict(&mut filter, standing.caller())?;
    let batches = view.hub().subscribe();
    let resume_after = Revision(request.resume_after);
    let same_history = view.snapshot().cluster().is_some_and(|cluster| Some(cluster.history_id) == history);
    let snapshot = reader::snapshot(&view, if same_history { resume_after.0 } else { 0 }).await?;
    let now = Seen::of(snapshot.cluster().ok_or(Failure::NotYetSeen)?);
    let (seen, next) = match history {
        None => (now, Next::Snapshot { after: None, reset: false }),
        Some(history_id) => {
            (Seen { revision: resume_after, history_id, ..now }, Next::Difference { ends_snapshot: false })
        }
    };
    let watcher = Watcher { view, standing, filter, filtered, batches, rest: None, seen, next, stop, _places: places };
    Ok(Box::pin(stream::unfold(watcher, async |mut watcher| {
        let response = watcher.respond().await?;
        Some((response.map_err(Status::from), watcher))
    })))
}

/// What the next response tells.
enum Next {
    /// The instances after a position, by name. Those before it were told as of `seen` or later.
    Snapshot {
        after: Option<Cursor>,
        reset: bool,
    },
    /// What changed after `seen`.
    Difference {
        ends_snapshot: bool,
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

    /// Whether this is no more than `other`.
    fn is_at(self, other: Self) -> bool {
        (self.revision, self.history_id) == (other.revision, other.history_id)
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
    /// Takes up an event if there is room. Returns whether there was: for one there always is.
    fn take(&mut self, event: impl FnOnce() -> Bytes) -> bool {
        let room = !self.are_enough();
        if room {
            self.push(event());
        }
        room
    }

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
    standing: Standing,
    filter: Filter,
    /// Whether the caller may not read all that it asked for.
    filtered: bool,
    batches: Receiver<Arc<Slot>>,
    /// A batch that was too much for one response, and how many of its changes or hints were taken.
    rest: Option<(Arc<Slot>, usize)>,
    /// What is told; while a snapshot is, what was there at its beginning.
    seen: Seen,
    next: Next,
    stop: CancellationToken,
    _places: Places,
}

impl Watcher {
    async fn respond(&mut self) -> Option<Result<WatchResponse, Failure>> {
        if !matches!(self.next, Next::Nothing) {
            match self.refresh() {
                Ok(false) => {}
                Ok(true) => self.next = Next::Snapshot { after: None, reset: true },
                Err(failure) => {
                    self.next = Next::Nothing;
                    return Some(Err(failure));
                }
            }
        }
        let response = self.next_response().await?;
        let stale_for = Some(convert::duration(self.view.stale_for()));
        Some(response.map(|response| WatchResponse { filtered: self.filtered, stale_for, ..response }))
    }

    /// Takes over what the caller may read now. Returns whether that is something else than before.
    fn refresh(&mut self) -> Result<bool, Failure> {
        if self.standing.refresh()? { self.restrict() } else { Ok(false) }
    }

    fn restrict(&mut self) -> Result<bool, Failure> {
        let before = self.filter.readable.clone();
        self.filtered = selection::restrict(&mut self.filter, self.standing.caller())?;
        Ok(self.filter.readable != before)
    }

    async fn next_response(&mut self) -> Option<Result<WatchResponse, Failure>> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Snapshot { after, reset } => Some(Ok(self.page(after.as_ref(), reset))),
            Next::Difference { ends_snapshot } => Some(Ok(self.difference(ends_snapshot))),
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

    /// The registry as it is, and what comes after it.
    fn current(&mut self) -> (Arc<Snapshot>, Seen) {
        // First, and from the beginning: what came before is in the snapshot, and nothing between the two is missed.
        self.batches = self.view.hub().subscribe();
        self.rest = None;
        let snapshot = Arc::clone(&self.view.snapshot());
        let now = snapshot.cluster().map_or(self.seen, Seen::of);
        (snapshot, now)
    }

    fn page(&mut self, after: Option<&Cursor>, reset: bool) -> WatchResponse {
        let (snapshot, now) = self.current();
        if after.is_none() {
            self.seen = now;
        }
        let Page { entries, next } = page(&snapshot, &self.filter, after, PAGE);
        let mut events = Events::default();
        let taken = entries.iter().take_while(|entry| events.take(|| self.event(entry, now.epoch, true))).count();
        let next = if taken < entries.len() { entries[..taken].last().map(|last| Cursor::of(last)) } else { next };
        let complete = next.is_none() && now.is_at(self.seen);
        self.next = match next {
            Some(after) => Next::Snapshot { after: Some(after), reset: false },
            None if complete => Next::Changes,
            None => Next::Difference { ends_snapshot: true },
        };
        // Until it is complete, nothing may be resumed from it.
        let revision = if complete { now.revision.0 } else { 0 };
        WatchResponse { reset, snapshot_complete: complete, events: events.encoded, revision, ..now.response() }
    }

    fn difference(&mut self, ends_snapshot: bool) -> WatchResponse {
        let (snapshot, now) = self.current();
        if now.history_id != self.seen.history_id || !can_tell_changes(&snapshot, &self.filter, self.seen.revision) {
            return self.page(None, true);
        }
        let Changed { entries, mut reached } = changed_after(&snapshot, &self.filter, self.seen.revision, PAGE);
        let mut events = Events::default();
        let event = |entry| self.event(entry, now.epoch, self.filter.matches(entry, now.epoch));
        let taken = entries.iter().take_while(|entry| events.take(|| event(entry))).count();
        if taken < entries.len()
            && let Some(last) = entries[..taken].last()
        {
            // As far as this: the rest has later revisions.
            reached = last.instance.revision;
        }
        self.seen = Seen { revision: reached, ..now };
        let complete = now.is_at(self.seen);
        self.next = if complete { Next::Changes } else { Next::Difference { ends_snapshot } };
        let revision = if ends_snapshot && !complete { 0 } else { reached.0 };
        let snapshot_complete = ends_snapshot && complete;
        WatchResponse { events: events.encoded, revision, snapshot_complete, ..now.response() }
    }

    async fn changes(&mut self) -> Result<WatchResponse, Failure> {
        let told = self.seen.epoch;
        // Of the whole response: changes that do not match must not put the bookmark off.
        let bookmark_at = Instant::now() + BOOKMARK_PERIOD;
        let mut events = Events::default();
        loop {
            let mut next = match self.rest.take() {
                Some(rest) => Some(rest),
                None => tokio::select! {
                    received = timeout_at(bookmark_at, self.batches.recv()) => match received {
                        Ok(Ok(slot)) => Some((slot, 0)),
                        Ok(Err(RecvError::Lagged(_))) => return Err(Failure::WatcherTooSlow),
                        Ok(Err(RecvError::Closed)) => return Err(Failure::Write(WriteError::ShuttingDown)),
                        Err(_) => break,
                    },
                    changed = self.standing.changed() => {
                        changed?;
                        if self.restrict()? {
                            return Ok(self.page(None, true));
                        }
                        None
                    }
                },
            };
            while let Some((slot, taken)) = next {
                let batch = slot.batch().ok_or(Failure::WatcherTooSlow)?;
                if batch.reset {
                    return Ok(self.page(None, true));
                }
                self.rest = self.take(&batch, taken, &mut events).map(|taken| (slot, taken));
                let more = self.rest.is_none() && !events.are_enough();
                next = if more { self.batches.try_recv().ok().map(|slot| (slot, 0)) } else { None };
            }
            if !events.encoded.is_empty() || self.seen.epoch != told || Instant::now() >= bookmark_at {
                break;
            }
        }
        self.next = Next::Changes;
        Ok(WatchResponse { events: events.encoded, ..self.seen.response() })
    }

    /// Takes over what of a batch concerns this watcher, but for so many changes and hints. If more is left than fits,
    /// returns how many were taken.
    fn take(&mut self, batch: &Batch, taken: usize, events: &mut Events) -> Option<usize> {
        let epoch = batch.cluster.epoch;
        if batch.cluster.revision > self.seen.revision && batch.hints.is_empty() {
            self.seen = Seen { revision: self.seen.revision, ..Seen::of(&batch.cluster) };
            for (at, change) in batch.changes.iter().enumerate().skip(taken) {
                if events.are_enough() {
                    return Some(at);
                }
                if let Some(event) = self.change_event(change, epoch) {
                    events.push(event);
                }
                self.seen.revision = change.entry.instance.revision;
            }
            self.seen = Seen::of(&batch.cluster);
        }
        // A batch carries changes or hints, never both.
        for (at, hint) in batch.hints.iter().enumerate().skip(taken) {
            if events.are_enough() {
                return Some(at);
            }
            if let Some(event) = self.hint_event(hint, epoch) {
                events.push(event);
            }
        }
        None
    }

    fn change_event(&self, change: &Change, epoch: Epoch) -> Option<Bytes> {
        if self.filter.matches(&change.entry, epoch) {
            return Some(change.put.get_or_init(|| self.event(&change.entry, epoch, true)).clone());
        }
        // As it was written before: it stays known to the watcher until it is told otherwise.
        let before = change.before.as_ref().filter(|before| self.filter.matches(before, before.instance.epoch))?;
        if !self.filter.readable.contains(change.entry.instance.logical_id.as_str()) {
            return Some(moved_away(&change.entry, Some(before), epoch));
        }
        Some(change.gone.get_or_init(|| self.event(&change.entry, epoch, false)).clone())
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
        if !self.filter.readable.contains(entry.instance.logical_id.as_str()) {
            return moved_away(entry, None, epoch);
        }
        let kind = if matches { v1::WatchEventType::Put } else { v1::WatchEventType::Gone };
        let instance = convert::instance(entry, epoch, &self.view);
        v1::WatchEvent { r#type: kind.into(), instance: Some(instance) }.encode_to_vec().into()
    }
}

/// The event of an instance that was registered again under a logical id that the watcher may not read: of what it is now,
/// nothing is told.
fn moved_away(entry: &Entry, before: Option<&Arc<Entry>>, epoch: Epoch) -> Bytes {
    let instance = v1::Instance {
        instance_id: entry.instance.instance_id.to_string(),
        logical_id: before.map(|before| before.instance.logical_id.to_string()).unwrap_or_default(),
        lease_id: before.map(|before| before.instance.lease_id.0).unwrap_or_default(),
        cluster_epoch: epoch.id.to_string(),
        epoch_number: epoch.number,
        status: v1::InstanceStatus::Dead.into(),
        ..Default::default()
    };
    v1::WatchEvent { r#type: v1::WatchEventType::Gone.into(), instance: Some(instance) }.encode_to_vec().into()
}
