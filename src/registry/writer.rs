//! Group commit: registrations and status changes, as many to a commit as came while the last one was under way.
//!
//! One task takes what is queued (at most [`GROUP_MAX`]), applies it with one call of `muster_apply`, and answers each
//! caller. There is no linger timer: under little load a group is one change, under much load the time of a commit is
//! shared by hundreds.
//!
//! Callers only wait. One that goes away cancels nothing that is under way, because the group does not belong to it; what
//! has not been tried is left out. Every change is safe to repeat, so a call without an answer is repeated on a new
//! connection until the first deadline of the group. The change whose deadline it is gets its answer: if still no server
//! knows, that is what its caller is told. The others go on. PostgreSQL is told the deadline as well: what is on the way for longer is
//! not made behind the back of a caller that has gone on to something else. An operation that makes PostgreSQL refuse a
//! whole group (which no validated one should) fails alone: the group is then applied one by one.
//!
//! No address keeps the others from being served: changes wait in a line for each address ([`crate::admission::queue`]), and
//! registrations need room in the budget ([`crate::admission::budget`]), of which each address has a share.
//!
//! The answer of each group has the rows that the feed would have to read next ([`crate::store::prefetch`]), so that callers
//! need not wait for a notification and a second query.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{error::Error, health::Health};
use crate::{
    admission::{
        Admission,
        budget::Settled,
        queue::{Receiver, Sender, queue},
    },
    clock::DatabaseClock,
    metrics::WriterMetrics,
    model::{Operation, Origin, Outcome, Verdict},
    store::{self, Pool, prefetch::Prefetch},
    telemetry::{Repeated, chain},
};

/// Most changes of one commit.
pub const GROUP_MAX: usize = 256;
/// Most changes that wait. More are refused at once: they could not be answered in time.
pub const QUEUE_MAX: usize = 4_096;
/// How long a change may take, from being asked for to its answer (promise 10).
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(1_900);

/// The longest pause between two attempts: what has less time left is not tried again.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Job {
    operation: Operation,
    origin: Option<Origin>,
    deadline: Instant,
    reply: oneshot::Sender<Result<Outcome, Error>>,
}

/// Why a group has no outcomes, and what its callers are told.
#[derive(Debug)]
enum Unapplied {
    /// The first deadline of the group is too near for another attempt.
    Late(Error),
    /// Another attempt would not help.
    Failed(Error),
}

impl Unapplied {
    fn into_error(self) -> Error {
        match self {
            Self::Late(error) | Self::Failed(error) => error,
        }
    }
}

/// Takes changes and answers with what became of them.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Sender<Job>,
    health: Arc<Health>,
}

/// The task behind [`Writer`].
#[derive(Debug)]
pub struct WriterTask {
    queue: Receiver<Job>,
    admission: Arc<Admission>,
    pool: Pool,
    decided_by: Arc<str>,
    database_clock: DatabaseClock,
    prefetch: Prefetch,
    health: Arc<Health>,
    trouble: Repeated,
    metrics: WriterMetrics,
}

impl Writer {
    /// A writer, and the task to run for it. Deaths it writes down are recorded as decided by `decided_by`. The rows that it
    /// changes go to `prefetch`, and how they get on to `health`. Registrations
    /// need room by `admission`.
    #[must_use]
    pub fn new(
        pool: Pool,
        decided_by: Arc<str>,
        database_clock: DatabaseClock,
        prefetch: Prefetch,
        health: Arc<Health>,
        admission: Arc<Admission>,
    ) -> (Self, WriterTask) {
        let (sender, queue) = queue(QUEUE_MAX);
        let (metrics, trouble) = (WriterMetrics::new(), Repeated::default());
        let permit = Arc::clone(&health);
        let task =
            WriterTask { queue, admission, pool, decided_by, database_clock, prefetch, health, trouble, metrics };
        (Self { queue: sender, health: permit }, task)
    }

    /// Asks for a change and waits for its outcome. `origin`: the address that asks; `None`: this daemon itself.
    ///
    /// # Errors
    /// See [`Error`]: whether it was applied is known but for [`Error::MaybeApplied`].
    pub async fn apply(&self, operation: Operation, origin: Option<Origin>) -> Result<Outcome, Error> {
        self.permit_change()?;
        let (reply, outcome) = oneshot::channel();
        let job = Job { operation, origin, deadline: Instant::now() + WRITE_TIMEOUT, reply };
        self.queue.try_send(origin, job)?;
        outcome.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Refuses what the schema is too new for.
    pub(super) fn permit_change(&self) -> Result<(), Error> {
        self.health.permit_change()
    }
}

impl WriterTask {
    /// Applies changes until told to stop, then those that are queued.
    ///
    /// # Errors
    /// None: it goes on through every outage.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut group = Vec::with_capacity(GROUP_MAX);
        loop {
            tokio::select! {
                biased;
                taken = self.queue.recv(&mut group, GROUP_MAX) => {
                    if !taken {
                        return Ok(());
                    }
                    self.gather(&mut group).await;
                    self.metrics.queue.set(f64::from(u32::try_from(self.queue.len()).unwrap_or(u32::MAX)));
                    self.apply_group(std::mem::take(&mut group)).await;
                }
                // What is queued at the end is still applied: `biased` takes it first.
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
        }
    }

    /// Lets the callers that are ready to ask do so, and takes their operations along. Without this, the first of many that
    /// were answered at the same time and ask again would be a group of its own.
    async fn gather(&mut self, group: &mut Vec<Job>) {
        yield_now().await;
        self.queue.take(group, GROUP_MAX);
    }

    #[tracing::instrument(level = "debug", name = "writer.group", skip_all)]
    async fn apply_group(&mut self, mut group: Vec<Job>) {
        let now = Instant::now();
        group.retain(|job| !job.reply.is_closed());
        let (group, late): (Vec<_>, Vec<_>) = group.into_iter().partition(|job| job.deadline > now);
        answer_all(late, &Error::Unavailable);
        let mut group = self.admit(group);
        if group.is_empty() {
            return;
        }
        self.metrics.group_size.record(u32::try_from(group.len()).unwrap_or(u32::MAX));
        let mut may_be_applied = false;
        while let Some(deadline) = group.iter().map(|job| job.deadline).min() {
            match self.apply_until(&group, deadline, &mut may_be_applied).await {
                Ok(outcomes) => {
                    for (job, outcome) in group.drain(..).zip(outcomes) {
                        self.answer(job, outcome);
                    }
                }
                Err(Unapplied::Failed(Error::Internal)) if group.len() > 1 => {
                    self.apply_singly(std::mem::take(&mut group)).await;
                }
                // The time of some is up. Those that were asked for later have theirs: after an outage they are what the
                // next attempt is for.
                Err(Unapplied::Late(error)) => {
                    let (left, late) = split(group, Instant::now());
                    group = left;
                    late.into_iter().for_each(|job| self.answer(job, Err(error.clone())));
                }
                Err(Unapplied::Failed(error)) => group.drain(..).for_each(|job| self.answer(job, Err(error.clone()))),
            }
        }
        self.metrics.seconds.record(now.elapsed());
    }

    /// Refuses the registrations that the budget has no room for. Returns the others, each of which has to be answered by
    /// [`WriterTask::answer`].
    fn admit(&self, group: Vec<Job>) -> Vec<Job> {
        let admitted = self.admission.admit(group.iter().map(|job| (&job.operation, job.origin)));
        let mut left = Vec::with_capacity(group.len());
        for (job, admitted) in group.into_iter().zip(admitted) {
            match admitted {
                Ok(()) => left.push(job),
                // A caller that went away does not want to know.
                Err(refusal) => drop(job.reply.send(Err(refusal.into()))),
            }
        }
        left
    }

    fn answer(&self, job: Job, outcome: Result<Outcome, Error>) {
        self.admission.settled(&job.operation, settled(&outcome));
        let _ = job.reply.send(outcome);
    }

    async fn apply_singly(&mut self, group: Vec<Job>) {
        for job in group {
            let outcome = self.apply_until(std::slice::from_ref(&job), job.deadline, &mut false).await;
            let outcome = outcome
                .map_err(Unapplied::into_error)
                .and_then(|outcomes| outcomes.into_iter().next().unwrap_or(Err(Error::MaybeApplied)));
            self.answer(job, outcome);
        }
    }

    /// Applies a group, again and again until there is an answer or the time is up. `may_be_applied`: an attempt was made
    /// whose result is not known.
    async fn apply_until(
        &mut self,
        group: &[Job],
        deadline: Instant,
        may_be_applied: &mut bool,
    ) -> Result<Vec<Result<Outcome, Error>>, Unapplied> {
        let health = Arc::clone(&self.health);
        let _waiting = health.change_waits();
        let mut pause = Duration::from_millis(20);
        loop {
            let operations = group.iter().map(|job| &job.operation);
            let left = deadline.saturating_duration_since(Instant::now());
            // Never later than the deadline: our idea of that clock lags, and an answer needs its time as well.
            let until = self.database_clock.after(left);
            let (question, permit) = self.prefetch.question().unzip();
            let applied =
                store::membership::apply(&self.pool, operations, &self.decided_by, until, deadline, question).await;
            let error = match applied {
                Ok((outcomes, changes)) => {
                    self.health.change_passed();
                    if let Some((permit, changes)) = permit.zip(changes) {
                        self.prefetch.send(permit, changes);
                    }
                    if let Some(over) = self.trouble.works() {
                        let (failures, lasting_ms) = (over.failures, over.lasting_ms());
                        tracing::info!(failures, lasting_ms, "changes are confirmed again");
                    }
                    return Ok(outcomes.into_iter().map(|outcome| honest(outcome, *may_be_applied)).collect());
                }
                Err(error) => error,
            };
            *may_be_applied |= error.may_be_applied();
            if !error.is_passing() || Instant::now() + pause >= deadline {
                if let Some(told) = self.trouble.failed() {
                    let (error, failures, lasting_ms) = (chain(&error), told.failures, told.lasting_ms());
                    tracing::warn!(error, failures, lasting_ms, operations = group.len(), "changes were not confirmed");
                }
                let told = if *may_be_applied { Error::MaybeApplied } else { Error::from(&error) };
                return Err(if error.is_passing() { Unapplied::Late(told) } else { Unapplied::Failed(told) });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What a repetition is refused may be what the first try, whose answer was lost, has done already: a rotation or a death
/// in between makes the difference. Then it is not certain that nothing was applied.
fn honest(outcome: Outcome, may_be_applied: bool) -> Result<Outcome, Error> {
    let done = matches!(outcome.verdict, Verdict::Created | Verdict::Renewed | Verdict::Replaced | Verdict::Set(_));
    if may_be_applied && !done { Err(Error::MaybeApplied) } else { Ok(outcome) }
}

/// What an outcome says of the row of a registration.
fn settled(outcome: &Result<Outcome, Error>) -> Settled {
    match outcome {
        Ok(Outcome { verdict: Verdict::Created | Verdict::Renewed | Verdict::Replaced, revision, .. }) => {
            Settled::Written(*revision)
        }
        Err(Error::MaybeApplied) => Settled::Unknown,
        _ => Settled::NotWritten,
    }
}

/// Divides a group that was not answered by its first deadline into what has time for another attempt, and what has not.
/// The first deadline is never among the former.
fn split(group: Vec<Job>, now: Instant) -> (Vec<Job>, Vec<Job>) {
    group.into_iter().partition(|job| job.deadline > now + LONGEST_PAUSE && !job.reply.is_closed())
}

fn answer_all(group: Vec<Job>, error: &Error) {
    for job in group {
        let _ = job.reply.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{DeathReason, Epoch, EpochId, InstanceId, InstanceStatus, LeaseId, Revision, StatusChange};

    fn outcome(verdict: Verdict) -> Outcome {
        let epoch = Epoch { id: EpochId(Uuid::from_u128(1)), number: 1 };
        let (lease_id, revision) = (Some(LeaseId(7)), Revision(7));
        Outcome { verdict, lease_id, revision, status: Some(InstanceStatus::Alive), epoch }
    }

    #[tokio::test]
    async fn first_deadline_of_a_group_ends_no_change_that_has_time_left() {
        let now = Instant::now();
        let job = |left: Duration| {
            let (reply, answer) = oneshot::channel();
            let operation = Operation::SetStatus(StatusChange {
                instance_id: InstanceId(Uuid::from_u128(1)),
                lease_id: None,
                status: InstanceStatus::Dead,
                reason: DeathReason::Deregistered,
                status_reason: None,
                identity: None,
                as_operator: false,
            });
            (Job { operation, origin: None, deadline: now + left, reply }, answer)
        };
        let (first, _first) = job(LONGEST_PAUSE);
        let (second, _second) = job(WRITE_TIMEOUT);
        let (gone, _) = job(WRITE_TIMEOUT);
        let (left, late) = split(vec![first, second, gone], now);
        let deadlines = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.deadline - now).collect::<Vec<_>>();
        assert_eq!((deadlines(left), deadlines(late)), (vec![WRITE_TIMEOUT], vec![LONGEST_PAUSE, WRITE_TIMEOUT]));
    }

    fn refusals() -> [Verdict; 6] {
        [
            Verdict::EpochFenced,
            Verdict::Taken,
            Verdict::Unknown,
            Verdict::Expired,
            Verdict::LeaseReplaced,
            Verdict::InvalidTransition(InstanceStatus::Dead),
        ]
    }

    #[test]
    fn registration_that_was_refused_or_failed_has_written_nothing() {
        for verdict in refusals() {
            assert_eq!(settled(&Ok(outcome(verdict))), Settled::NotWritten);
        }
        for error in [Error::Unavailable, Error::Internal, Error::ShuttingDown] {
            assert_eq!(settled(&Err(error)), Settled::NotWritten);
        }
        assert_eq!(settled(&Err(Error::MaybeApplied)), Settled::Unknown);
        for verdict in [Verdict::Created, Verdict::Renewed, Verdict::Replaced] {
            assert_eq!(settled(&Ok(outcome(verdict))), Settled::Written(Revision(7)));
        }
    }

    #[test]
    fn a_refusal_is_believed_only_if_nothing_can_have_been_applied_before_it() {
        for verdict in refusals() {
            let refused = outcome(verdict);
            assert_eq!(honest(refused.clone(), false), Ok(refused.clone()));
            assert_eq!(honest(refused, true), Err(Error::MaybeApplied));
        }
        for verdict in [Verdict::Created, Verdict::Renewed, Verdict::Replaced, Verdict::Set(true), Verdict::Set(false)]
        {
            let done = outcome(verdict);
            assert_eq!(honest(done.clone(), true), Ok(done), "it is done, whichever of the tries did it");
        }
    }
}
