//! `bench propagate`: how long a change made at one daemon takes to be known at another.
//!
//! One instance at a time is registered at one daemon, and the other is asked for it again and again. Both times are
//! told: from the call, which is what an actor waits before others find it, and from its answer, which is what is left
//! of that once the change is durable.

use std::time::{Duration, Instant};

use musterd_client::{Address, Client};
use tonic::{Code, Status};

use super::{
    error::Error,
    load::Schedule,
    options::{RunArgs, parse_rate},
    progress::Progress,
    record::{Latencies, Recorder},
    report::Report,
    setup::{HELD_TTL, Run},
    wire::{Channel, Wire},
};
use crate::proto::v1::{self, discovery_service_client::DiscoveryServiceClient};

/// How long a change may take before it counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Arguments of `bench propagate`.
#[derive(Debug, clap::Args)]
pub(super) struct PropagateArgs {
    /// Another daemon on the same database, which is asked for what was registered at --addr
    #[arg(long, value_name = "ADDR")]
    other_addr: Address,

    /// Changes per second, one at a time
    #[arg(long, value_name = "PER_SECOND", default_value = "20", value_parser = parse_rate)]
    rate: f64,

    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    run: RunArgs,
}

pub(super) async fn run(args: PropagateArgs, client: &Client) -> Result<Report, Error> {
    let run = Run::open(client, 1, &args.run).await?;
    run.tidy(run_for(&args, &run).await, args.run.keep).await
}

async fn run_for(args: &PropagateArgs, run: &Run) -> Result<Report, Error> {
    let other = run.client.to_builder().daemons([args.other_addr.to_string()]).build()?;
    other.ready(other.timeout()).await?;
    let discovery = Wire::connect(&other).await?.discovery();
    let (mut recorder, mut from_answer) = (Recorder::new()?, Latencies::new()?);
    let mut leases = Vec::new();
    let progress = Progress::start("changes", args.count);
    let schedule = Schedule::start(args.run.duration, Some(args.rate), args.count, run.stop.clone());
    let began = Instant::now();
    while let Some(ticket) = schedule.next().await {
        let request = run.registration(ticket.number, HELD_TTL);
        let name = request.logical_id.clone();
        let called = Instant::now();
        let registered = match run.registry(0).register(request).await {
            Ok(registered) => registered.into_inner(),
            Err(status) => {
                recorder.failed(&status);
                continue;
            }
        };
        let answered = Instant::now();
        leases.push(registered.lease_id);
        match until_known(discovery.clone(), name).await {
            Ok(()) => {
                from_answer.add(answered.elapsed());
                recorder.succeeded(called.elapsed(), 1);
            }
            Err(status) => recorder.failed(&status),
        }
        progress.counter().fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    let elapsed = began.elapsed();
    drop(progress);
    let left = run.clean_up(&leases, args.run.keep).await;
    let mut report = Report::new("propagate", &run.prefix, args.run.output);
    report.set("rate", args.rate).counted(recorder, elapsed, "fromCall").latency("fromAnswer", from_answer);
    report.set("leftRegistered", left);
    Ok(report)
}

/// Asks until the name resolves.
async fn until_known(mut discovery: DiscoveryServiceClient<Channel>, name: String) -> Result<(), Status> {
    let request = v1::ResolveRequest { logical_id: name, ..Default::default() };
    let began = Instant::now();
    loop {
        match discovery.resolve(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() != Code::NotFound => return Err(status),
            Err(_) if began.elapsed() > LOST_AFTER => return Err(Status::deadline_exceeded("it never became known")),
            Err(_) => {}
        }
    }
}
