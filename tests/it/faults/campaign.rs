//! A run: calm, then one step after the other (one fault or several at once, until they heal), calm, judgement.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client as Sql;

use super::{
    checker::{Demands, Evidence, Verdict},
    client::{Client, Registration},
    history::{Answer, Micros, Outcome},
    nemesis::{self, Fault},
    world::{Population, World},
};

/// A daemon that acknowledges no change that long after everything is healed has not recovered.
const RECOVERY_BOUND: Duration = Duration::from_secs(15);

/// Between two looks at the beats that are saved.
const CALM_PAUSE: Duration = Duration::from_millis(200);

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) population: Population,
    pub(crate) steps: Vec<Vec<Fault>>,
}

/// What every run needs to prove anything.
pub(crate) fn demands(population: Population, steps: usize) -> Demands {
    Demands {
        changes_acknowledged: 100 + 20 * steps,
        beats_acknowledged: population.actors * 3,
        reads_answered: 100,
        picks: 10,
        sights_per_watcher: 20,
        ..Demands::default()
    }
}

/// Does it, and judges what happened.
pub(crate) async fn run(plan: Plan) -> (Verdict, Evidence) {
    let own = plan.steps.iter().flatten().any(|fault| fault.hurts_the_cluster());
    let mut world = if own {
        World::own(plan.population.daemons, plan.seed).await
    } else {
        World::shared(plan.population.daemons, plan.seed).await
    };
    world.start_daemons().await;
    world.populate(plan.population).await;
    sleep(Duration::from_millis(2_500)).await;
    world.note_footprints();
    carry_out(&mut world, &plan.steps).await;
    world.finish(plan.name, plan.seed, demands(plan.population, plan.steps.len())).await
}

/// One step after the other.
pub(crate) async fn carry_out(world: &mut World, steps: &[Vec<Fault>]) {
    for step in steps {
        // The effect of a fault depends on the phase of each lease's beats and saves.
        let phase = world.dice.between(Duration::ZERO, world.ttl / 3);
        sleep(phase).await;
        disrupt(world, step).await;
        calm_down(world).await;
    }
}

/// Ends the hold once the beats of every actor are saved again, as an operator would: the next fault has to meet a registry that
/// is not protected by the one before. An actor that was cut off may need seconds: a lost SYN is repeated after one, and its next
/// beat is up to a third of the TTL away.
pub(crate) async fn calm_down(world: &World) {
    let sql = world.sql().await;
    let began = Instant::now();
    let healed: DateTime<Utc> = sql.query_one("SELECT muster_now()", &[]).await.unwrap().get(0);
    sleep(world.ttl / 2).await;
    // What is still missing at the bound is for the checker to judge.
    while unheard(world, &sql, healed).await > 0 && began.elapsed() < RECOVERY_BOUND {
        sleep(CALM_PAUSE).await;
    }
    // A daemon that runs may only be slow. Without its row, no death would wait for the beats that it has still to save.
    let running: Vec<&str> =
        world.nodes.iter().filter_map(|node| node.daemon.as_ref()).map(|daemon| daemon.grpc_addr.as_str()).collect();
    let of_lost = "DELETE FROM registry_daemon
                   WHERE last_flush < clock_timestamp() - interval '3 seconds' AND address <> ALL($1)";
    sql.execute(of_lost, &[&running]).await.unwrap();
    let hold = "UPDATE cluster_metadata SET hold_until = NULL, hold_reason = NULL WHERE hold_until IS NOT NULL";
    sql.batch_execute(hold).await.unwrap();
}

/// How many live leases whose owners beat have no saved beat since then.
async fn unheard(world: &World, sql: &Sql, since: DateTime<Utc>) -> i64 {
    let beating = world.kept.all().into_iter().filter(|(_, silent)| silent.is_none());
    let leases: Vec<i64> = beating.filter_map(|(lease, _)| i64::try_from(lease).ok()).collect();
    let statement = "SELECT count(*) FROM registry_instance
                     WHERE lease_id = ANY($1) AND status <> 'dead' AND last_heartbeat < $2";
    sql.query_one(statement, &[&leases, &since]).await.unwrap().get(0)
}

/// One step: all of these at once.
pub(crate) async fn disrupt(world: &mut World, faults: &[Fault]) {
    let mut wounds = Vec::new();
    for fault in faults {
        wounds.push(nemesis::strike(world, *fault).await);
    }
    // The longest last: PostgreSQL must be back before a daemon can start.
    wounds.sort_by_key(|wound| (!wound.fault.hurts_the_cluster(), wound.fault.lasts()));
    sleep(wounds.iter().map(|wound| wound.fault.lasts()).max().unwrap_or_default()).await;
    let mut ended = Vec::new();
    for wound in wounds {
        let (fault, from) = (wound.fault, wound.from);
        let effect = nemesis::heal(world, wound).await;
        ended.push((fault, from, effect));
    }
    let until = world.history.now();
    let recovery = recovery(world).await;
    let any = ended.iter().any(|(_, _, effect)| !effect.is_empty());
    for (fault, from, effect) in ended {
        // Among several one may hide the other.
        let hidden = effect.is_empty() && any;
        let effect = if hidden { "hidden by the others".to_owned() } else { effect };
        world.disrupted(format!("{fault:?}"), from, until, effect, recovery);
    }
}

/// How long it takes until every daemon has acknowledged a change.
pub(crate) async fn recovery(world: &mut World) -> Micros {
    let began = world.history.now();
    let client = world.client();
    let mut probes = Vec::new();
    for daemon in 0..world.nodes.len() {
        probes.push(probe(client.clone(), daemon, world.dice.id(), world.ttl));
    }
    if futures_util::future::join_all(probes).await.contains(&false) {
        world.complaints.push(format!("not every daemon has acknowledged a change within {RECOVERY_BOUND:?}"));
    }
    world.history.now() - began
}

async fn probe(client: Client, daemon: usize, instance: uuid::Uuid, ttl: Duration) -> bool {
    let began = Instant::now();
    let asked = Registration::probe(instance, ttl);
    let mut attempt = 0;
    while began.elapsed() < RECOVERY_BOUND {
        attempt += 1;
        if let Outcome::Ok(Answer::Registered { lease, .. }) = client.register(daemon, attempt, &asked).await {
            client.deregister(daemon, attempt, lease).await;
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}
