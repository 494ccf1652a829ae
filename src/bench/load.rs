//! Drives a load: when each call is due, who makes it, and when it is over.
//!
//! There are as many callers as calls may be under way. In a closed loop each takes the next number when it is free. In
//! an open loop numbers are released at fixed times by a thread of its own, because timers of the runtime are a
//! millisecond coarse, and a caller that takes a number late counts from when it was due. Calls that were due but could
//! not be made before the end are counted too: they are what the daemon could not bear.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::JoinSet, time};
use tonic::Status;

use super::{
    error::Error,
    options::LoadArgs,
    progress::{Progress, Stop},
    record::Recorder,
};

/// How long a caller waits after a failed call, so that a daemon that is down is not called in a frenzy.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// One kind of call. A caller has its own, so it may keep what it needs.
pub(super) trait Operation: Send + 'static {
    /// Makes the call of this number and returns how many items it did.
    fn call(&mut self, number: u64) -> impl Future<Output = Result<u64, Status>> + Send;
}

/// What a load came to.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) recorder: Recorder,
    /// From the first call to the last answer.
    pub(super) elapsed: Duration,
    /// Calls that were due and were not made in time. Only in an open loop.
    pub(super) not_sent: u64,
}

/// When calls are due.
#[derive(Debug)]
pub(super) struct Schedule {
    began: Instant,
    ends: Instant,
    /// Calls per second; `None`: a closed loop.
    rate: Option<f64>,
    /// How many calls there are at most.
    limit: u64,
    next: AtomicU64,
    released: Semaphore,
    stop: Stop,
}

/// A call to make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) number: u64,
    /// Latency counts from here.
    pub(super) due: Instant,
}

impl Schedule {
    /// A schedule that starts now.
    pub(super) fn start(duration: Duration, rate: Option<f64>, count: Option<u64>, stop: Stop) -> Arc<Self> {
        let began = Instant::now();
        let limit = limit(duration, rate, count);
        let schedule = Arc::new(Self {
            began,
            ends: began + duration,
            rate,
            limit,
            next: AtomicU64::new(0),
            released: Semaphore::new(0),
            stop,
        });
        if rate.is_some() {
            let paced = Arc::clone(&schedule);
            std::thread::spawn(move || paced.pace());
        }
        schedule
    }

    /// The next call, when it is due; `None` at the end.
    pub(super) async fn next(&self) -> Option<Ticket> {
        if self.rate.is_some() {
            self.released.acquire().await.ok()?.forget();
        }
        self.take()
    }

    /// The next call if it is due by now.
    pub(super) fn try_next(&self) -> Option<Ticket> {
        if self.rate.is_some() {
            self.released.try_acquire().ok()?.forget();
        }
        self.take()
    }

    fn take(&self) -> Option<Ticket> {
        let now = Instant::now();
        if now >= self.ends || self.stop.is_wanted() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.limit)
            .then(|| Ticket { number, due: self.rate.map_or(now, |rate| self.began + due(number, rate)) })
    }

    /// Releases each call when it is due. Ends with the schedule.
    fn pace(&self) {
        let Some(rate) = self.rate else { return };
        let mut released = 0;
        while released < self.limit && !self.stop.is_wanted() {
            let now = Instant::now();
            if now >= self.ends {
                break;
            }
            let due_by_now = due_by(now - self.began, rate).min(self.limit);
            if let Ok(fresh) = usize::try_from(due_by_now.saturating_sub(released)) {
                self.released.add_permits(fresh);
            }
            released = due_by_now.max(released);
            let next = (self.began + due(released, rate)).min(self.ends);
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
        // A task that waits is told the end.
        self.released.close();
    }

    /// Calls that were due and were not made.
    pub(super) fn not_sent(&self) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let due = due_by(self.began.elapsed(), rate).min(self.limit);
        due.saturating_sub(self.next.load(Ordering::Relaxed))
    }
}

/// When the call of a number is due, from the start.
fn due(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(as_f64(number) / rate)
}

/// How many calls are due after this time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most ten million a second for ten minutes"
)]
fn due_by(elapsed: Duration, rate: f64) -> u64 {
    (elapsed.as_secs_f64() * rate) as u64 + 1
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most ten million a second for ten minutes"
)]
fn limit(duration: Duration, rate: Option<f64>, count: Option<u64>) -> u64 {
    let in_time = rate.map_or(u64::MAX, |rate| ((duration.as_secs_f64() * rate).ceil() as u64).max(1));
    in_time.min(count.unwrap_or(u64::MAX))
}

/// For arithmetic with rates; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, which no count here reaches")]
pub(super) fn as_f64(number: u64) -> f64 {
    number as f64
}

/// Runs a load with one caller per operation.
///
/// Calls that have no answer `grace` after the end count as `NO_ANSWER`.
pub(super) async fn drive<O: Operation>(
    operations: Vec<O>,
    args: &LoadArgs,
    grace: Duration,
    stop: &Stop,
    what: &'static str,
) -> Result<Measured, Error> {
    let callers: Vec<_> = operations.into_iter().map(|op| Ok((op, Recorder::new()?))).collect::<Result<_, Error>>()?;
    let mut recorder = Recorder::new()?;
    let progress = Progress::start(what, args.count);
    let schedule = Schedule::start(args.run.duration, args.rate, args.count, stop.clone());
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (operation, recorder) in callers {
        let (schedule, done) = (Arc::clone(&schedule), progress.counter());
        tasks.spawn(call_until_over(operation, recorder, schedule, done, grace));
    }
    while let Some(counted) = tasks.join_next().await {
        match counted {
            Ok(counted) => recorder.merge(counted),
            Err(_) => recorder.failed_for("CLIENT_FAULT", 1),
        }
    }
    Ok(Measured { recorder, elapsed: began.elapsed(), not_sent: schedule.not_sent() })
}

async fn call_until_over<O: Operation>(
    mut operation: O,
    mut recorder: Recorder,
    schedule: Arc<Schedule>,
    done: Arc<AtomicU64>,
    grace: Duration,
) -> Recorder {
    // One timer for all calls of the caller: a timer for each would cost more than some of the calls.
    let mut too_late = Box::pin(time::sleep_until((schedule.ends + grace).into()));
    while let Some(ticket) = schedule.next().await {
        let answer = tokio::select! {
            biased;
            answer = operation.call(ticket.number) => answer,
            () = &mut too_late => {
                recorder.failed_for("NO_ANSWER", 1);
                break;
            }
        };
        match answer {
            Ok(items) => {
                recorder.succeeded(ticket.due.elapsed(), items);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                recorder.failed(&status);
                time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    recorder
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper(Duration);

    impl Operation for Sleeper {
        async fn call(&mut self, _number: u64) -> Result<u64, Status> {
            time::sleep(self.0).await;
            Ok(2)
        }
    }

    fn args(rate: Option<f64>, count: Option<u64>, millis: u64) -> LoadArgs {
        let run = super::super::options::RunArgs {
            duration: Duration::from_millis(millis),
            keep: false,
            yes: false,
            prefix: None,
            output: crate::terminal::output::DocumentArgs { output: crate::terminal::output::Format::Json },
        };
        LoadArgs { connections: 1, in_flight: 1, rate, count, run }
    }

    #[test]
    fn calls_are_due_at_fixed_times_and_end_with_the_time_or_the_count() {
        assert_eq!(due(0, 100.0), Duration::ZERO);
        assert_eq!(due(250, 100.0), Duration::from_millis(2_500));
        assert_eq!(due_by(Duration::from_millis(25), 100.0), 3);
        assert_eq!(limit(Duration::from_secs(2), Some(10.0), None), 20);
        assert_eq!(limit(Duration::from_secs(2), Some(10.0), Some(5)), 5);
        assert_eq!(limit(Duration::from_secs(2), None, None), u64::MAX);
    }

    #[tokio::test]
    async fn a_closed_loop_ends_with_its_count() {
        let callers = vec![Sleeper(Duration::from_millis(1)), Sleeper(Duration::from_millis(1))];
        let grace = Duration::from_secs(1);
        let measured = drive(callers, &args(None, Some(7), 60_000), grace, &Stop::default(), "test").await.unwrap();
        assert_eq!((measured.recorder.calls, measured.recorder.items, measured.not_sent), (7, 14, 0));
    }

    #[tokio::test]
    async fn latency_counts_from_the_due_time_and_calls_not_made_are_reported() {
        // One caller that needs 50 ms per call cannot make 100 calls a second: the later ones wait for the earlier.
        let callers = vec![Sleeper(Duration::from_millis(50))];
        let grace = Duration::from_secs(1);
        let measured = drive(callers, &args(Some(100.0), None, 400), grace, &Stop::default(), "test").await.unwrap();
        let (calls, not_sent) = (measured.recorder.calls, measured.not_sent);
        assert!((1..=9).contains(&calls), "{calls} calls");
        assert!(not_sent >= 30, "{not_sent} not sent");
        let slowest_us = measured.recorder.latencies.json()["max"].as_u64().unwrap();
        assert!(calls < 4 || slowest_us >= 100_000, "{slowest_us} us after {calls} calls");
    }

    #[tokio::test]
    async fn a_call_without_an_answer_does_not_keep_the_load_from_its_end() {
        let callers = vec![Sleeper(Duration::from_secs(3_600))];
        let grace = Duration::from_millis(20);
        let measured = drive(callers, &args(None, None, 20), grace, &Stop::default(), "test").await.unwrap();
        assert_eq!(measured.recorder.errors.get("NO_ANSWER"), Some(&1));
    }
}
