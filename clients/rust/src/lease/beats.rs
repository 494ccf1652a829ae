//! Renews all leases of a client over one stream, on any daemon.
//!
//! Each request names every lease, in the same order, which is the fastest for the daemon. A request that is not answered
//! in time, or a stream that breaks, moves the client on to the next daemon; the leases stay, because any daemon renews
//! them.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Streaming;

use super::{
    clock::Moment,
    observer::{Beat, BeatObserver},
    rules,
    state::LossReason,
    table::Table,
};
use crate::{
    address::Address,
    backoff::{self, Backoff},
    connect::CONNECT_MAX,
    daemons::{Connection, Daemons},
    error::Error,
    observe,
    reason::{Kind, Reason},
    wire::{
        self, BeatException, BeatStreamRequest, BeatStreamResponse, registry_service_client::RegistryServiceClient,
    },
};

/// Most leases of one request; a limit of the protocol.
const LEASES_MAX: usize = 100_000;
/// When to ask again about a lease that the daemon has not seen yet.
const NOT_YET_SEEN_PAUSE: Duration = Duration::from_millis(200);
/// Over how long the clients of a daemon that has ended come to the others, at most.
const SPREAD_MAX: Duration = Duration::from_secs(2);
/// The longest pause between two beats: a third of the longest TTL.
const PAUSE_MAX: Duration = Duration::from_secs(100);

/// The daemon that takes the beats; `None` before the first was answered.
pub(super) type Taker = watch::Sender<Option<Address>>;

/// Renews the leases of the table, for as long as the thread runs. `changed` is notified when one was added, or none is
/// left.
pub(super) async fn run(
    table: &RefCell<Table>,
    changed: &Notify,
    daemons: &Arc<Daemons>,
    taker: &Taker,
    observer: &BeatObserver,
) {
    let mut backoff = Backoff::default();
    let mut failures = 0;
    loop {
        if table.borrow().holds_none() {
            changed.notified().await;
            continue;
        }
        let begun = std::time::Instant::now();
        let mut was_answered = false;
        let connection = daemons.reach(CONNECT_MAX).await;
        let outcome = match &connection {
            Ok(connection) => {
                let outcome = beat(table, changed, connection, observer, || {
                    was_answered = true;
                    failures = 0;
                    backoff.reset();
                    note(taker, &connection.address);
                });
                outcome.await
            }
            Err(error) => {
                tell_failure(observer, table, daemons.current(), begun, error);
                Err(error.clone())
            }
        };
        if let Err(error) = outcome {
            observe::beats_failed(&error);
            table.borrow().take_failure(&error);
            daemons.give_up(connection.as_ref().ok()).await;
            failures += 1;
            if was_answered && error.kind() != Kind::Silent {
                // A daemon that ends breaks the streams of all its clients at once; they do not come to the next one at once.
                sleep(answer_limit(table).min(SPREAD_MAX).mul_f64(backoff::random())).await;
            } else if failures >= daemons.count() {
                // Each daemon is tried once without a pause, and then as often as an answer is waited for: a lease may be
                // short.
                sleep(backoff.pause_below(answer_limit(table))).await;
            }
        }
    }
}

/// Tells of a beat that could not be sent.
fn tell_failure(
    observer: &BeatObserver,
    table: &RefCell<Table>,
    daemon: &Address,
    sent: std::time::Instant,
    error: &Error,
) {
    let leases = table.borrow().lease_ids();
    observer.tell(&Beat { daemon, leases: &leases, sent, outcome: Err(error) });
}

fn note(taker: &Taker, address: &Address) {
    taker.send_if_modified(|before| {
        let is_new = before.as_ref() != Some(address);
        if is_new {
            observe::daemon_taken(address);
            *before = Some(address.clone());
        }
        is_new
    });
}

/// Beats over one stream until it breaks, which is an error, or no lease is left.
async fn beat(
    table: &RefCell<Table>,
    changed: &Notify,
    connection: &Connection,
    observer: &BeatObserver,
    mut answered: impl FnMut(),
) -> Result<(), Error> {
    let (requests, queue) = mpsc::channel(1);
    let queue = stream::unfold(queue, async |mut queue| queue.recv().await.map(|request| (request, queue)));
    let limit = answer_limit(table);
    let begun = std::time::Instant::now();
    let mut answers = match open(connection, queue, limit).await {
        Ok(answers) => answers,
        Err(error) => {
            tell_failure(observer, table, &connection.address, begun, &error);
            return Err(error);
        }
    };
    loop {
        let ids = table.borrow().lease_ids();
        if ids.is_empty() {
            // The end of a stream without a goodbye makes its leases suspect. It has been read once the stream has ended.
            let farewell = async {
                let _ = requests.send(BeatStreamRequest { lease_ids: Vec::new(), goodbye: true }).await;
                drop(requests);
                while let Ok(Some(_)) = answers.message().await {}
            };
            let _ = timeout(limit, farewell).await;
            return Ok(());
        }
        // These are in this beat.
        table.borrow_mut().take_fresh();
        let mut pause = PAUSE_MAX;
        for ids in ids.chunks(LEASES_MAX) {
            let (sent, begun) = (Moment::now(), std::time::Instant::now());
            let limit = answer_limit(table);
            let request = BeatStreamRequest { lease_ids: ids.to_vec(), goodbye: false };
            let exchange = async {
                requests.send(request).await.map_err(|_| ended(connection))?;
                receive(&mut answers, connection).await
            };
            let answer = timeout(limit, exchange).await;
            let answer = answer.unwrap_or_else(|_| Err(Error::silent(&connection.address, limit)));
            observer.tell_answer(&connection.address, ids, begun, &answer);
            let answer = answer?;
            answered();
            pause = pause.min(take(&mut table.borrow_mut(), ids, &answer, sent));
        }
        let mut due = Instant::now() + pause;
        loop {
            due = due.min(Instant::now() + urgent(&mut table.borrow_mut()));
            tokio::select! {
                () = sleep_until(due) => break,
                // A lease was added, or none is left. A short one may need its beat before this pause ends.
                () = changed.notified() => {}
                // The daemon ends the stream when it leaves; waiting for the next beat would cost a third of the TTL.
                answer = receive(&mut answers, connection) => {
                    answer?;
                    break;
                }
            }
        }
    }
}

async fn open(
    connection: &Connection,
    queue: impl Stream<Item = BeatStreamRequest> + Send + 'static,
    limit: Duration,
) -> Result<Streaming<BeatStreamResponse>, Error> {
    let mut registry = RegistryServiceClient::new(connection.channel.clone());
    let opened = timeout(limit, registry.beat_stream(queue)).await;
    let opened = opened.map_err(|_| Error::silent(&connection.address, limit))?;
    Ok(opened.map_err(|status| Error::from_status(&connection.address, &status))?.into_inner())
}

/// How soon the leases that were added since the last beat need one.
fn urgent(table: &mut Table) -> Duration {
    if table.holds_none() {
        return Duration::ZERO;
    }
    let fresh = table.take_fresh();
    fresh.map_or(PAUSE_MAX, |until| rules::next_beat(Duration::ZERO, until.since(Moment::now()), 0.0))
}

fn answer_limit(table: &RefCell<Table>) -> Duration {
    rules::answer_limit(table.borrow().shortest().map(|(ttl, _)| ttl).unwrap_or_default())
}

/// Takes over an answer to a request that named `ids` and was sent at `sent`. Returns when to send the next one.
fn take(table: &mut Table, ids: &[u64], answer: &BeatStreamResponse, sent: Moment) -> Duration {
    let exceptions: BTreeMap<u64, &BeatException> = answer.exceptions.iter().map(|one| (one.lease_id, one)).collect();
    let mut is_unseen = false;
    for id in ids {
        match exceptions.get(id) {
            None => table.take_renewal(*id, sent),
            Some(exception) => match loss(exception) {
                Some(reason) => table.take_loss(*id, reason),
                None => is_unseen = true,
            },
        }
    }
    let expected = wire::duration(answer.next_beat_in.as_ref());
    let remaining = table.shortest().map(|(_, until)| until.since(Moment::now())).unwrap_or_default();
    let next = rules::next_beat(expected, remaining, backoff::random());
    if is_unseen { next.min(NOT_YET_SEEN_PAUSE) } else { next }
}

/// What an exception says about a lease.
fn loss(exception: &BeatException) -> Option<LossReason> {
    match (rules::loss(Reason::from(exception.reason())), exception.death()) {
        (Some(LossReason::Expired), wire::DeathReason::Deregistered) => Some(LossReason::Deregistered),
        (Some(LossReason::Expired), wire::DeathReason::Operator) => Some(LossReason::Operator),
        (loss, _) => loss,
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
    use uuid::Uuid;

    use super::*;
    use crate::{
        lease::{
            calls::Call,
            cell::Cell,
            entry::Entry,
            register::{OnLost, Register},
            state::{Lease, State},
        },
        wire::ErrorReason,
    };

    fn answer(lease_id: u64, reason: ErrorReason) -> BeatStreamResponse {
        let exceptions = vec![BeatException { lease_id, reason: reason.into(), ..Default::default() }];
        BeatStreamResponse { exceptions, ..Default::default() }
    }

    /// A table with two leases that were granted at `now`.
    fn held(now: Moment) -> (Table, [Arc<Cell>; 2]) {
        let mut table = Table::default();
        let cells = [1, 2].map(|key| {
            let cell = Arc::new(Cell::new(Register::new("a").on_lost(OnLost::Stop)));
            table.add(key, Entry::new(Arc::clone(&cell), None, false));
            assert!(matches!(table.next_call(now, true), Some(Call::Register(of, _)) if of == key));
            let ttl = Duration::from_secs(6);
            let (instance_id, cluster_epoch) = (Uuid::nil(), Uuid::nil());
            let lease = Lease { lease_id: key, instance_id, cluster_epoch, epoch_number: 1, ttl };
            assert!(table.take_registered(key, Ok((lease, now))));
            cell
        });
        (table, cells)
    }

    #[test]
    fn answer_renews_what_it_does_not_name_and_ends_what_it_does() {
        let now = Moment::now();
        let (mut table, [kept, gone]) = held(now);
        take(&mut table, &[1, 2], &answer(2, ErrorReason::LeaseExpired), now.after(Duration::from_secs(2)));
        assert_eq!(kept.require(Duration::from_secs(7)), Ok(1));
        assert_eq!(gone.require(Duration::ZERO).unwrap_err().reason, LossReason::Expired);
        assert_eq!((table.lease_ids(), gone.state()), (vec![1], State::Ended));
    }

    #[test]
    fn lease_that_the_daemon_has_not_seen_stays_and_is_asked_about_soon() {
        let now = Moment::now();
        let (mut table, _cells) = held(now);
        let pause = take(&mut table, &[1, 2], &answer(1, ErrorReason::NotYetSeen), now);
        assert_eq!((table.lease_ids(), pause), (vec![1, 2], NOT_YET_SEEN_PAUSE));
    }

    #[test]
    fn lease_without_a_beat_is_doubtful_then_lost_and_a_beat_clears_it() {
        let now = Moment::now();
        let (mut table, [first, second]) = held(now);
        let at = |seconds| now.after(Duration::from_secs(seconds));
        table.look(at(3));
        assert!(matches!(first.state(), State::Held(_)));
        table.look(at(4));
        assert!(matches!((first.state(), second.state()), (State::Doubtful(_), State::Doubtful(_))));
        // Sent long before it was answered: the doubt comes back before the look that was due.
        table.take_renewal(1, at(1));
        assert!(matches!(first.state(), State::Held(_)));
        table.look(at(5));
        assert!(matches!(first.state(), State::Doubtful(_)));
        table.look(at(6));
        assert_eq!(second.require(Duration::ZERO).unwrap_err().reason, LossReason::Deadline);
        assert_eq!(table.lease_ids(), [1]);
    }
}
