//! `bench fleet`: so many instances, alive for so long; no lease may expire.
//!
//! Instances beat from the moment they are registered. Once all are, the time counts. At the end the daemon is asked who
//! of the run is dead. Every such death is false as long as the client itself kept its interval, so the longest time
//! between two beats of a lease is told beside it; and so is for how long expiry was on hold, because no lease can expire
//! meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use musterd_client::{Client, Cluster, Filter, Instance, Status};
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{
    calls::Resolve,
    error::Error,
    fleet_streams::{FleetStream, Inbox, Seen},
    load::drive,
    options::{LoadArgs, RunArgs, parse_ttl},
    progress::Progress,
    record::{Latencies, Recorder},
    report::{Report, per_second},
    setup::Run,
};
use crate::terminal::args::parse_duration;

/// Callers for resolving meanwhile.
const RESOLVERS: u32 = 16;

/// Arguments of `bench fleet`.
#[derive(Debug, clap::Args)]
pub(super) struct FleetArgs {
    /// Instances
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    instances: u64,

    /// TTL of each, 2s to 300s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_ttl)]
    ttl: Duration,

    /// How often each beats; at most a third of the TTL for the promise to hold
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    interval: Duration,

    /// Streams, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    streams: u32,

    /// Leases per request
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,

    /// Names resolved per second meanwhile; 0 for none
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100)]
    resolve_rate: u32,

    #[command(flatten)]
    run: RunArgs,
}

/// A fleet that beats.
struct Fleet {
    streams: JoinSet<Seen>,
    over: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
}

impl Fleet {
    fn start(args: &FleetArgs, run: &Run) -> Result<(Self, Vec<Arc<Inbox>>), Error> {
        let (over, beats) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let inboxes: Vec<Arc<Inbox>> = (0..args.streams).map(|_| Arc::default()).collect();
        let mut streams = JoinSet::new();
        for (number, inbox) in inboxes.iter().enumerate() {
            let stream = FleetStream {
                registry: run.registry(number),
                inbox: Arc::clone(inbox),
                number: u64::try_from(number).unwrap_or_default(),
                batch: usize::try_from(args.batch).unwrap_or(usize::MAX),
                interval: args.interval,
                grace: run.grace,
                over: Arc::clone(&over),
                beats: Arc::clone(&beats),
            };
            streams.spawn(stream.run(Seen::new(Recorder::new()?, Latencies::new()?)));
        }
        Ok((Self { streams, over, beats }, inboxes))
    }

    async fn end(mut self) -> Result<Seen, Error> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Seen::new(Recorder::new()?, Latencies::new()?);
        while let Some(seen) = self.streams.join_next().await {
            let Ok(seen) = seen else { continue };
            all.recorder.merge(seen.recorder);
            all.gaps.merge(&seen.gaps);
            all.broken += seen.broken;
        }
        Ok(all)
    }
}

pub(super) async fn run(args: FleetArgs, client: &Client) -> Result<Report, Error> {
    let run = Run::open(client, args.streams, &args.run).await?;
    run.tidy(run_for(&args, &run).await, args.run.keep).await
}

async fn run_for(args: &FleetArgs, run: &Run) -> Result<Report, Error> {
    let (fleet, inboxes) = Fleet::start(args, run)?;
    let progress = Progress::start("registering", Some(args.instances));
    let began = Instant::now();
    let granted = move |number: u64, lease_id: u64| {
        let stream = usize::try_from(number).unwrap_or_default() % inboxes.len();
        inboxes[stream].put(lease_id);
    };
    let registered = run.register_each(0..args.instances, args.ttl, &progress.counter(), granted).await;
    let registering = began.elapsed();
    drop(progress);
    let leases = match registered {
        Ok(leases) => leases,
        Err((leases, status)) => {
            fleet.end().await?;
            run.clean_up(&leases, args.run.keep).await;
            return Err(status.into());
        }
    };
    let beats_before = fleet.beats.load(Ordering::Relaxed);
    let holds = Holds::watch(run.client.clone());
    let began = Instant::now();
    let resolved = live(args, run, leases.len()).await?;
    let lived = began.elapsed();
    let beats = fleet.beats.load(Ordering::Relaxed) - beats_before;
    let seen = fleet.end().await?;
    let dead = dead(&run.client, &run.prefix).await?;
    let cluster = run.client.cluster(0).await?;
    let held = holds.end();
    let left = run.clean_up(&leases, args.run.keep).await;

    let mut report = Report::new("fleet", &run.prefix, args.run.output);
    report.set("instances", leases.len()).set("registeredPerSecond", per_second(args.instances, registering));
    report.set("ttlSeconds", args.ttl.as_secs_f64()).set("intervalSeconds", args.interval.as_secs_f64());
    report.set("streams", args.streams).set("batch", args.batch);
    report.counted(seen.recorder, lived, "beat").latency("betweenBeats", seen.gaps);
    // What was beaten while registering is in the counts of calls, but not in this rate.
    report.set("itemsPerSecond", per_second(beats, lived)).set("brokenStreams", seen.broken);
    report.set("deaths", dead.len()).set("deathReasons", death_reasons(&dead)).fail_if(!dead.is_empty());
    report.set("holdSeconds", held).set("counts", counts(&cluster));
    if let Some(resolved) = resolved {
        report.set("resolved", resolved.calls).set("resolveErrors", json!(resolved.errors));
        report.latency("resolve", resolved.latencies);
    }
    report.set("leftRegistered", left);
    Ok(report)
}

/// Lets the time pass, and resolves names meanwhile.
async fn live(args: &FleetArgs, run: &Run, names: usize) -> Result<Option<Recorder>, Error> {
    if args.resolve_rate == 0 {
        let progress = Progress::start("living", None);
        let ends = Instant::now() + args.run.duration;
        while Instant::now() < ends && !run.stop.is_wanted() {
            sleep(Duration::from_millis(100).min(args.run.duration)).await;
        }
        drop(progress);
        return Ok(None);
    }
    let resolvers = run.callers(1, |wire| Resolve::new(wire, &run.prefix, names)).into_iter();
    let resolvers = resolvers.take(usize::try_from(RESOLVERS).unwrap_or(1)).collect();
    let rate = Some(f64::from(args.resolve_rate));
    let load = LoadArgs { connections: args.streams, in_flight: 1, rate, count: None, run: args.run.clone() };
    let measured = drive(resolvers, &load, run.grace, &run.stop, "living; resolved").await?;
    Ok(Some(measured.recorder))
}

/// Counts for how many seconds expiry was on hold.
struct Holds {
    seconds: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Holds {
    fn watch(client: Client) -> Self {
        let seconds = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&seconds);
        let task = tokio::spawn(async move {
            loop {
                if client.cluster(0).await.is_ok_and(|cluster| cluster.hold.is_some()) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        Self { seconds, task }
    }

    fn end(self) -> u64 {
        self.task.abort();
        self.seconds.load(Ordering::Relaxed)
    }
}

/// The dead of a run.
async fn dead(client: &Client, prefix: &str) -> Result<Vec<Instance>, Error> {
    let filter = Filter::prefix(format!("{prefix}-")).status(Status::Dead);
    Ok(client.list(filter).try_collect().await?)
}

fn death_reasons(dead: &[Instance]) -> Value {
    let mut reasons = std::collections::BTreeMap::<String, u64>::new();
    for instance in dead {
        let reason = instance.death.as_ref().map(|death| death.reason).unwrap_or_default();
        *reasons.entry(reason.as_str().to_ascii_uppercase()).or_default() += 1;
    }
    json!(reasons)
}

fn counts(cluster: &Cluster) -> Value {
    let counts = cluster.counts;
    json!({
        "starting": counts.starting, "alive": counts.alive, "draining": counts.draining, "dead": counts.dead,
    })
}
