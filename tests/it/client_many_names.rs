//! A router of very many names, and a client of very many watches: few streams on few connections, and the same answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use musterd_client::{
    Choice, Client, Filter, Kind, NoTarget, Register, Registration, Router, RouterSettings, Status, Step, TargetChange,
    Tls, Token, Update,
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    faults::dice::Dice,
    harness::{daemon::Daemon, postgres::TestDatabase, secured::Secured, wait::wait_until},
};

/// How long an event may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);
/// A lease that no beat has to renew for as long as a test takes.
const LONG: Duration = Duration::from_secs(300);
const WATCH: &str = "grpc_service=\"muster.v1.DiscoveryService\",grpc_method=\"Watch\"";

fn client(daemons: &[&Daemon]) -> Client {
    let addresses = daemons.iter().map(|daemon| daemon.grpc_addr.clone());
    Client::builder().daemons(addresses).timeout(BOUND).build().unwrap()
}

fn name(number: usize) -> String {
    format!("organ-{number}")
}

/// How many watches are open at a daemon.
async fn watches(daemon: &Daemon) -> i64 {
    let (_, text) = daemon.http_get("/metrics").await.unwrap();
    let sum = |metric: &str| -> f64 {
        let of_watches = text.lines().filter(|line| line.starts_with(metric) && line.contains(WATCH));
        of_watches.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    #[expect(clippy::cast_possible_truncation, reason = "a small count")]
    let open = (sum("grpc_server_started_total{") - sum("grpc_server_handled_total{")) as i64;
    open
}

async fn watches_are(daemon: &Daemon, expected: i64) {
    wait_until("streams are closed", BOUND, async || {
        let now = watches(daemon).await;
        if now == expected { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Registers one instance of each name. Returns them with their leases.
async fn registered(client: &Client, names: impl Iterator<Item = String>) -> Vec<(Registration, u64)> {
    let kept: Vec<_> = names.map(|name| client.keep(Register::new(name).ttl(LONG)).unwrap()).collect();
    let mut held = Vec::new();
    for one in kept {
        let mut states = one.states();
        let state = *timeout(BOUND, states.wait_for(|state| state.lease().is_some())).await.unwrap().unwrap();
        held.push((one, state.lease().unwrap().lease_id));
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn router_of_10_000_names_follows_them_by_one_stream_and_picks_the_right_instances() {
    const NAMES: usize = 10_000;
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let held = registered(&client, (0..NAMES).map(name)).await;
    let mut settings = RouterSettings::default();
    settings.idle = Duration::from_secs(8);
    let router = Router::with(&client, settings);
    for (number, (_, lease_id)) in held.iter().enumerate() {
        router.ready(&name(number)).await.unwrap();
        let picked = router.pick(&name(number), &Choice::best()).unwrap();
        assert_eq!(picked.instance().lease_id, *lease_id);
    }
    watches_are(&daemon, 1).await;
    assert!(daemon.metric("musterd_grpc_connections").await.unwrap() <= 3.0);

    // A name that was not used before is known without a wait, and its changes are followed.
    let late = client.register(Register::new("organ-late").ttl(LONG)).await.unwrap();
    wait_until("it is known", BOUND, async || router.pick("organ-late", &Choice::best()).map(drop)).await;
    late.set_status(Status::Draining).await.unwrap();
    wait_until("it is gone", BOUND, async || match router.pick("organ-late", &Choice::best()) {
        Err(NoTarget::NoLiveInstance(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Another prefix: a watch of its own.
    let _other = client.register(Register::new("another").ttl(LONG)).await.unwrap();
    router.ready("another").await.unwrap();
    router.pick("another", &Choice::best()).unwrap();
    watches_are(&daemon, 2).await;
    // Without use, all ends.
    watches_are(&daemon, 0).await;
    router.ready("organ-7").await.unwrap();
    assert_eq!(router.pick("organ-7", &Choice::best()).unwrap().instance().lease_id, held[7].1);
}

/// What a router knows, by name, and what the daemon lists.
async fn compare(client: &Client, router: &Router, names: usize, told: &[String]) {
    type Known = BTreeMap<String, BTreeSet<(Uuid, u64)>>;
    let keys = |one: &musterd_client::Instance| (one.instance_id, one.revision);
    wait_until(&format!("both know the same after {told:?}"), BOUND, async || {
        let all: Vec<_> = client.list(Filter::all().status(Status::Alive)).try_collect().await.unwrap();
        let mut listed = Known::new();
        for one in &all {
            listed.entry(one.logical_id.clone()).or_default().insert(keys(one));
        }
        for number in 0..names {
            let cached: BTreeSet<_> = router.instances(&name(number)).iter().map(|one| keys(one)).collect();
            let listed = listed.remove(&name(number)).unwrap_or_default();
            if cached != listed {
                return Err((number, cached, listed));
            }
        }
        Ok(())
    })
    .await;
}

/// The same instance under another name: it is no longer one of the former.
async fn moved(client: &Client, registration: Registration, name: &str) -> Registration {
    let id = registration.instance_id();
    drop(registration);
    wait_until("it is given back", BOUND, async || {
        let status = client.instance(id).await.unwrap().instance.status;
        if status == Status::Dead { Ok(()) } else { Err(status) }
    })
    .await;
    client.register(Register::new(name).ttl(LONG).instance_id(id)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn router_of_many_names_knows_what_the_daemon_lists_over_random_histories() {
    const NAMES: usize = 300;
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let client = client(&[&first, &second]);
    let mut held = registered(&client, (0..NAMES).map(name)).await;
    let (router, mut dice, mut told) = (Router::new(&client), Dice::new(20_261_127), Vec::new());
    let mut changes = router.changes(&name(0));
    let known = stream::iter(0..NAMES).map(|number| {
        let router = router.clone();
        async move { router.ready(&name(number)).await.unwrap() }
    });
    // All at once: the shared watch begins while the first of them are on their way.
    known.buffer_unordered(NAMES).collect::<Vec<()>>().await;
    let mut first = Some(first);
    for step in 0..40 {
        let at = dice.below(held.len());
        told.push(match dice.below(12) {
            0..=3 => {
                let name = name(dice.below(NAMES));
                held.push((client.register(Register::new(&name).ttl(LONG)).await.unwrap(), 0));
                format!("register {name}")
            }
            4..=6 => {
                held.swap_remove(at).0.close(Duration::ZERO).await.unwrap();
                format!("close {at}")
            }
            7 | 8 => {
                held[at].0.set_status(Status::Draining).await.unwrap();
                format!("drain {at}")
            }
            9 => {
                held[at].0.update(Update::new().version(format!("{step}"))).await.unwrap();
                format!("update {at}")
            }
            10 => {
                let name = name(dice.below(NAMES));
                let moved = moved(&client, held.swap_remove(at).0, &name).await;
                held.push((moved, 0));
                format!("move {at} to {name}")
            }
            _ => match first.take() {
                Some(daemon) => {
                    daemon.kill9();
                    "kill a daemon".to_owned()
                }
                None => {
                    client.force_rotate_epoch(Uuid::new_v4(), None, "a test").await.unwrap();
                    held.truncate(0);
                    held = registered(&client, (0..20).map(name)).await;
                    "rotate".to_owned()
                }
            },
        });
        compare(&client, &router, NAMES, &told).await;
    }
    // A stream of changes that began before goes on.
    let mut seen = 0;
    let marked = client.register(Register::new(name(0)).version("marked").ttl(LONG)).await.unwrap();
    wait_until("the mark is seen", BOUND, async || {
        while let Ok(Some(change)) = timeout(Duration::from_millis(10), changes.next()).await {
            seen += 1;
            if matches!(change.unwrap(), TargetChange::Put(one) if one.instance().instance_id == marked.instance_id()) {
                return Ok(());
            }
        }
        Err(seen)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn six_hundred_watches_of_one_client_open_on_a_few_connections() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let opening = stream::iter(0..600).map(|number| {
        let mut watch = client.watch(&Filter::logical_id(name(number)));
        async move {
            loop {
                // A connection that is full is an interruption.
                if let Step::Batch(batch) = watch.next().await.unwrap() {
                    assert!(batch.complete);
                    return watch;
                }
            }
        }
    });
    let open: Vec<_> = timeout(BOUND, opening.buffer_unordered(600).collect()).await.unwrap();
    assert_eq!((open.len(), watches(&daemon).await), (600, 600));
    // 256 on each; those that find one full at the same moment may open more than one.
    let connections = daemon.metric("musterd_grpc_connections").await.unwrap();
    assert!((3.0..=6.0).contains(&connections), "{connections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_that_a_router_of_many_may_not_read_is_refused_and_not_taken_for_empty() {
    let rules = "[[rule]]\nwho = [\"token/router\"]\nmay = [\"read\"]\non = [\"organ-a*\", \"organ-c*\"]";
    let secured = Secured::enforced(rules, &["router"]).await;
    let (operator, token) = (secured.client(), Token::text(secured.token("router")));
    let tls = Tls::new().ca(secured.path("ca.pem"));
    let client = Client::builder().daemons([secured.address()]).timeout(BOUND).tls(tls).token(token).build().unwrap();
    let names: Vec<_> =
        (0..60).map(|number| format!("organ-{}{number}", if number % 2 == 0 { 'a' } else { 'c' })).collect();
    let _held = registered(&operator, names.clone().into_iter()).await;
    let router = Router::new(&client);
    for name in &names {
        router.ready(name).await.unwrap();
        router.pick(name, &Choice::best()).unwrap();
    }
    for _ in 0..3 {
        let refused = router.ready("organ-b").await.unwrap_err();
        assert!(matches!(&refused, NoTarget::Refused(error) if error.kind() == Kind::Denied), "{refused}");
    }
    // One that it may read, without an instance, is known to be empty, and filled by the first.
    router.ready("organ-a").await.unwrap();
    assert!(matches!(router.pick("organ-a", &Choice::best()), Err(NoTarget::NoLiveInstance(_))));
    let _first = operator.register(Register::new("organ-a").ttl(LONG)).await.unwrap();
    wait_until("it is known", BOUND, async || router.pick("organ-a", &Choice::best()).map(drop)).await;
}
