//! BeatStream: many leases renewed over one connection.
//!
//! Each request is answered by one response, and the next request is read when the answer has been taken: a client
//! that does not read is not read either, and nothing is buffered here. The stream remembers the leases of its
//! requests, so that the same list sent again (which is what a fleet does) is compared instead of looked up, and so
//! that the end of the stream can make those suspect that no other client renews ([`crate::model::renewer`]).

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{permit::Permit, reader};
use crate::{
    clock::Clock,
    gate::standing::Standing,
    model::{Epoch, Lease, LeaseId, input::invalid, lease::LeaseState, renewer::StreamId},
    proto::v1::{self, ErrorReason},
    registry::{BeatError, Error as WriteError, Leases},
    view::View,
    wire::{
        convert::{self, duration},
        failure::Failure,
    },
};

/// Most leases of one request.
pub const LEASES_MAX: usize = 100_000;
/// Most leases a stream remembers. Beyond, it forgets all of them and begins again: slower, never wrong.
const REMEMBERED_MAX: usize = 2_000_000;

/// How long an answer waits for the record of a death. It is about to be published; the lease has ended in any case.
const RECORD_MAX: Duration = Duration::from_millis(100);

/// The responses.
pub type Responses = Pin<Box<dyn Stream<Item = Result<v1::BeatStreamResponse, Status>> + Send>>;

/// Serves one stream.
pub(super) fn serve(
    requests: Streaming<v1::BeatStreamRequest>,
    standing: Standing,
    leases: Arc<Leases>,
    view: View,
    stop: CancellationToken,
) -> Responses {
    let clock = view.clock();
    let session = Session {
        id: leases.begin_stream(),
        requests,
        checked: standing.caller().generation(),
        standing,
        leases,
        view,
        clock,
        stop,
        lists: HashMap::new(),
        remembered: 0,
        last_ms: 0,
        ended: false,
        broken: false,
    };
    Box::pin(stream::unfold(session, async |mut session| {
        let response = session.next().await?;
        Some((response, session))
    }))
}

/// One stream, as long as it lasts.
struct Session {
    id: StreamId,
    requests: Streaming<v1::BeatStreamRequest>,
    standing: Standing,
    /// Of which policy the rights are by which leases have entered `lists`.
    checked: u64,
    leases: Arc<Leases>,
    view: View,
    clock: Clock,
    stop: CancellationToken,
    /// The leases of earlier requests, by the first of each.
    lists: HashMap<u64, Vec<Arc<Lease>>>,
    remembered: usize,
    /// When the latest request was answered.
    last_ms: u64,
    /// On purpose, or by this daemon: it makes no lease suspect.
    ended: bool,
    /// By the client or on the way: `drop` makes its leases suspect.
    broken: bool,
}

impl Session {
    async fn next(&mut self) -> Option<Result<v1::BeatStreamResponse, Status>> {
        if self.ended || self.broken {
            return None;
        }
        let request = match self.request().await {
            Ok(request) => request,
            Err(failure) => {
                self.ended = true;
                return Some(Err(failure.into()));
            }
        };
        let request = match request {
            Ok(request) => request?,
            Err(status) => {
                // A request that cannot be read, or the end of the connection, over which no answer can be sent.
                self.broken = true;
                return Some(Err(status));
            }
        };
        let goodbye = request.goodbye;
        let answer = self.renew(&request.lease_ids).await;
        self.ended = goodbye || answer.is_err();
        Some(answer.map_err(Status::from))
    }

    /// The next request. Fails if the stream has to end, which makes no lease suspect: the client has not broken it.
    async fn request(&mut self) -> Result<Result<Option<v1::BeatStreamRequest>, Status>, Failure> {
        let stop = self.stop.clone();
        let stopped = || Failure::Write(WriteError::ShuttingDown);
        let request = loop {
            let requested = async {
                tokio::select! {
                    request = self.requests.message() => Ok(Some(request)),
                    changed = self.standing.changed() => changed.map(|()| None),
                }
            };
            if let Some(request) = stop.run_until_cancelled(requested).await.ok_or_else(stopped)?? {
                break request;
            }
        };
        self.standing.refresh()?;
        if self.standing.caller().generation() != self.checked {
            // Each lease enters its list again, by the rights of now.
            self.checked = self.standing.caller().generation();
            self.forget();
        }
        Ok(request)
    }

    async fn renew(&mut self, lease_ids: &[u64]) -> Result<v1::BeatStreamResponse, Failure> {
        if lease_ids.len() > LEASES_MAX {
            return Ok(invalid("lease_ids", format!("has {} ids; send at most {LEASES_MAX}", lease_ids.len()))?);
        }
        let epoch = self.leases.epoch().ok_or(Failure::NotYetSeen)?;
        let mut answer = Answer::default();
        let mut list = self.take_list(lease_ids);
        let unknown = self.renew_list(lease_ids, &mut list, epoch, &mut answer);
        self.remember(list);
        self.leases.count_renewed(u64::from(answer.renewed));
        self.renew_late(unknown?, &mut answer).await?;
        self.last_ms = self.clock.now_ms();
        self.explain(&mut answer.exceptions, epoch).await;
        Ok(v1::BeatStreamResponse {
            exceptions: answer.exceptions,
            cluster_epoch: epoch.id.to_string(),
            epoch_number: epoch.number,
            next_beat_in: answer.interval_ms.map(|ms| duration(Duration::from_millis(ms))),
            renewed: answer.renewed,
        })
    }

    /// Adds to each lease that has ended why it did. A lease ends a moment before the snapshot that records it.
    async fn explain(&self, exceptions: &mut [v1::BeatException], epoch: Epoch) {
        let revision = self.view.snapshot().revision().0;
        if !self.tell_deaths(exceptions, epoch) {
            let _ = timeout(RECORD_MAX, reader::snapshot(&self.view, revision + 1)).await;
            self.tell_deaths(exceptions, epoch);
        }
    }

    /// Returns whether all are on record.
    fn tell_deaths(&self, exceptions: &mut [v1::BeatException], epoch: Epoch) -> bool {
        let mut are_recorded = true;
        for exception in exceptions.iter_mut().filter(|one| one.reason() == ErrorReason::LeaseExpired) {
            let lease_id = LeaseId(exception.lease_id);
            let Some(lease) = self.leases.get(lease_id) else { continue };
            let snapshot = self.view.snapshot();
            let instance = snapshot.instance(lease.instance_id).map(|entry| &entry.instance);
            let Some(instance) = instance.filter(|one| one.lease_id == lease_id) else { continue };
            match instance.death_in(epoch) {
                Some(death) => exception.set_death(convert::death_reason(death.reason)),
                None => are_recorded = false,
            }
        }
        are_recorded
    }

    /// Renews what is known. Returns the ids that are not.
    fn renew_list(
        &self,
        lease_ids: &[u64],
        list: &mut Vec<Arc<Lease>>,
        epoch: Epoch,
        answer: &mut Answer,
    ) -> Result<Vec<LeaseId>, Failure> {
        let mut unknown = Vec::new();
        let mut at = 0;
        let beats = self.leases.beats(self.id, epoch);
        for lease_id in lease_ids {
            let lease_id = LeaseId(*lease_id);
            if list.get(at).is_none_or(|lease| lease.id != lease_id || !self.may_stay(lease)) {
                // From here on the list is another one than it was.
                list.truncate(at);
                match self.enter(lease_id) {
                    Ok(lease) => list.push(lease),
                    Err(BeatError::Unknown) => {
                        unknown.push(lease_id);
                        continue;
                    }
                    Err(error) => {
                        self.leases.count_refused(error);
                        answer.take(lease_id, Err(error))?;
                        continue;
                    }
                }
            }
            if let Some(lease) = list.get(at) {
                let verdict = beats.beat(lease);
                if let Err(error) = &verdict {
                    self.leases.count_refused(*error);
                }
                answer.take(lease_id, verdict)?;
            }
            at += 1;
        }
        list.truncate(at);
        Ok(unknown)
    }

    /// Whether a lease of a list needs no look-up: it is there, and its owner is still the one that it had when it entered the list.
    fn may_stay(&self, lease: &Lease) -> bool {
        lease.state() != LeaseState::Gone && (!self.permit().is_enforced() || self.permit().owns(lease))
    }

    fn permit(&self) -> Permit<'_> {
        Permit::new(self.standing.caller(), &self.view)
    }

    /// A lease that the caller may renew. One that it may not is as unknown as one that does not exist.
    fn enter(&self, lease_id: LeaseId) -> Result<Arc<Lease>, BeatError> {
        let lease = self.leases.get(lease_id).ok_or(BeatError::Unknown)?;
        self.permit().beat(&lease)?;
        Ok(lease)
    }

    /// Leases that were not known may be too new for this daemon: they are looked up again once it has caught up. One
    /// that may still come is not called unknown, because its owner would give it up.
    async fn renew_late(&mut self, unknown: Vec<LeaseId>, answer: &mut Answer) -> Result<(), Failure> {
        let newest = unknown.iter().max().copied().filter(|newest| reader::may_still_come(&self.view, *newest));
        let behind = match newest {
            Some(newest) => reader::lease(&self.view, newest).await == Err(Failure::NotYetSeen),
            None => false,
        };
        for lease_id in unknown {
            let verdict = self.leases.beat_if(lease_id, |lease| self.permit().beat(lease));
            if behind && verdict == Err(BeatError::Unknown) && reader::may_still_come(&self.view, lease_id) {
                answer.except(lease_id, ErrorReason::NotYetSeen);
            } else {
                answer.take(lease_id, verdict)?;
            }
        }
        Ok(())
    }

    fn take_list(&mut self, lease_ids: &[u64]) -> Vec<Arc<Lease>> {
        let list = lease_ids.first().and_then(|first| self.lists.remove(first)).unwrap_or_default();
        self.remembered -= list.len();
        list
    }

    fn forget(&mut self) {
        self.lists.clear();
        self.remembered = 0;
    }

    fn remember(&mut self, list: Vec<Arc<Lease>>) {
        if self.remembered + list.len() > REMEMBERED_MAX {
            self.forget();
        }
        if let Some(first) = list.first() {
            self.remembered += list.len();
            if let Some(before) = self.lists.insert(first.id.0, list) {
                self.remembered -= before.len();
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.ended || self.stop.is_cancelled() {
            return;
        }
        let lost = self.leases.lose_stream(self.id, self.lists.values().flatten(), self.last_ms);
        self.view.hint(&lost, true);
    }
}

/// The answer to one request, as it grows.
#[derive(Default)]
struct Answer {
    exceptions: Vec<v1::BeatException>,
    renewed: u32,
    interval_ms: Option<u64>,
}

impl Answer {
    fn take(
        &mut self,
        lease_id: LeaseId,
        verdict: Result<crate::registry::Accepted, BeatError>,
    ) -> Result<(), Failure> {
        let reason = match verdict {
            Ok(accepted) => {
                self.renewed += 1;
                let interval_ms = accepted.ttl.beat_interval_ms();
                self.interval_ms = Some(self.interval_ms.map_or(interval_ms, |shortest| shortest.min(interval_ms)));
                return Ok(());
            }
            Err(BeatError::NotSaved) => return Err(Failure::BeatsNotSaved),
            Err(BeatError::NotLoaded) => return Err(Failure::NotYetSeen),
            Err(BeatError::Unknown) => ErrorReason::UnknownLease,
            Err(BeatError::Expired) => ErrorReason::LeaseExpired,
            Err(BeatError::Replaced) => ErrorReason::LeaseReplaced,
            Err(BeatError::Fenced(_)) => ErrorReason::EpochFenced,
            Err(BeatError::Denied) => ErrorReason::PermissionDenied,
        };
        self.except(lease_id, reason);
        Ok(())
    }

    fn except(&mut self, lease_id: LeaseId, reason: ErrorReason) {
        self.exceptions.push(v1::BeatException { lease_id: lease_id.0, reason: reason.into(), ..Default::default() });
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::wire::answer_size::{ANSWER_MAX_BYTES, element_bytes};

    #[test]
    fn answer_of_a_beat_stream_never_comes_near_the_limit() {
        // The numbers of both enumerations stay below 128, which takes one byte.
        let exception = v1::BeatException { lease_id: u64::MAX, reason: 127, death: 127 };
        assert!(LEASES_MAX * element_bytes(exception.encoded_len()) < ANSWER_MAX_BYTES / 2);
    }
}
