//! `bench watch`: how long a change takes to reach each of many watchers.
//!
//! All watchers watch the run's prefix. Changes are registrations under names that carry their number, so that a watcher
//! knows from an event when the call behind it was made.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use musterd_client::Client;
use prost::Message as _;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tonic::{Status, Streaming};

use super::{
    error::Error,
    load::Schedule,
    options::{RunArgs, parse_rate},
    progress::Progress,
    record::{Latencies, Recorder},
    report::Report,
    setup::{HELD_TTL, Run},
};
use crate::proto::{encoded::WatchResponse, v1};

/// Most changes of a run: each has a place for its time.
const CHANGES_MAX: u64 = 1_000_000;
/// Calls of a connection that the daemon takes at the same time, less some for the changes.
const WATCHERS_PER_CONNECTION: u32 = 250;
/// How long events may take after the last change.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// How long all watchers together may take to begin.
const BEGIN: Duration = Duration::from_secs(60);

/// Arguments of `bench watch`.
#[derive(Debug, clap::Args)]
pub(super) struct WatchArgs {
    /// Watchers
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    watchers: u32,

    /// Connections they share [default: one for every 100 watchers]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    connections: Option<u32>,

    /// Changes per second
    #[arg(long, value_name = "PER_SECOND", default_value = "10", value_parser = parse_rate)]
    rate: f64,

    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=CHANGES_MAX))]
    count: Option<u64>,

    #[command(flatten)]
    run: RunArgs,
}

/// When each change was asked for, in microseconds from the start; zero: not yet.
#[derive(Debug)]
struct Calls {
    began: Instant,
    at_us: Vec<AtomicU64>,
    prefix: String,
}

impl Calls {
    fn asked(&self, number: u64, at: Instant) {
        if let Some(slot) = usize::try_from(number).ok().and_then(|number| self.at_us.get(number)) {
            let micros = at.saturating_duration_since(self.began).as_micros();
            slot.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Release);
        }
    }

    /// How long ago the change behind an event was asked for. `None`: the event is of no registration of this run.
    fn age(&self, event: &v1::WatchEvent) -> Option<Duration> {
        let number = event.instance.as_ref()?.logical_id.strip_prefix(&self.prefix)?.strip_prefix('-')?;
        let slot = self.at_us.get(number.parse::<usize>().ok()?)?;
        let at_us = slot.load(Ordering::Acquire);
        (event.r#type() == v1::WatchEventType::Put && at_us > 0)
            .then(|| self.began.elapsed().saturating_sub(Duration::from_micros(at_us)))
    }
}

/// One watcher, as a task.
struct Watcher {
    calls: Arc<Calls>,
    ready: Arc<Semaphore>,
    /// How many changes there were, once that is known.
    total: watch::Receiver<Option<u64>>,
}

/// What a watcher saw.
struct Seen {
    latencies: Latencies,
    events: u64,
    failure: Option<Status>,
}

impl Watcher {
    async fn run(mut self, mut stream: Streaming<WatchResponse>, mut seen: Seen) -> Seen {
        loop {
            if let Some(total) = *self.total.borrow_and_update()
                && seen.events >= total
            {
                return seen;
            }
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => self.take(&response, &mut seen),
                    Ok(None) => return seen,
                    Err(status) => {
                        seen.failure = Some(status);
                        return seen;
                    }
                },
                // The last events may be here already; without a sender there is nothing more to come.
                changed = self.total.changed() => if changed.is_err() { return seen },
            }
        }
    }

    fn take(&self, response: &WatchResponse, seen: &mut Seen) {
        for event in &response.events {
            let Ok(event) = v1::WatchEvent::decode(event.as_ref()) else { continue };
            if let Some(age) = self.calls.age(&event) {
                seen.latencies.add(age);
                seen.events += 1;
            }
        }
        if response.snapshot_complete {
            self.ready.add_permits(1);
        }
    }
}

/// The watchers, begun.
struct Audience {
    tasks: JoinSet<Seen>,
    total: watch::Sender<Option<u64>>,
}

impl Audience {
    async fn begin(run: &Run, calls: &Arc<Calls>, watchers: u32) -> Result<Self, Error> {
        let ready = Arc::new(Semaphore::new(0));
        let (total, total_known) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let progress = Progress::start("watchers", Some(watchers.into()));
        for number in 0..watchers {
            let request = v1::WatchRequest { logical_id_prefix: format!("{}-", run.prefix), ..Default::default() };
            let wire = run.wire(usize::try_from(number).unwrap_or_default());
            let stream = wire.discovery().watch(request).await?.into_inner();
            let watcher = Watcher { calls: Arc::clone(calls), ready: Arc::clone(&ready), total: total_known.clone() };
            tasks.spawn(watcher.run(stream, Seen { latencies: Latencies::new()?, events: 0, failure: None }));
            progress.counter().fetch_add(1, Ordering::Relaxed);
        }
        match timeout(BEGIN, ready.acquire_many(watchers)).await {
            Ok(Ok(_)) => Ok(Self { tasks, total }),
            _ => Err(Status::deadline_exceeded("not every watcher got its snapshot").into()),
        }
    }

    /// Waits for the events of all changes; returns how many came, and the failures.
    async fn end(mut self, changes: u64, recorder: &mut Recorder) -> u64 {
        self.total.send_replace(Some(changes));
        let mut events = 0;
        let deadline = tokio::time::Instant::now() + LAST_EVENTS;
        let mut told = Some(self.total);
        loop {
            // After the time is up they are told to end with what they have.
            let next = tokio::time::timeout_at(deadline, self.tasks.join_next()).await;
            let next = match next {
                Ok(next) => next,
                Err(_) => {
                    told = None;
                    self.tasks.join_next().await
                }
            };
            let Some(Ok(seen)) = next else { break };
            events += seen.events;
            recorder.latencies.merge(&seen.latencies);
            if let Some(status) = seen.failure {
                recorder.failed(&status);
            }
        }
        drop(told);
        events
    }
}

pub(super) async fn run(args: WatchArgs, client: &Client) -> Result<Report, Error> {
    let connections = args.connections.unwrap_or_else(|| args.watchers.div_ceil(100));
    if args.watchers.div_ceil(connections) > WATCHERS_PER_CONNECTION {
        let text = format!("a connection carries at most {WATCHERS_PER_CONNECTION} watchers; use more --connections");
        return Err(Error::Usage(text));
    }
    let run = Run::open(client, connections, &args.run).await?;
    run.tidy(run_for(&args, &run, connections).await, args.run.keep).await
}

async fn run_for(args: &WatchArgs, run: &Run, connections: u32) -> Result<Report, Error> {
    let schedule = |count| Schedule::start(args.run.duration, Some(args.rate), count, run.stop.clone());
    let places = args.count.unwrap_or(CHANGES_MAX).min(CHANGES_MAX);
    let at_us = (0..places).map(|_| AtomicU64::new(0)).collect();
    let calls = Arc::new(Calls { began: Instant::now(), at_us, prefix: run.prefix.clone() });
    let audience = Audience::begin(run, &calls, args.watchers).await?;

    let progress = Progress::start("changes", args.count);
    let (mut recorder, mut leases) = (Recorder::new()?, Vec::new());
    let mut changed = Latencies::new()?;
    let schedule = schedule(Some(places));
    let began = Instant::now();
    while let Some(ticket) = schedule.next().await {
        calls.asked(ticket.number, ticket.due);
        match run.registry(0).register(run.registration(ticket.number, HELD_TTL)).await {
            Ok(registered) => {
                leases.push(registered.into_inner().lease_id);
                changed.add(ticket.due.elapsed());
            }
            Err(status) => recorder.failed(&status),
        }
        progress.counter().fetch_add(1, Ordering::Relaxed);
    }
    let elapsed = began.elapsed();
    drop(progress);
    let changes = u64::try_from(leases.len()).unwrap_or(u64::MAX);
    let events = audience.end(changes, &mut recorder).await;
    recorder.calls = changes;
    recorder.items = events;
    let missing = (changes * u64::from(args.watchers)).saturating_sub(events);
    let left = run.clean_up(&leases, args.run.keep).await;
    let mut report = Report::new("watch", &run.prefix, args.run.output);
    report.set("watchers", args.watchers).set("connections", connections).set("rate", args.rate);
    report.counted(recorder, elapsed, "event").latency("register", changed);
    report.set("missingEvents", missing).fail_if(missing > 0).set("leftRegistered", left);
    Ok(report)
}
