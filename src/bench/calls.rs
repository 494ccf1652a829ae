//! Unary calls: register, beat, resolve, batch-resolve.

use musterd_client::Client;
use tonic::Status;

use super::{
    error::Error,
    held::{Held, HeldArgs, Needs},
    load::{Measured, Operation, drive},
    options::LoadArgs,
    report::Report,
    setup::{HELD_TTL, Run, name, registration},
    wire::{Channel, Wire},
};
use crate::{
    model::spread::mix,
    proto::v1::{
        self, discovery_service_client::DiscoveryServiceClient, registry_service_client::RegistryServiceClient,
    },
};

/// Most names of one BatchResolve.
const NAMES_MAX: i64 = 1_000;

/// Arguments of `bench register`.
#[derive(Debug, clap::Args)]
pub(super) struct RegisterArgs {
    #[command(flatten)]
    load: LoadArgs,
}

/// Arguments of `bench batch-resolve`.
#[derive(Debug, clap::Args)]
pub(super) struct BatchArgs {
    /// Names per call
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=NAMES_MAX))]
    batch: u32,

    #[command(flatten)]
    held: HeldArgs,
}

struct Register {
    registry: RegistryServiceClient<Channel>,
    prefix: String,
    granted: tokio::sync::mpsc::Sender<u64>,
}

impl Operation for Register {
    async fn call(&mut self, number: u64) -> Result<u64, Status> {
        let lease_id =
            self.registry.register(registration(&self.prefix, number, HELD_TTL)).await?.into_inner().lease_id;
        // The other end takes all until the callers are done.
        let _ = self.granted.send(lease_id).await;
        Ok(1)
    }
}

pub(super) async fn register(args: RegisterArgs, client: &Client) -> Result<Report, Error> {
    let load = args.load;
    let run = Run::open(client, load.connections, &load.run).await?;
    run.tidy(register_for(&run, &load).await, load.run.keep).await
}

async fn register_for(run: &Run, load: &LoadArgs) -> Result<Report, Error> {
    let (granted, mut leases) = tokio::sync::mpsc::channel(1_024);
    let callers = run.callers(load.in_flight, |wire| Register {
        registry: wire.registry(),
        prefix: run.prefix.clone(),
        granted: granted.clone(),
    });
    drop(granted);
    let gathered = tokio::spawn(async move {
        let mut all = Vec::new();
        while leases.recv_many(&mut all, 1_024).await > 0 {}
        all
    });
    let measured = drive(callers, load, run.grace, &run.stop, "registered").await?;
    let leases = gathered.await.unwrap_or_default();
    let left = run.clean_up(&leases, load.run.keep).await;
    Ok(report("register", run, load, measured, leases.len(), left))
}

struct Beat {
    registry: RegistryServiceClient<Channel>,
    leases: std::sync::Arc<[u64]>,
}

impl Operation for Beat {
    async fn call(&mut self, number: u64) -> Result<u64, Status> {
        let lease_id = self.leases[pick(number, self.leases.len())];
        self.registry.beat(v1::BeatRequest { lease_id, instance_id: String::new() }).await.map(|_| 1)
    }
}

pub(super) async fn beat(args: HeldArgs, client: &Client) -> Result<Report, Error> {
    let needs = Needs::Leases;
    measure("beat", &args, needs, client, |wire, _, held| Beat {
        registry: wire.registry(),
        leases: held.leases.as_slice().into(),
    })
    .await
}

/// Resolves names of a run.
pub(super) struct Resolve {
    discovery: DiscoveryServiceClient<Channel>,
    prefix: String,
    names: usize,
}

impl Resolve {
    /// Of the first `names` names of a prefix.
    pub(super) fn new(wire: &Wire, prefix: &str, names: usize) -> Self {
        Self { discovery: wire.discovery(), prefix: prefix.to_owned(), names }
    }
}

impl Operation for Resolve {
    async fn call(&mut self, number: u64) -> Result<u64, Status> {
        let logical_id = nth_name(&self.prefix, number, self.names);
        self.discovery.resolve(v1::ResolveRequest { logical_id, ..Default::default() }).await.map(|_| 1)
    }
}

pub(super) async fn resolve(args: HeldArgs, client: &Client) -> Result<Report, Error> {
    let needs = Needs::Names;
    measure("resolve", &args, needs, client, |wire, prefix, held| Resolve::new(wire, prefix, held.count)).await
}

struct BatchResolve {
    discovery: DiscoveryServiceClient<Channel>,
    prefix: String,
    names: usize,
    batch: u64,
}

impl Operation for BatchResolve {
    async fn call(&mut self, number: u64) -> Result<u64, Status> {
        let numbers = number * self.batch..(number + 1) * self.batch;
        let logical_ids = numbers.map(|number| nth_name(&self.prefix, number, self.names)).collect();
        let request = v1::BatchResolveRequest { logical_ids, ..Default::default() };
        let results = self.discovery.batch_resolve(request).await?.into_inner().results;
        if u64::try_from(results.len()) == Ok(self.batch) {
            Ok(self.batch)
        } else {
            Err(Status::internal("another number of results than names"))
        }
    }
}

pub(super) async fn batch_resolve(args: BatchArgs, client: &Client) -> Result<Report, Error> {
    let mut report = measure("batch-resolve", &args.held, Needs::Names, client, |wire, prefix, held| BatchResolve {
        discovery: wire.discovery(),
        prefix: prefix.to_owned(),
        names: held.count,
        batch: args.batch.into(),
    })
    .await?;
    report.set("batch", args.batch);
    Ok(report)
}

/// Registers, runs the load, cleans up.
async fn measure<O: Operation>(
    bench: &'static str,
    args: &HeldArgs,
    needs: Needs,
    client: &Client,
    operation: impl Fn(&Wire, &str, &Held) -> O,
) -> Result<Report, Error> {
    let load = &args.load;
    let run = Run::open(client, load.connections, &args.run()).await?;
    let measured = async {
        let held = Held::take(&run, args, needs).await?;
        let callers = run.callers(load.in_flight, |wire| operation(wire, &run.prefix, &held));
        let measured = drive(callers, load, run.grace, &run.stop, bench).await?;
        let instances = held.count;
        let left = held.release(&run, load.run.keep).await;
        Ok(report(bench, &run, load, measured, instances, left))
    };
    run.tidy(measured.await, load.run.keep).await
}

fn report(bench: &'static str, run: &Run, load: &LoadArgs, measured: Measured, instances: usize, left: u64) -> Report {
    let mut report = Report::new(bench, &run.prefix, load.run.output);
    report.set("instances", instances).set("connections", load.connections).set("inFlight", load.in_flight);
    report.set("rate", load.rate).measured(measured).set("leftRegistered", left);
    report
}

/// One of `count`, scattered: neighbouring numbers do not share memory.
fn pick(number: u64, count: usize) -> usize {
    let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    usize::try_from(mix(number) % count).unwrap_or_default()
}

fn nth_name(prefix: &str, number: u64, names: usize) -> String {
    name(prefix, u64::try_from(pick(number, names)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_reach_everything_and_nothing_else() {
        let mut seen = [false; 64];
        for number in 0..4_096 {
            seen[pick(number, seen.len())] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(pick(7, 0), 0, "an interrupted registration leaves nothing to pick from");
    }
}
