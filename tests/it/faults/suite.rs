//! The runs: each kind of fault by itself, then pairs, then all by chance.

use super::{
    campaign::{self, Plan},
    checker::{Demands, Verdict},
    dice::Dice,
    nemesis::Fault::{self, *},
    world::{Population, World},
};
use crate::harness::{daemon::is_tls_asked_for, postgres::BOUND, registry::get, wait::wait_until};
use std::time::Duration;

/// The seed of this run: `MUSTERD_FAULTS_SEED`, or a fixed one for each test.
fn seed(otherwise: u64) -> u64 {
    std::env::var("MUSTERD_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(otherwise)
}

async fn singly(name: &'static str, population: Population, faults: &[Fault]) -> Verdict {
    let steps = faults.iter().map(|fault| vec![*fault]).collect();
    let plan = Plan { name, seed: seed(1), population, steps };
    let (verdict, _) = campaign::run(plan).await;
    assert_eq!(verdict.violations, []);
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_every_promise_holds_and_the_silent_are_found_in_time() {
    let mut world = World::shared(3, seed(1)).await;
    world.start_daemons().await;
    world.populate(Population { quitters: 8, ..Population::default() }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.note_footprints();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let demands = Demands { detections: 8, ..campaign::demands(Population::default(), 3) };
    let (verdict, _) = world.finish("calm", seed(1), demands).await;
    assert_eq!(verdict.violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_leases_silent_at_once_expire_bit_by_bit() {
    let mut world = World::shared(2, seed(1)).await;
    world.start_daemons().await;
    let population = Population { actors: 45, quitters: 20, writers: 0, watchers: 2, ..Population::default() };
    world.populate(population).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    let (verdict, evidence) =
        world.finish("pace", seed(1), Demands { sights_per_watcher: 20, ..Demands::default() }).await;
    assert_eq!(verdict.violations, []);
    let paced = evidence.protections.iter().filter(|(_, _, why)| why == "pace").count();
    assert!(paced > 0 && (1..20).contains(&verdict.figures.stale_deaths), "{:?}", verdict.figures);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_paused_daemons_break_no_promise() {
    singly("daemons", Population::default(), &[PauseDaemon, KillDaemon, PauseDaemonLong, BlackHoleClients]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_single_daemon_break_no_promise() {
    let population = Population { daemons: 1, actors: 20, ..Population::default() };
    singly("single", population, &[PauseDaemonLong, BlackHoleDatabase, KillDaemon, LoseAnswers]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_crashes_stops_and_freezes_break_no_promise() {
    singly("postgresql", Population::default(), &[KillDatabase, StopDatabase, FreezeDatabase]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn link_faults_of_every_kind_break_no_promise() {
    let faults = [BlackHoleDatabase, HalfOpenDatabase, CutDatabase, SlowDatabase, LoseAnswers];
    singly("links", Population::default(), &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_others_in_the_database_break_no_promise() {
    let faults = [
        TerminateBackends,
        CancelBackends,
        LoseNotifications,
        ForgeNotifications,
        LongTransaction,
        HeldRow,
        DeafWatchers,
        RotationStorm,
    ];
    singly("database", Population::default(), &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnecting_herd_loses_no_lease() {
    // The handshakes of more take a small machine longer than a TTL, in a build that is not optimized.
    let actors = if is_tls_asked_for() { 100 } else { 300 };
    let population = Population { actors, routers: 1, writers: 2, ..Population::default() };
    singly("herd", population, &[Herd, KillDaemon]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_in_pairs_break_no_promise() {
    let steps = [
        [KillDaemon, FreezeDatabase],
        [PauseDaemonLong, KillDatabase],
        [LoseAnswers, RotationStorm],
        [HalfOpenDatabase, Herd],
    ];
    let steps = steps.map(|pair| pair.to_vec()).to_vec();
    let plan = Plan { name: "pairs", seed: seed(2), population: Population::default(), steps };
    let (verdict, _) = campaign::run(plan).await;
    assert_eq!(verdict.violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_break_no_promise() {
    let seconds = std::env::var("MUSTERD_FAULTS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let seed = seed(3);
    let mut dice = Dice::new(seed);
    let (mut steps, mut lasts) = (Vec::new(), Duration::ZERO);
    while lasts < Duration::from_secs(seconds) {
        let count = 1 + dice.below(3);
        let step: Vec<_> = (0..count).map(|_| Fault::ALL[dice.below(Fault::ALL.len())]).collect();
        lasts += step.iter().map(|fault| fault.lasts()).max().unwrap_or_default() + Duration::from_secs(2);
        steps.push(step);
    }
    let plan = Plan { name: "chance", seed, population: Population::default(), steps };
    let (verdict, _) = campaign::run(plan).await;
    assert_eq!(verdict.violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_loses_postgresql_does_not_lose_the_beats_it_acknowledges() {
    let population = Population { actors: 60, quitters: 0, ..Population::default() };
    singly("cut-off", population, &[BlackHoleDatabase, HalfOpenDatabase]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_secured_daemons_break_no_promise() {
    let population = Population { actors: 20, quitters: 2, ..Population::default() };
    // Those of connections to daemons, and one of each other kind; the others with MUSTERD_FAULTS_TLS.
    let faults =
        [KillDaemon, PauseDaemonLong, BlackHoleClients, Herd, DeafWatchers, LoseAnswers, CutDatabase, RotationStorm];
    let steps: Vec<_> = faults.map(|fault| vec![fault]).to_vec();
    let mut world = World::secured(population.daemons, seed(4)).await;
    world.start_daemons().await;
    world.populate(population).await;
    let sql = world.sql().await;
    wait_until("every instance has the owner of its certificate", BOUND, async || {
        let owned = "SELECT count(*) FILTER (WHERE owner LIKE 'cert/client-%') >= 20
                        AND count(*) FILTER (WHERE owner NOT LIKE 'cert/client-%') = 0 FROM registry_instance";
        if get(&sql, owned).await { Ok(()) } else { Err(()) }
    })
    .await;
    world.note_footprints();
    campaign::carry_out(&mut world, &steps).await;
    let demands = campaign::demands(population, steps.len());
    let (verdict, _) = world.finish("secured", seed(4), demands).await;
    assert_eq!(verdict.violations, []);
}
