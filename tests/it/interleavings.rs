//! Whatever happens, in whatever order, at whichever daemon: both daemons and all their watchers come to the state of
//! the database, and a watcher that stopped anywhere and resumed anywhere knows what one knows that never stopped.
//!
//! What a watcher is told on the way (in order, none twice, nothing it has seen) is checked by [`Watcher`] itself.

mod state;
mod steps;

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use musterd::proto::v1::{Instance, WatchRequest};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::{runtime::Runtime, time::timeout};

use self::{
    state::{Instances, Truth, filters, told},
    steps::{Step, World, any_step},
};
use crate::harness::{postgres::BOUND, wait::wait_until, wire::Watcher};

const CASES: u32 = 20;
const STEPS: usize = 40;
/// Steps that are taken at the same time.
const AT_ONCE: usize = 3;
/// How long a watcher that does not know what is on record waits for a response.
const PATIENCE: Duration = Duration::from_millis(100);
/// Rounds between two looks.
const LOOK_EVERY: usize = 3;

/// A watcher, what it asked for, and everywhere it might have stopped.
struct Follower {
    filter: WatchRequest,
    watcher: Watcher,
    stops: Vec<(WatchRequest, BTreeMap<String, Instance>)>,
}

/// What a watcher knows to be there: an instance of another epoch than the current one is not, told so or not.
fn known(watcher: &Watcher) -> Instances {
    let current = watcher.known.values().filter(|instance| instance.epoch_number == watcher.epoch_number);
    current.map(|instance| (instance.instance_id.clone(), told(instance))).collect()
}

async fn follow(world: &World) -> Vec<Follower> {
    let mut followers = Vec::new();
    for daemon in &world.daemons {
        for filter in filters() {
            let watcher = Watcher::open(daemon, filter.clone()).await.unwrap();
            followers.push(Follower { filter, watcher, stops: Vec::new() });
        }
    }
    followers
}

/// Takes over responses until a watcher knows what the database has.
async fn catch_up(world: &World, filter: &WatchRequest, watcher: &mut Watcher) {
    wait_until("the watcher knows what is on record", BOUND, async || {
        let truth = Truth::read(&world.sql.client).await;
        let told = (watcher.complete, watcher.epoch_number, known(watcher));
        let expected = (true, truth.epoch_number, truth.asked_for(filter));
        if told == expected {
            return Ok(());
        }
        // A change that does not match may be what was read: then no response comes, and it is read again.
        let _ = timeout(PATIENCE, watcher.step()).await.map(Result::unwrap);
        Err(format!("{filter:?}, reset {} times: told {told:#?}\nof {expected:#?}", watcher.resets))
    })
    .await;
}

/// Lets all watchers catch up with the database, and notes where each might have stopped.
async fn look(world: &World, followers: &mut [Follower]) {
    join_all(followers.iter_mut().map(async |follower| {
        catch_up(world, &follower.filter, &mut follower.watcher).await;
        let stop = follower.watcher.resumption(follower.filter.clone());
        follower.stops.push((stop, follower.watcher.known.clone()));
    }))
    .await;
}

/// Both daemons list what the database has, dead instances included.
async fn assert_lists(world: &World) {
    wait_until("both daemons list what the database has", BOUND, async || {
        let truth = Truth::read(&world.sql.client).await;
        for clients in &world.clients {
            let listed = clients.everything_at(truth.revision).await;
            let listed: Instances = listed.iter().map(|it| (it.instance_id.clone(), told(it))).collect();
            let differ = |id: &&String| listed.get(*id) != truth.instances.get(*id);
            let differing: Vec<_> = listed.keys().chain(truth.instances.keys()).filter(differ).collect();
            if let Some(id) = differing.first() {
                return Err(format!("{id}: listed {:?}\non record {:?}", listed.get(*id), truth.instances.get(*id)));
            }
        }
        Ok(())
    })
    .await;
}

/// Resumes at every stop, at the other daemon, and comes to what the one knows that did not stop.
async fn assert_resumptions(world: &World, followers: &[Follower]) {
    let per_daemon = followers.len() / 2;
    let resumptions = followers.iter().enumerate().flat_map(|(at, follower)| {
        let daemon = &world.daemons[1 - at / per_daemon];
        follower.stops.iter().map(move |(stop, known_then)| async move {
            let mut resumed = Watcher::open(daemon, stop.clone()).await.unwrap();
            resumed.known = known_then.clone();
            resumed.revision = stop.resume_after;
            catch_up(world, &follower.filter, &mut resumed).await;
        })
    });
    join_all(resumptions).await;
}

async fn assert_converges(world: &World, steps: &[Step]) {
    let mut followers = follow(world).await;
    for (round, at_once) in steps.chunks(AT_ONCE).enumerate() {
        join_all(at_once.iter().map(|step| world.take(step))).await;
        if round % LOOK_EVERY == 0 {
            look(world, &mut followers).await;
        }
    }
    look(world, &mut followers).await;
    assert_lists(world).await;
    assert_resumptions(world, &followers).await;
}

#[test]
fn any_interleaving_at_two_daemons_leads_both_and_all_watchers_to_the_state_of_the_database() {
    let runtime = Runtime::new().unwrap();
    let world = runtime.block_on(World::start());
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 8, ..Config::default() };
    // A failure is printed with the steps that lead to it, as few as were found.
    let result = TestRunner::new(config).run(&prop::collection::vec(any_step(), STEPS), |steps| {
        runtime.block_on(assert_converges(&world, &steps));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
