//! Instances that a load calls about: registered for it and kept alive by a stream of beats beside it, or those of a run
//! that goes on elsewhere.

use std::time::Duration;

use musterd_client::Choice;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    error::Error,
    options::{LoadArgs, RunArgs},
    progress::Progress,
    setup::{HELD_TTL, Run, name},
    wire::Channel,
};
use crate::proto::v1::{self, registry_service_client::RegistryServiceClient};

/// How often what is held is renewed.
const HOLD_PERIOD: Duration = Duration::from_secs(60);
/// Leases of one request: below the daemon's limit for a message.
const HOLD_CHUNK: usize = 10_000;
/// Names of one call: as many as the daemon takes.
const FIND_CHUNK: usize = 1_000;

/// Arguments of benchmarks that need instances to call about.
#[derive(Debug, clap::Args)]
pub(super) struct HeldArgs {
    /// Instances to call about, each under a name of its own; registered first
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    instances: u64,

    /// Register none: a fleet with the same --prefix keeps as many alive
    #[arg(long, requires = "prefix")]
    registered: bool,

    #[command(flatten)]
    pub(super) load: LoadArgs,
}

impl HeldArgs {
    /// How to open the run. One that registers nothing goes on beside whatever it finds.
    pub(super) fn run(&self) -> RunArgs {
        RunArgs { yes: self.load.run.yes || self.registered, ..self.load.run.clone() }
    }
}

/// What a load calls about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Needs {
    /// Names alone: of a run that goes on elsewhere, the first and the last are looked up.
    Names,
    /// Leases, each of which is looked up.
    Leases,
}

/// Instances that live while a load lasts.
#[derive(Debug)]
pub(super) struct Held {
    /// How many.
    pub(super) count: usize,
    /// Their leases, by number; of another run only where they are needed.
    pub(super) leases: Vec<u64>,
    /// Their beats; `None` if another run sees to them.
    hold: Option<Hold>,
}

impl Held {
    /// Registers them, or finds those that are registered.
    pub(super) async fn take(run: &Run, args: &HeldArgs, needs: Needs) -> Result<Self, Error> {
        if !args.registered {
            let leases = run.register(args.instances, HELD_TTL).await?;
            return Ok(Self { count: leases.len(), hold: Some(Hold::start(run, &leases)), leases });
        }
        let leases = match needs {
            Needs::Leases => find(run, &Vec::from_iter(0..args.instances)).await?,
            Needs::Names => {
                find(run, &[0, args.instances - 1]).await?;
                Vec::new()
            }
        };
        Ok(Self { count: usize::try_from(args.instances).unwrap_or(usize::MAX), leases, hold: None })
    }

    /// Deregisters what was registered unless it is to be kept. Returns how many are left of that.
    pub(super) async fn release(self, run: &Run, keep: bool) -> u64 {
        let Some(hold) = self.hold else { return 0 };
        drop(hold);
        run.clean_up(&self.leases, keep).await
    }
}

/// The leases of these numbers of a run.
async fn find(run: &Run, numbers: &[u64]) -> Result<Vec<u64>, Error> {
    let progress = Progress::start("looking up", u64::try_from(numbers.len()).ok());
    let found = progress.counter();
    let mut leases = Vec::new();
    for chunk in numbers.chunks(FIND_CHUNK) {
        let logical_ids: Vec<_> = chunk.iter().map(|number| name(&run.prefix, *number)).collect();
        let resolved = run.client.resolve_all(&logical_ids, &Choice::best()).await?;
        for (result, logical_id) in resolved.results.into_iter().zip(logical_ids) {
            let Ok((instance, _)) = result else {
                let text =
                    format!("--registered: {logical_id} has no live instance; is a fleet with this --prefix on?");
                return Err(Error::Usage(text));
            };
            leases.push(instance.lease_id);
        }
        found.store(u64::try_from(leases.len()).unwrap_or(u64::MAX), std::sync::atomic::Ordering::Relaxed);
    }
    Ok(leases)
}

/// Keeps leases alive as long as it lives. Renews them at once: the first of a million were registered minutes before
/// the last, and a daemon asks PostgreSQL about those that it has not heard of for long.
#[derive(Debug)]
struct Hold(JoinHandle<()>);

impl Hold {
    fn start(run: &Run, leases: &[u64]) -> Self {
        let (registry, leases) = (run.registry(0), leases.to_vec());
        Self(tokio::spawn(async move {
            loop {
                renew_once(registry.clone(), &leases).await;
                sleep(HOLD_PERIOD).await;
            }
        }))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A failure is met again at the next time; the TTL is five times as long.
async fn renew_once(mut registry: RegistryServiceClient<Channel>, leases: &[u64]) {
    let beats =
        leases.chunks(HOLD_CHUNK).map(|chunk| v1::BeatStreamRequest { lease_ids: chunk.to_vec(), goodbye: false });
    let goodbye = v1::BeatStreamRequest { lease_ids: Vec::new(), goodbye: true };
    let requests: Vec<_> = beats.chain([goodbye]).collect();
    let Ok(answers) = registry.beat_stream(futures_util::stream::iter(requests)).await else { return };
    let mut answers = answers.into_inner();
    while let Ok(Some(_)) = answers.message().await {}
}
