//! Renews all leases of a client over one stream, on any daemon.
//!
//! Each request names every lease, in the same order, which is the fastest for the daemon. A request that is not answered
//! in time, or a stream that breaks, moves the client on to the next daemon; the leases stay, because any daemon renews
//! them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::stream;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Streaming;

use super::{
    clock::Moment,
    rules,
    state::{Cell, LossReason},
};
use crate::{
    backoff::{self, Backoff},
    connect::CONNECT_MAX,
    daemons::{Connection, Daemons},
    error::Error,
    reason::Reason,
    wire::{self, BeatStreamRequest, BeatStreamResponse, registry_service_client::RegistryServiceClient},
};

/// Most leases of one request; a limit of the protocol.
const LEASES_MAX: usize = 100_000;
/// When to ask again about a lease that the daemon has not seen yet.
const NOT_YET_SEEN_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two beats: a third of the longest TTL.
const PAUSE_MAX: Duration = Duration::from_secs(100);

/// What became of a lease at a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was renewed by a beat sent then.
    Renewed(Moment),
    /// It has ended.
    Lost(LossReason),
}

#[derive(Debug)]
struct Entry {
    ttl: Duration,
    until: Moment,
    /// Keeps the latest verdict only: a later renewal makes an earlier one pointless, and nothing follows a loss.
    verdict: watch::Sender<Option<Verdict>>,
    /// Hears of failures.
    cell: Arc<Cell>,
}

/// The leases to renew. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<BTreeMap<u64, Entry>>,
    changed: Notify,
}

impl Leases {
    /// Renews a lease that was granted at `granted` from now on, until it is released or lost.
    pub(super) fn hold(
        &self,
        lease_id: u64,
        ttl: Duration,
        granted: Moment,
        cell: &Arc<Cell>,
    ) -> watch::Receiver<Option<Verdict>> {
        let (verdict, receiver) = watch::channel(None);
        self.entries().insert(lease_id, Entry { ttl, until: granted.after(ttl), verdict, cell: Arc::clone(cell) });
        self.inner.changed.notify_one();
        receiver
    }

    /// Renews a lease no longer.
    pub(super) fn release(&self, lease_id: u64) {
        self.entries().remove(&lease_id);
        self.inner.changed.notify_one();
    }

    /// Beats have failed.
    fn fail(&self, error: &Error) {
        self.entries().values().for_each(|entry| entry.cell.fail(error.clone()));
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ids(&self) -> Vec<u64> {
        self.entries().keys().copied().collect()
    }

    fn shortest_ttl(&self) -> Duration {
        self.entries().values().map(|entry| entry.ttl).min().unwrap_or_default()
    }

    fn shortest_remaining(&self) -> Duration {
        let now = Moment::now();
        self.entries().values().map(|entry| entry.until.since(now)).min().unwrap_or_default()
    }

    /// Takes over an answer to a request that named `ids` and was sent at `sent`. Returns whether a lease was not known
    /// to the daemon yet.
    fn take(&self, ids: &[u64], answer: &BeatStreamResponse, sent: Moment) -> bool {
        let exceptions: BTreeMap<u64, Reason> =
            answer.exceptions.iter().map(|one| (one.lease_id, Reason::from(one.reason()))).collect();
        let mut entries = self.entries();
        let mut unseen = false;
        for id in ids {
            let Some(entry) = entries.get_mut(id) else { continue };
            let verdict = match exceptions.get(id) {
                None => {
                    entry.until = entry.until.max(sent.after(entry.ttl));
                    Verdict::Renewed(sent)
                }
                Some(reason) => match rules::loss(*reason) {
                    Some(loss) => Verdict::Lost(loss),
                    None => {
                        unseen = true;
                        continue;
                    }
                },
            };
            let ended = matches!(verdict, Verdict::Lost(_));
            // A keeper that is gone has released the lease, or is about to.
            if entry.verdict.send(Some(verdict)).is_err() || ended {
                entries.remove(id);
            }
        }
        unseen
    }
}

/// Renews what is in `leases`, for as long as the thread runs.
pub(super) async fn run(leases: Leases, daemons: Arc<Daemons>) {
    let mut backoff = Backoff::default();
    let mut failures = 0;
    loop {
        if leases.ids().is_empty() {
            leases.inner.changed.notified().await;
            continue;
        }
        let connection = daemons.reach(CONNECT_MAX).await;
        let outcome = match &connection {
            Ok(connection) => {
                let outcome = beat(&leases, connection, || {
                    failures = 0;
                    backoff.reset();
                });
                outcome.await
            }
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = outcome {
            leases.fail(&error);
            daemons.give_up(connection.as_ref().ok()).await;
            failures += 1;
            // Each daemon is tried once without a pause: a lease may be short.
            if failures >= daemons.count() {
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Beats over one stream until it breaks, which is an error, or no lease is left.
async fn beat(leases: &Leases, connection: &Connection, mut answered: impl FnMut()) -> Result<(), Error> {
    let (requests, queue) = mpsc::channel(1);
    let queue = stream::unfold(queue, async |mut queue| queue.recv().await.map(|request| (request, queue)));
    let mut registry = RegistryServiceClient::new(connection.channel.clone());
    let limit = rules::answer_limit(leases.shortest_ttl());
    let opened =
        timeout(limit, registry.beat_stream(queue)).await.map_err(|_| Error::silent(&connection.address, limit))?;
    let mut answers = opened.map_err(|status| Error::from_status(&connection.address, &status))?.into_inner();
    loop {
        let ids = leases.ids();
        if ids.is_empty() {
            // The end of a stream without a goodbye makes its leases suspect.
            let _ = requests.send(BeatStreamRequest { lease_ids: Vec::new(), goodbye: true }).await;
            return Ok(());
        }
        let mut pause = PAUSE_MAX;
        for ids in ids.chunks(LEASES_MAX) {
            let sent = Moment::now();
            let limit = rules::answer_limit(leases.shortest_ttl());
            let request = BeatStreamRequest { lease_ids: ids.to_vec(), goodbye: false };
            let exchange = async {
                requests.send(request).await.map_err(|_| ended(connection))?;
                receive(&mut answers, connection).await
            };
            let answer = timeout(limit, exchange).await.map_err(|_| Error::silent(&connection.address, limit))??;
            answered();
            let unseen = leases.take(ids, &answer, sent);
            let expected = wire::duration(answer.next_beat_in.as_ref());
            let next = rules::next_beat(expected, leases.shortest_remaining(), backoff::random());
            pause = pause.min(if unseen { next.min(NOT_YET_SEEN_PAUSE) } else { next });
        }
        let mut due = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(due) => break,
                // A lease was added or released: a short one may need its beat before this pause ends.
                () = leases.inner.changed.notified() => {
                    due = due.min(Instant::now() + rules::next_beat(Duration::ZERO, leases.shortest_remaining(), 0.0));
                }
                // The daemon ends the stream when it leaves; waiting for the next beat would cost a third of the TTL.
                answer = receive(&mut answers, connection) => {
                    answer?;
                    break;
                }
            }
        }
    }
}

async fn receive(
    answers: &mut Streaming<BeatStreamResponse>,
    connection: &Connection,
) -> Result<BeatStreamResponse, Error> {
    match answers.message().await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(ended(connection)),
        Err(status) => Err(Error::from_status(&connection.address, &status)),
    }
}

fn ended(connection: &Connection) -> Error {
    Error::broken(&connection.address, "the stream of beats has ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{BeatException, ErrorReason};

    fn answer(lease_id: u64, reason: ErrorReason) -> BeatStreamResponse {
        let exceptions = vec![BeatException { lease_id, reason: reason.into() }];
        BeatStreamResponse { exceptions, ..Default::default() }
    }

    #[test]
    fn answer_renews_what_it_does_not_name_and_ends_what_it_does() {
        let (leases, now) = (Leases::default(), Moment::now());
        let cell = Arc::new(Cell::new(None));
        let kept = leases.hold(1, Duration::from_secs(6), now, &cell);
        let gone = leases.hold(2, Duration::from_secs(6), now, &cell);
        let sent = now.after(Duration::from_secs(2));
        assert!(!leases.take(&[1, 2], &answer(2, ErrorReason::LeaseExpired), sent));
        assert_eq!(*kept.borrow(), Some(Verdict::Renewed(sent)));
        assert_eq!(*gone.borrow(), Some(Verdict::Lost(LossReason::Expired)));
        assert_eq!(leases.ids(), [1]);
    }

    #[test]
    fn lease_that_the_daemon_has_not_seen_stays_and_is_asked_about_soon() {
        let (leases, now) = (Leases::default(), Moment::now());
        let verdicts = leases.hold(1, Duration::from_secs(6), now, &Arc::new(Cell::new(None)));
        assert!(leases.take(&[1], &answer(1, ErrorReason::NotYetSeen), now));
        assert_eq!(*verdicts.borrow(), None);
        assert_eq!(leases.ids(), [1]);
    }
}
