//! `musterd bench`: load over the wire against a running daemon, and how it bore it.
//!
//! Each subcommand is one question: how fast are registrations, beats, lookups; how long does a change take to reach a
//! watcher or another daemon; does a fleet of this size live without a false death. What they share:
//!
//! - **Closed loop** (default): `--connections` times `--in-flight` callers, each of which calls again when it is
//!   answered. Shows what is possible, and hides what callers would have waited.
//! - **Open loop** (`--rate`): calls are due at fixed times, and latency counts from when a call was *due*. A daemon
//!   that stalls for a second therefore shows the waits of all calls of that second (no coordinated omission).
//! - Bounded: time and count have limits, every call has a deadline, Ctrl-C ends the load early and still cleans up.
//! - A run registers under a random prefix of its own and deregisters that at its end, however it ends. It refuses a
//!   registry that serves others.
//!
//! [`wire`] calls, [`load`] drives, [`record`] counts, [`setup`] registers and cleans up, [`held`] has what is called about, [`report`] prints; one file per question.

#![expect(clippy::disallowed_methods, reason = "a client command has no Lifecycle; what it starts it also waits for")]

mod calls;
mod error;
mod fleet;
mod fleet_streams;
mod held;
mod load;
mod options;
mod progress;
mod propagate;
mod record;
mod report;
mod setup;
mod streams;
mod used;
mod watch;
mod wire;

use std::num::NonZero;

use musterd_client::Client;

pub(crate) use error::Error;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,

    /// Threads of the client [default: half of the cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    /// Register instances: durable writes
    Register(calls::RegisterArgs),
    /// Renew leases one by one
    Beat(held::HeldArgs),
    /// Renew many leases per request over streams
    BeatStream(streams::BeatStreamArgs),
    /// Resolve names one by one
    Resolve(held::HeldArgs),
    /// Resolve many names per call
    BatchResolve(calls::BatchArgs),
    /// Watch with many watchers, and make changes: how long until each sees each
    Watch(watch::WatchArgs),
    /// Keep a fleet alive, and report leases that expired although they were renewed
    Fleet(fleet::FleetArgs),
    /// Register at one daemon: how long until another one resolves it
    Propagate(propagate::PropagateArgs),
}

/// How to use it.
pub(crate) const HELP: &str = "\
Examples:
  musterd bench resolve --instances 100000
  musterd bench beat --rate 5000 --duration 30s -o json
  musterd bench fleet --instances 1000000 --ttl 30s --interval 10s \\
    --duration 3m
  musterd bench propagate --addr a:7717 --other-addr b:7717

Latencies are of the client: with --rate from the time a call was due,
otherwise from when it was made. Exit code 1 if nothing succeeded, or, for
fleet, if an instance died; 5 if the registry serves others, without --yes.";

impl BenchArgs {
    /// Threads for the runtime of the client.
    #[must_use]
    pub(crate) fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        self.threads.map_or((cores / 2).max(1), usize::from)
    }
}

/// Runs a benchmark and prints its report. Returns whether it has shown what was expected.
///
/// # Errors
///
/// It could not be run, or was interrupted by a failure.
pub(crate) async fn run(args: BenchArgs, client: &Client) -> Result<bool, Error> {
    let report = match args.command {
        BenchCommand::Register(args) => calls::register(args, client).await?,
        BenchCommand::Beat(args) => calls::beat(args, client).await?,
        BenchCommand::BeatStream(args) => Box::pin(streams::run(args, client)).await?,
        BenchCommand::Resolve(args) => calls::resolve(args, client).await?,
        BenchCommand::BatchResolve(args) => calls::batch_resolve(args, client).await?,
        BenchCommand::Watch(args) => Box::pin(watch::run(args, client)).await?,
        BenchCommand::Fleet(args) => Box::pin(fleet::run(args, client)).await?,
        BenchCommand::Propagate(args) => Box::pin(propagate::run(args, client)).await?,
    };
    report.print()?;
    Ok(!report.failed())
}
