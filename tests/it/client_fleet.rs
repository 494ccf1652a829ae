//! Many processes of the Rust client on several daemons that restart and die: no lease is lost, no call fails, and a daemon that
//! remains is not met by all at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use musterd_client::{Beat, Choice, Client, Filter, Register, Registration, Router, State};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::harness::{daemon::Daemon, postgres::TestDatabase, wait::wait_until};

/// How long an event may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);
const NAME: &str = "fleet";
const TTL: Duration = Duration::from_secs(15);
/// As long as many come to the next daemon at once, that is a herd.
const HERD: Duration = Duration::from_millis(100);

/// Which daemon answered a client, and since when.
type Taken = Arc<Mutex<BTreeMap<usize, (String, Instant)>>>;

struct Fleet {
    daemons: Vec<Daemon>,
    addresses: Vec<String>,
    database: TestDatabase,
    held: Vec<Registration>,
    leases: Vec<u64>,
    taken: Taken,
}

impl Fleet {
    /// Processes that hold some registrations each, spread over the daemons.
    async fn start(daemons: usize, processes: usize, each: usize) -> Self {
        let database = TestDatabase::create().await;
        let mut started = Vec::new();
        for _ in 0..daemons {
            started.push(Daemon::start(database.url()).await);
        }
        let addresses: Vec<_> = started.iter().map(|daemon| daemon.grpc_addr.clone()).collect();
        let (mut held, taken) = (Vec::new(), Taken::default());
        for process in 0..processes {
            let mut order = addresses.clone();
            order.rotate_left(process % daemons);
            let client = observed(order, process, Arc::clone(&taken));
            for _ in 0..each {
                held.push(client.keep(Register::new(NAME).ttl(TTL)).unwrap());
            }
        }
        for one in &held {
            let mut states = one.states();
            tokio::time::timeout(BOUND, states.wait_for(|state| state.lease().is_some())).await.unwrap().unwrap();
        }
        let leases = held.iter().map(|one| one.require().unwrap()).collect();
        let fleet = Self { daemons: started, addresses, database, held, leases, taken };
        fleet.beats_elsewhere_than("none", processes).await;
        fleet
    }

    fn client(&self) -> Client {
        Client::builder().daemons(&self.addresses).timeout(Duration::from_secs(20)).build().unwrap()
    }

    /// Waits until every process beats, and none at this daemon.
    async fn beats_elsewhere_than(&self, daemon: &str, processes: usize) {
        wait_until("every process beats", BOUND, async || {
            let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let elsewhere = taken.values().filter(|(at, _)| !at.ends_with(daemon)).count();
            if elsewhere == processes { Ok(()) } else { Err(elsewhere) }
        })
        .await;
    }

    /// When processes came to another daemon, after this moment.
    fn came_since(&self, moment: Instant) -> Vec<Instant> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.values().map(|(_, at)| *at).filter(|at| *at > moment).collect()
    }

    /// No lease has changed, by the clients' own knowledge and by the registry's.
    async fn assert_nothing_lost(&self) {
        for (one, lease) in self.held.iter().zip(&self.leases) {
            assert!(matches!(one.state(), State::Held(_)), "{:?} {:?}", one.state(), one.trouble());
            assert_eq!(one.require(), Ok(*lease));
        }
        let client = self.client();
        let listed: Vec<_> =
            futures_util::TryStreamExt::try_collect(client.list(Filter::logical_id(NAME))).await.unwrap();
        let mut listed: Vec<u64> = listed.iter().map(|one: &musterd_client::Instance| one.lease_id).collect();
        let mut leases = self.leases.clone();
        listed.sort_unstable();
        leases.sort_unstable();
        assert_eq!(listed, leases);
    }
}

fn observed(daemons: Vec<String>, process: usize, taken: Taken) -> Client {
    let note = move |beat: &Beat<'_>| {
        let daemon = beat.daemon.to_string();
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if beat.outcome.is_ok() && taken.get(&process).is_none_or(|(before, _)| *before != daemon) {
            taken.insert(process, (daemon, Instant::now()));
        }
    };
    Client::builder().daemons(daemons).timeout(BOUND).beat_observer(note).build().unwrap()
}

/// Resolves and picks until it is told to stop; returns how often. A failure ends the test.
fn calls(client: Client, stop: CancellationToken) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let router = Router::new(&client);
        router.ready(NAME).await.unwrap();
        let mut calls = 0;
        while !stop.is_cancelled() {
            client.resolve(NAME, &Choice::best()).await.unwrap();
            router.pick(NAME, &Choice::best()).unwrap();
            calls += 1;
            sleep(Duration::from_millis(5)).await;
        }
        calls
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_of_three_daemons_loses_no_lease_and_fails_no_call() {
    let mut fleet = Fleet::start(3, 9, 5).await;
    let stop = CancellationToken::new();
    let callers: Vec<_> = (0..2).map(|_| calls(fleet.client(), stop.clone())).collect();
    for _ in 0..3 {
        let daemon = fleet.daemons.remove(0);
        let address = daemon.grpc_addr.clone();
        assert!(daemon.terminate().await.success());
        fleet.beats_elsewhere_than(&address, 9).await;
        let flags = ["--database-url", fleet.database.url(), "--grpc-addr", &address];
        fleet.daemons.push(Daemon::start_with(&flags).await);
    }
    stop.cancel();
    for caller in callers {
        assert!(caller.await.unwrap() > 10);
    }
    fleet.assert_nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_daemons_killed_lose_none_of_300_leases_and_no_herd_comes() {
    const PROCESSES: usize = 60;
    let mut fleet = Fleet::start(3, PROCESSES, 5).await;
    for _ in 0..2 {
        let daemon = fleet.daemons.remove(0);
        let address = daemon.grpc_addr.clone();
        let killed = Instant::now();
        daemon.kill9();
        fleet.beats_elsewhere_than(&address, PROCESSES).await;
        let mut came = fleet.came_since(killed);
        came.sort_unstable();
        assert!(came.len() >= PROCESSES / 4, "{} came", came.len());
        let crowd = |from: &Instant| came.iter().filter(|at| (*from..*from + HERD).contains(*at)).count();
        let most = came.iter().map(crowd).max().unwrap_or_default();
        assert!(most * 2 <= came.len(), "{most} of {} came within {HERD:?}", came.len());
        fleet.assert_nothing_lost().await;
    }
}
