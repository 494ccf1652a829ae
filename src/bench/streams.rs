//! `bench beat-stream`: many leases per request, several requests under way on each stream.
//!
//! Each connection carries one stream with a share of the leases, which is sent in the same requests again and again,
//! as a fleet does.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use musterd_client::Client;
use tokio::{sync::mpsc, task::JoinSet, time};
use tonic::{Status, Streaming};

use super::{
    error::Error,
    held::{Held, HeldArgs, Needs},
    load::{Measured, Schedule},
    progress::Progress,
    record::Recorder,
    report::Report,
    setup::Run,
    wire::Channel,
};
use crate::proto::v1::{self, ErrorReason, registry_service_client::RegistryServiceClient};

/// Arguments of `bench beat-stream`.
#[derive(Debug, clap::Args)]
pub(super) struct BeatStreamArgs {
    /// Leases per request
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,

    #[command(flatten)]
    held: HeldArgs,
}

/// One open stream of beats.
#[derive(Debug)]
pub(super) struct Beats {
    requests: mpsc::Sender<v1::BeatStreamRequest>,
    answers: Streaming<v1::BeatStreamResponse>,
}

impl Beats {
    /// Opens a stream that takes `in_flight` requests before the first is answered.
    pub(super) async fn open(mut registry: RegistryServiceClient<Channel>, in_flight: usize) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel::<v1::BeatStreamRequest>(in_flight.max(1));
        let sent = futures_util::stream::unfold(sent, async |mut sent| Some((sent.recv().await?, sent)));
        let answers = registry.beat_stream(sent).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Sends a request; answers come in the same order.
    pub(super) async fn send(&self, lease_ids: Vec<u64>) -> Result<(), Status> {
        let request = v1::BeatStreamRequest { lease_ids, goodbye: false };
        self.requests.send(request).await.map_err(|_| Status::unavailable("the stream has ended"))
    }

    /// The next answer.
    pub(super) async fn answer(&mut self) -> Result<v1::BeatStreamResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::unavailable("the stream has ended"))
    }

    /// Announces the end, so that it makes no instance suspect.
    pub(super) async fn close(mut self, bound: Duration) {
        let goodbye = v1::BeatStreamRequest { lease_ids: Vec::new(), goodbye: true };
        let _ = self.requests.send(goodbye).await;
        drop(self.requests);
        let _ = time::timeout(bound, async { while let Ok(Some(_)) = self.answers.message().await {} }).await;
    }
}

/// Counts an answer: leases renewed, and exceptions by reason.
pub(super) fn count(recorder: &mut Recorder, latency: Duration, answer: &v1::BeatStreamResponse) {
    recorder.succeeded(latency, answer.renewed.into());
    for exception in &answer.exceptions {
        let reason = ErrorReason::try_from(exception.reason).map_or("UNKNOWN_REASON", |reason| reason.as_str_name());
        recorder.failed_for(reason.trim_start_matches("ERROR_REASON_"), 1);
    }
}

/// What one stream has to do.
struct Share {
    registry: RegistryServiceClient<Channel>,
    requests: Vec<Vec<u64>>,
    in_flight: usize,
    schedule: Arc<Schedule>,
    ends: time::Instant,
}

impl Share {
    async fn run(self, mut recorder: Recorder, done: Arc<std::sync::atomic::AtomicU64>) -> Recorder {
        let outcome = time::timeout_at(self.ends, self.beat(&mut recorder, &done)).await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(status)) => recorder.failed(&status),
            Err(_) => recorder.failed_for("NO_ANSWER", 1),
        }
        recorder
    }

    async fn beat(&self, recorder: &mut Recorder, done: &std::sync::atomic::AtomicU64) -> Result<(), Status> {
        let mut beats = Beats::open(self.registry.clone(), self.in_flight).await?;
        let mut due: VecDeque<Instant> = VecDeque::new();
        let mut requests = self.requests.iter().cycle();
        loop {
            while due.len() < self.in_flight {
                // With nothing under way there is nothing to do but wait for the next.
                let ticket = if due.is_empty() { self.schedule.next().await } else { self.schedule.try_next() };
                let (Some(ticket), Some(request)) = (ticket, requests.next()) else { break };
                beats.send(request.clone()).await?;
                due.push_back(ticket.due);
            }
            let Some(due) = due.pop_front() else { break };
            let answer = beats.answer().await?;
            count(recorder, due.elapsed(), &answer);
            done.fetch_add(1, Ordering::Relaxed);
        }
        beats.close(Duration::from_secs(1)).await;
        Ok(())
    }
}

pub(super) async fn run(args: BeatStreamArgs, client: &Client) -> Result<Report, Error> {
    let load = &args.held.load;
    let run = Run::open(client, load.connections, &args.held.run()).await?;
    run.tidy(run_for(&args, &run).await, load.run.keep).await
}

async fn run_for(args: &BeatStreamArgs, run: &Run) -> Result<Report, Error> {
    let load = &args.held.load;
    let held = Held::take(run, &args.held, Needs::Leases).await?;
    let measured = measure(args, run, &held.leases).await?;
    let instances = held.count;
    let left = held.release(run, load.run.keep).await;
    let mut report = Report::new("beat-stream", &run.prefix, load.run.output);
    report.set("instances", instances).set("connections", load.connections).set("inFlight", load.in_flight);
    report.set("batch", args.batch).set("rate", load.rate).measured(measured).set("leftRegistered", left);
    Ok(report)
}

async fn measure(args: &BeatStreamArgs, run: &Run, leases: &[u64]) -> Result<Measured, Error> {
    let load = &args.held.load;
    let mut recorder = Recorder::new()?;
    let batch = usize::try_from(args.batch).unwrap_or(usize::MAX);
    let progress = Progress::start("requests", load.count);
    let schedule = Schedule::start(load.run.duration, load.rate, load.count, run.stop.clone());
    let began = Instant::now();
    let ends = (began + load.run.duration + run.grace).into();
    let mut tasks = JoinSet::new();
    let per_stream = leases.len().div_ceil(run.wires().len()).max(1);
    for (number, leases) in leases.chunks(per_stream).enumerate() {
        let share = Share {
            registry: run.registry(number),
            requests: leases.chunks(batch).map(<[u64]>::to_vec).collect(),
            in_flight: usize::try_from(load.in_flight).unwrap_or(1),
            schedule: Arc::clone(&schedule),
            ends,
        };
        tasks.spawn(share.run(Recorder::new()?, progress.counter()));
    }
    while let Some(counted) = tasks.join_next().await {
        match counted {
            Ok(counted) => recorder.merge(counted),
            Err(_) => recorder.failed_for("CLIENT_FAULT", 1),
        }
    }
    Ok(Measured { recorder, elapsed: began.elapsed(), not_sent: schedule.not_sent() })
}
