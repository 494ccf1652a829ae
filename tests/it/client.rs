//! The Rust client (`clients/rust`) against real daemons: fail-over, leases, watches.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use musterd_client::{
    Change, Choice, Client, Filter, LossReason, NoTarget, OnLost, Policy, Reason, Register, Router, RouterSettings,
    State, Status, Step, Watch,
};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::harness::{daemon::Daemon, postgres::TestDatabase, wait::wait_until};

/// How long an event may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(40);

fn client(daemons: &[&Daemon]) -> Client {
    let addresses = daemons.iter().map(|daemon| daemon.grpc_addr.clone());
    Client::builder().daemons(addresses).timeout(Duration::from_secs(20)).build().unwrap()
}

fn organ(name: &str) -> Register {
    Register::new(name).address("10.0.0.5".parse().unwrap(), 8000)
}

async fn state(registration: &musterd_client::Registration, is_meant: impl Fn(&State) -> bool) -> State {
    *timeout(BOUND, registration.states().wait_for(|state| is_meant(state))).await.unwrap().unwrap()
}

#[tokio::test]
async fn registration_is_resolved_drained_and_given_back() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let registration = client.register(organ("a").label("zone", "x").node("n1").version("2")).await.unwrap();
    let lease = registration.lease().unwrap();
    assert_eq!(registration.require(), Ok(lease.lease_id));

    let resolved = client.resolve("a", &Choice::best().label("zone", "x")).await.unwrap();
    assert_eq!(resolved.instance.lease_id, lease.lease_id);
    assert_eq!(resolved.instance.address(), Some("10.0.0.5:8000".parse().unwrap()));
    assert_eq!(resolved.instance.pid, Some(std::process::id()));
    assert_eq!(client.check_lease(lease.lease_id).await.unwrap().instance.instance_id, lease.instance_id);
    let excluded = client.resolve("a", &Choice::best().without(lease.instance_id)).await.unwrap_err();
    assert_eq!((excluded.reason(), excluded.is_retryable()), (Reason::NoLiveInstance, false));
    assert_eq!(client.resolve("b", &Choice::best()).await.unwrap_err().reason(), Reason::UnknownLogicalId);

    registration.set_status(Status::Draining).await.unwrap();
    assert_eq!(client.instance(lease.instance_id).await.unwrap().instance.status, Status::Draining);
    let token = registration.token();
    registration.close(Duration::ZERO).await.unwrap();
    assert!(token.is_cancelled());
    assert_eq!(client.instance(lease.instance_id).await.unwrap().instance.status, Status::Dead);
}

#[tokio::test]
async fn refused_registration_names_the_field() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let error = client(&[&daemon]).register(organ("a").ttl(Duration::from_secs(1))).await.unwrap_err();
    assert_eq!((error.reason(), error.violations()[0].field()), (Reason::InvalidField, "ttl"), "{error}");
}

#[tokio::test]
async fn dropped_registration_is_given_back() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let registration = client.register(organ("a").ttl(Duration::from_secs(300))).await.unwrap();
    let instance_id = registration.lease().unwrap().instance_id;
    drop(registration);
    wait_until("the lease is given back", BOUND, async || {
        let status = client.instance(instance_id).await.unwrap().instance.status;
        if status == Status::Dead { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn lease_outlives_its_daemon_and_calls_go_to_the_other() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let client = client(&[&first, &second]);
    let registration = client.register(organ("a").ttl(Duration::from_secs(3))).await.unwrap();
    let lease = registration.lease().unwrap();
    first.kill9();
    // The other daemon may not have seen the registration yet; the client asks it to answer at that revision or later.
    // Longer than the TTL: without beats at the other daemon the lease would end, but for the hold after a lost daemon.
    let before = client.instance(lease.instance_id).await.unwrap().instance;
    wait_until("the other daemon is beaten at", BOUND, async || {
        let now = client.instance(lease.instance_id).await.unwrap().instance;
        if now.last_beat > before.last_beat { Ok(()) } else { Err(now.last_beat) }
    })
    .await;
    assert_eq!(registration.require(), Ok(lease.lease_id));
    assert_eq!(client.resolve("a", &Choice::best()).await.unwrap().instance.lease_id, lease.lease_id);
}

#[tokio::test]
async fn unresponsive_daemon_is_left_before_the_lease_is_doubtful() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let client = client(&[&first, &second]);
    let registration = client.register(organ("a").ttl(Duration::from_secs(12))).await.unwrap();
    let lease = registration.lease().unwrap();
    let mut states = registration.states();
    states.mark_unchanged();
    first.signal(Signal::SIGSTOP);
    let observer = self::client(&[&second]);
    observer.require_revision(lease.lease_id);
    let before = observer.instance(lease.instance_id).await.unwrap().instance;
    wait_until("the other daemon is beaten at", BOUND, async || {
        let now = observer.instance(lease.instance_id).await.unwrap().instance;
        if now.last_beat > before.last_beat { Ok(()) } else { Err(now.last_beat) }
    })
    .await;
    assert!(matches!(*states.borrow(), State::Held(_)));
    first.signal(Signal::SIGCONT);
}

#[tokio::test]
async fn unreachable_registry_makes_the_lease_doubtful_then_lost() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let registration = client.register(organ("a").ttl(Duration::from_secs(3))).await.unwrap();
    let (lease, token) = (registration.lease().unwrap(), registration.token());
    daemon.signal(Signal::SIGSTOP);
    assert_eq!(state(&registration, |state| matches!(state, State::Doubtful(_))).await, State::Doubtful(lease));
    let lost = timeout(BOUND, registration.lost()).await.unwrap();
    assert_eq!((lost.lease_id, lost.reason), (lease.lease_id, LossReason::Deadline));
    assert!(token.is_cancelled());
    assert_eq!(registration.require().unwrap_err().reason, LossReason::Deadline);
    daemon.signal(Signal::SIGCONT);
    // It registers again by itself, under the same instance id.
    let State::Held(again) = state(&registration, |state| matches!(state, State::Held(_))).await else { panic!() };
    assert_eq!(again.instance_id, lease.instance_id);
    assert_eq!(registration.require(), Ok(again.lease_id));
}

#[test]
fn blocked_runtime_keeps_its_lease() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (database, daemon) = runtime.block_on(async {
        let database = TestDatabase::create().await;
        let daemon = Daemon::start(database.url()).await;
        (database, daemon)
    });
    let application = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    application.block_on(async {
        let registration = client(&[&daemon]).register(organ("a").ttl(Duration::from_secs(2))).await.unwrap();
        let lease = registration.lease().unwrap();
        // The only thread of this runtime is blocked for two TTLs.
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(registration.require(), Ok(lease.lease_id));
        assert_eq!(registration.lease(), Some(lease));
    });
    drop(database);
}

#[tokio::test]
async fn short_lease_beside_long_ones_is_renewed_in_time() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let with_ttl = |name, seconds| client.register(organ(name).ttl(Duration::from_secs(seconds)));
    // The second of them comes while the pause of the first lasts, the short one while the pause of both does.
    let _long = (with_ttl("a", 300).await.unwrap(), with_ttl("b", 300).await.unwrap());
    let short = with_ttl("c", 6).await.unwrap();
    // A lease that was lost may be granted again under the same id.
    let token = short.token();
    let is_fresh = || short.remaining() > Duration::from_millis(5_500);
    wait_until("time has passed", BOUND, async || if is_fresh() { Err(short.remaining()) } else { Ok(()) }).await;
    wait_until("a beat", BOUND, async || if is_fresh() { Ok(()) } else { Err(short.remaining()) }).await;
    assert!(!token.is_cancelled());
}

#[tokio::test]
async fn rotated_epoch_is_rejoined_unless_the_instance_named_its_epoch() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let follower = client.register(organ("a").ttl(Duration::from_secs(2))).await.unwrap();
    let lease = follower.lease().unwrap();
    let bound =
        client.register(organ("b").ttl(Duration::from_secs(2)).cluster_epoch(lease.cluster_epoch)).await.unwrap();
    let stopped = client.register(organ("c").ttl(Duration::from_secs(2)).on_lost(OnLost::Stop)).await.unwrap();
    daemon.cluster().await.rotate_epoch(musterd::proto::v1::RotateEpochRequest::default()).await.unwrap();
    let rejoined = |state: &State| matches!(state, State::Held(now) if now.epoch_number > lease.epoch_number);
    state(&follower, rejoined).await;
    for registration in [&bound, &stopped] {
        state(registration, |state| *state == State::Ended).await;
        assert_eq!(registration.require().unwrap_err().reason, LossReason::Fenced);
    }
}

#[tokio::test]
async fn client_that_starts_before_its_registry_catches_up() {
    let database = TestDatabase::create().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::builder().daemons([port.to_string()]).timeout(BOUND).build().unwrap();
    let registering = tokio::spawn(async move { client.register(organ("a")).await });
    let daemon = Daemon::start_with(&["--database-url", database.url(), "--grpc-addr", &port.to_string()]).await;
    let registration = registering.await.unwrap().unwrap();
    assert!(registration.require().is_ok());
    drop(daemon);
}

#[tokio::test]
async fn list_yields_every_page_and_only_the_name_that_is_meant() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let mut kept = Vec::new();
    for name in ["a", "a", "ab", "b"] {
        kept.push(client.register(organ(name)).await.unwrap());
    }
    let names = async |filter| {
        let all: Vec<_> = client.list(filter).map_ok(|one| one.logical_id).try_collect().await.unwrap();
        all
    };
    assert_eq!(names(Filter::all()).await, ["a", "a", "ab", "b"]);
    assert_eq!(names(Filter::prefix("a")).await, ["a", "a", "ab"]);
    assert_eq!(names(Filter::logical_id("a")).await, ["a", "a"]);
    assert_eq!(names(Filter::all().status(Status::Draining)).await, [""; 0]);
}

/// Takes steps until a change is meant; panics at a reset.
async fn until(watch: &mut Watch, is_meant: impl Fn(&Change) -> bool) -> Vec<Change> {
    let mut seen = Vec::new();
    let looking = async {
        loop {
            if let Step::Batch(batch) = watch.next().await.unwrap() {
                assert!(!batch.reset, "nothing is to be dropped");
                seen.extend(batch.changes);
                if seen.iter().any(&is_meant) {
                    return;
                }
            }
        }
    };
    timeout(BOUND, looking).await.unwrap();
    seen
}

#[tokio::test]
async fn watch_resumes_at_the_other_daemon_without_gap_or_repetition() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let client = client(&[&first, &second]);
    let mut watch = client.watch(&Filter::prefix("w"));
    let kept = self::client(&[&second]).register(organ("w1")).await.unwrap();
    let put = |name: &'static str| move |change: &Change| matches!(change, Change::Put(one) if one.logical_id == name);
    until(&mut watch, put("w1")).await;
    first.kill9();
    let more = self::client(&[&second]).register(organ("w2")).await.unwrap();
    let seen = until(&mut watch, put("w2")).await;
    let puts = seen.iter().filter(|change| matches!(change, Change::Put(one) if one.logical_id == "w1")).count();
    assert_eq!(puts, 0, "what was seen before is not told again: {seen:?}");
    let gone = more.lease().unwrap().instance_id;
    more.close(Duration::ZERO).await.unwrap();
    until(&mut watch, |change| matches!(change, Change::Gone(one) if one.instance_id == gone)).await;
    drop(kept);
}

#[tokio::test]
async fn watch_with_a_refused_filter_ends_with_the_field() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let error = client(&[&daemon]).watch(&Filter::prefix("x".repeat(300))).next().await.unwrap_err();
    assert_eq!(error.violations()[0].field(), "logical_id_prefix");
}

#[tokio::test]
async fn router_picks_what_the_daemon_resolves() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let mut kept = Vec::new();
    for number in 0..6 {
        let (node, zone) = (format!("n{}", number % 3), format!("z{}", number % 2));
        kept.push(client.register(organ("r").node(node).label("zone", zone)).await.unwrap());
    }
    kept[1].set_status(Status::Draining).await.unwrap();
    kept.remove(4).close(Duration::ZERO).await.unwrap();
    let router = Router::new(&client);
    router.ready("r").await.unwrap();
    // The watch shows the latest changes a moment later than they were made.
    wait_until("the cache holds the four that are alive", BOUND, async || {
        let count = router.instances("r").len();
        if count == 4 { Ok(()) } else { Err(count) }
    })
    .await;

    let first = kept[0].lease().unwrap().instance_id;
    let mut choices = vec![Choice::best(), Choice::best().without(first), Choice::best().label("zone", "z1")];
    choices.extend(["n0", "n1", "n2", "n9"].map(|node| Choice::by(Policy::Near(node.into()))));
    choices.extend((0..40).map(|key| Choice::by(Policy::Rendezvous(format!("key-{key}"))).label("zone", "z0")));
    choices.extend((0..40).map(|key| Choice::by(Policy::Rendezvous(format!("key-{key}")))));
    for choice in choices {
        let picked = router.pick("r", &choice).unwrap();
        let resolved = client.resolve("r", &choice).await.unwrap();
        assert_eq!(picked.instance().instance_id, resolved.instance.instance_id, "{choice:?}");
    }
    let absent = router.pick("r", &Choice::best().label("zone", "z9")).unwrap_err();
    assert!(matches!(absent, NoTarget::NoLiveInstance(_)), "{absent}");
}

#[tokio::test]
async fn router_leaves_out_what_failed_as_long_as_there_is_another() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let (one, two) = (client.register(organ("r")).await.unwrap(), client.register(organ("r")).await.unwrap());
    let router = Router::new(&client);
    router.ready("r").await.unwrap();
    let (first, second) = (one.lease().unwrap().instance_id, two.lease().unwrap().instance_id);
    let mut called = Vec::new();
    let outcome: Result<(), &str> = router
        .call(
            "r",
            &Choice::best(),
            2,
            |error| *error == "refused",
            |target| {
                called.push(target.instance().instance_id);
                async { Err("refused") }
            },
        )
        .await
        .unwrap();
    assert_eq!((outcome, called), (Err("refused"), vec![first, second]));
    // Both have failed: the best of them is better than none.
    assert_eq!(router.pick("r", &Choice::best()).unwrap().instance().instance_id, first);
}

#[tokio::test]
async fn router_refuses_to_guess_when_its_knowledge_is_too_old() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&[&daemon]);
    let kept = client.register(organ("r").ttl(Duration::from_secs(300))).await.unwrap();
    let mut settings = RouterSettings::default();
    settings.max_stale = Duration::from_secs(7);
    let router = Router::with(&client, settings);
    router.ready("r").await.unwrap();
    daemon.signal(Signal::SIGSTOP);
    wait_until("the router refuses", BOUND, async || match router.pick("r", &Choice::best()) {
        Err(NoTarget::Stale { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    daemon.signal(Signal::SIGCONT);
    wait_until("the router knows again", BOUND, async || router.pick("r", &Choice::best()).map(drop)).await;
    drop(kept);
    let refused = router.ready(&"x".repeat(300)).await.unwrap_err();
    assert!(matches!(refused, NoTarget::Refused(_)), "{refused}");
}
