//! Failover by Patroni: three nodes of PostgreSQL, of which one leads, and daemons that name all of them, in opposite
//! orders. What happens is judged by the checker of all faults.
//!
//! The short form runs with all other tests. The long form takes ten minutes or so: every fault, with synchronous
//! replication and without. Leases have a TTL of 10 s there, or of as many seconds as is asked for: with 3 s, which is
//! shorter than any election, the machine must not be busy, because an actor that does not get to send a beat in time proves
//! nothing.
//!
//! ```text
//! just patroni
//! just patroni 3
//! ```
//!
//! With asynchronous replication a failover loses what the standby had not yet received, and no daemon can promise
//! otherwise: there only the faults run in which the WAL of the primary survives.

mod cluster;
mod measure;

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::sleep;

pub(crate) use self::cluster::Cluster;
use self::{
    cluster::{Part, Tools},
    measure::Watch,
};
use super::{
    campaign,
    figures::{self, Cost},
    world::{Database, Population, TTL, World},
};
use crate::harness::wait::wait_until;

/// How long what is frozen stays so after the election of another leader.
const FROZEN: Duration = Duration::from_secs(8);

/// The TTL of the long form.
const TTL_LONG: Duration = Duration::from_secs(10);

/// How long all actors may take to begin.
const BEGINNING_BOUND: Duration = Duration::from_secs(60);

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Switchover,
    Kill(Part),
    Freeze(Part),
}

impl Fault {
    /// Whether no node takes changes for a while.
    fn stops_the_lead(self) -> bool {
        match self {
            Self::Switchover | Self::Kill(Part::Node | Part::Postmaster) | Self::Freeze(Part::Node | Part::Patroni) => {
                true
            }
            // PostgreSQL runs on, or its backends do.
            Self::Kill(Part::Patroni) | Self::Freeze(Part::Postmaster) => false,
        }
    }
}

const SYNCHRONOUS: [Fault; 7] = [
    Fault::Switchover,
    Fault::Kill(Part::Node),
    Fault::Kill(Part::Postmaster),
    Fault::Kill(Part::Patroni),
    Fault::Freeze(Part::Node),
    Fault::Freeze(Part::Postmaster),
    Fault::Freeze(Part::Patroni),
];
const ASYNCHRONOUS: [Fault; 3] = [Fault::Switchover, Fault::Kill(Part::Postmaster), Fault::Kill(Part::Patroni)];

#[tokio::test(flavor = "multi_thread")]
async fn patroni_switchover_and_crash_break_no_promise() {
    let population = Population { daemons: 2, actors: 30, quitters: 2, writers: 2, routers: 1, watchers: 2 };
    let faults = [Fault::Switchover, Fault::Kill(Part::Node)];
    hurt("patroni", true, TTL, population, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes: just patroni"]
async fn patroni_faults_of_every_kind_break_no_promise() {
    let population = Population { daemons: 2, actors: 200, quitters: 10, writers: 4, routers: 2, watchers: 4 };
    let ttl = std::env::var("MUSTERD_PATRONI_TTL").map_or(TTL_LONG, |ttl| Duration::from_secs(ttl.parse().unwrap()));
    hurt("patroni-synchronous", true, ttl, population, &SYNCHRONOUS).await;
    hurt("patroni-asynchronous", false, ttl, population, &ASYNCHRONOUS).await;
}

async fn hurt(name: &str, is_synchronous: bool, ttl: Duration, population: Population, faults: &[Fault]) {
    let Some(tools) = Tools::find() else { return };
    let cluster = Cluster::start(tools, is_synchronous).await;
    let mut world = World::patroni(cluster, 5).await;
    world.are_daemons_left_alone = true;
    world.ttl = ttl;
    world.start_daemons().await;
    world.populate(population).await;
    wait_until("all actors have begun", BEGINNING_BOUND, async || {
        let begun = world.kept.all().len();
        if begun >= population.actors { Ok(()) } else { Err(begun) }
    })
    .await;
    world.note_footprints();
    let mut costs = Vec::new();
    for fault in faults {
        costs.push(strike(&mut world, *fault).await);
        campaign::calm_down(&world).await;
    }
    let demands = campaign::demands(population, faults.len());
    let (verdict, evidence) = world.finish(name, 5, demands).await;
    figures::print(&format!("{name}, TTL {} s", ttl.as_secs()), &costs, &verdict, &evidence);
    assert_eq!(verdict.violations, [], "{name}");
}

fn cluster(world: &mut World) -> &mut Cluster {
    match &mut world.database {
        Database::Patroni(cluster) => cluster,
        other => panic!("{other:?}"),
    }
}

/// One fault, from a healthy cluster to a healthy cluster.
async fn strike(world: &mut World, fault: Fault) -> Cost {
    let former = cluster(world).healthy().await;
    let Database::Patroni(nodes) = &world.database else { panic!("{:?}", world.database) };
    let watch = Watch::begin(world, nodes).await;
    let from = world.history.now();
    let leader = begin(cluster(world), fault, former).await;
    let effect = format!("node {} leads after node {}", leader + 1, former + 1);
    let risen = if fault.stops_the_lead() { Some(watch.rise(from).await) } else { None };
    // Before anything is healed: daemons must not wait for it.
    let back = watch.back(&world.history, risen.unwrap_or_else(|| world.history.now())).await;
    heal(cluster(world), fault, former).await;
    cluster(world).healthy().await;
    let recovery = campaign::recovery(world).await;
    let until = world.history.now();
    if back.contains(&None) {
        world.complaints.push(format!("{fault:?}: not every daemon has acknowledged a change: {back:?}"));
    }
    let slowest = back.iter().flatten().max().copied().unwrap_or_default();
    world.disrupted(format!("{fault:?}"), from, until, effect, recovery.max(slowest));
    let elected = risen.map(|at| at - from);
    let back = if elected.is_some() { back } else { Vec::new() };
    Cost { fault: format!("{fault:?}"), from, elected, back, pauses: watch.pauses(from, until) }
}

/// Begins it, and waits until there is a leader that takes changes.
async fn begin(cluster: &mut Cluster, fault: Fault, former: usize) -> usize {
    match fault {
        Fault::Switchover => cluster.switch_over(former).await,
        Fault::Kill(part) => {
            assert!(cluster.signal(former, part, Signal::SIGKILL) > 0, "nothing was killed");
            match part {
                Part::Node => cluster.leader_beside(Some(former)).await,
                // Patroni starts the server again, or finds it running.
                Part::Postmaster => cluster.leader_beside(None).await,
                Part::Patroni => {
                    cluster.restart(former);
                    cluster.leader_beside(None).await
                }
            }
        }
        Fault::Freeze(part) => {
            assert!(cluster.signal(former, part, Signal::SIGSTOP) > 0, "nothing was frozen");
            match part {
                // Its backends go on, and so does the lead.
                Part::Postmaster => former,
                Part::Node | Part::Patroni => cluster.leader_beside(Some(former)).await,
            }
        }
    }
}

async fn heal(cluster: &mut Cluster, fault: Fault, former: usize) {
    match fault {
        Fault::Kill(Part::Node) => cluster.restart(former),
        Fault::Freeze(part) => {
            sleep(FROZEN).await;
            cluster.signal(former, part, Signal::SIGCONT);
        }
        Fault::Switchover | Fault::Kill(_) => {}
    }
}
