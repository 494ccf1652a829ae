//! Failover by Patroni: three nodes of PostgreSQL, of which one leads, and daemons that name all of them, in opposite
//! orders. What happens is judged by the checker of all faults.
//!
//! The short form runs with all other tests. The long form takes ten minutes or so: every fault, with synchronous
//! replication and without.
//!
//! ```text
//! just patroni
//! ```
//!
//! With asynchronous replication a failover loses what the standby had not yet received, and no daemon can promise
//! otherwise: there only the faults run in which the WAL of the primary survives.

mod cluster;

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

pub(crate) use self::cluster::Cluster;
use self::cluster::{Part, Tools};
use super::{
    campaign,
    checker::Verdict,
    world::{Database, Population, World},
};

/// How long what is frozen stays so after the election of another leader.
const FROZEN: Duration = Duration::from_secs(8);

/// The TTL of a few instances, and of as many as keep two cores busy beside three servers.
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(10);

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Switchover,
    Kill(Part),
    Freeze(Part),
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
async fn patroni_switchover_and_crash_cost_nothing_that_was_promised() {
    let population = Population { daemons: 2, actors: 30, quitters: 2, writers: 2, routers: 1, watchers: 2 };
    let faults = [Fault::Switchover, Fault::Kill(Part::Node)];
    hurt("patroni", true, population, SHORT, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes: just patroni"]
async fn patroni_faults_of_every_kind_cost_nothing_that_was_promised() {
    let population = Population { daemons: 2, actors: 200, quitters: 10, writers: 4, routers: 2, watchers: 4 };
    hurt("patroni-synchronous", true, population, LONG, &SYNCHRONOUS).await;
    hurt("patroni-asynchronous", false, population, LONG, &ASYNCHRONOUS).await;
}

async fn hurt(name: &'static str, is_synchronous: bool, population: Population, ttl: Duration, faults: &[Fault]) {
    let Some(tools) = Tools::find() else { return };
    let cluster = Cluster::start(tools, is_synchronous).await;
    let mut world = World::patroni(cluster, 5).await;
    world.ttl = ttl;
    world.start_daemons().await;
    world.populate(population);
    sleep(Duration::from_millis(2_500)).await;
    world.note_footprints();
    for fault in faults {
        strike(&mut world, *fault).await;
        campaign::calm_down(&world).await;
    }
    let demands = campaign::demands(population, faults.len());
    let (verdict, _): (Verdict, _) = world.finish(name, 5, demands).await;
    assert_eq!(verdict.violations, [], "{name}");
}

fn cluster(world: &mut World) -> &mut Cluster {
    match &mut world.database {
        Database::Patroni(cluster) => cluster,
        other => panic!("{other:?}"),
    }
}

/// One fault, from a healthy cluster to a healthy cluster.
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
async fn strike(world: &mut World, fault: Fault) {
    let former = cluster(world).healthy().await;
    let (from, began) = (world.history.now(), Instant::now());
    let leader = begin(cluster(world), fault, former).await;
    let elected = began.elapsed();
    let effect = format!("node {} leads after node {}", leader + 1, former + 1);
    // Before anything is healed: daemons must not wait for it.
    let back = campaign::recovery(world).await;
    heal(cluster(world), fault, former).await;
    let leader = cluster(world).healthy().await;
    let sessions = cluster(world).sessions(leader).await;
    let recovery = campaign::recovery(world).await;
    let until = world.history.now();
    println!(
        "{fault:?}: a leader after {:.1} s, changes at every daemon {:.2} s later; {sessions} sessions with node {} in the end",
        elapsed_seconds(elected),
        elapsed_seconds(Duration::from_micros(back)),
        leader + 1,
    );
    world.disrupted(format!("{fault:?}"), from, until, effect, recovery.max(back));
}

fn elapsed_seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
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
