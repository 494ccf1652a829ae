//! What operators may overrule and look up through a daemon: hold, release, the end of one instance, leases, the past.

use std::{collections::BTreeSet, time::Duration};

use futures_util::TryStreamExt as _;
use musterd::proto::v1;
use musterd_client::{BrakeMode, DeathReason, Filter, Instance, Status as InstanceStatus};
use tonic::{Code, Response, Status};

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::{column, get},
    served::{Refusal, refusal, seconds},
    wait::wait_until,
};

/// Well under the 30 s after which a reaper would look again by itself.
const SOON: Duration = Duration::from_secs(12);

async fn hold(caller: &Caller, duration: Option<prost_types::Duration>, reason: &str) -> Result<Duration, Status> {
    let request = v1::HoldExpiryRequest { duration, reason: reason.into() };
    let held = caller.wire.cluster.clone().hold_expiry(request).await?.into_inner();
    Ok(held.remaining.unwrap().try_into().unwrap())
}

async fn release(caller: &Caller, duration: Option<prost_types::Duration>) -> Result<(), Status> {
    caller.wire.cluster.clone().release_expiry(v1::ReleaseExpiryRequest { duration }).await.map(drop)
}

async fn expire(caller: &Caller, instance_id: &str, lease_id: u64) -> Result<v1::ExpireInstanceResponse, Status> {
    let request = v1::ExpireInstanceRequest { instance_id: instance_id.into(), lease_id };
    caller.wire.cluster.clone().expire_instance(request).await.map(Response::into_inner)
}

async fn check(caller: &Caller, lease_id: u64, min_revision: u64) -> Result<v1::CheckLeaseResponse, Status> {
    let request = v1::CheckLeaseRequest { lease_id, min_revision };
    caller.wire.discovery.clone().check_lease(request).await.map(Response::into_inner)
}

/// Two daemons on one database.
async fn pair() -> (TestDatabase, [Daemon; 2], [Caller; 2]) {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let callers = [Caller::of(&first), Caller::of(&second)];
    (database, [first, second], callers)
}

/// Waits until a metric has a value on every daemon.
async fn metric(daemons: &[Daemon], name: &str, value: f64) {
    for daemon in daemons {
        wait_until(name, SOON, async || match daemon.metric(name).await {
            Some(found) if (found - value).abs() < f64::EPSILON => Ok(()),
            other => Err(other),
        })
        .await;
    }
}

async fn status(caller: &Caller, instance_id: &str) -> InstanceStatus {
    caller.instance(instance_id).await.unwrap().status
}

async fn all_dead(caller: &Caller, ids: &[String]) {
    wait_until("all of them are dead", SOON, async || {
        for id in ids {
            let instance = caller.instance(id).await?;
            if instance.status != InstanceStatus::Dead {
                return Err(format!("{instance:?}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Registers silent instances, and waits until all are overdue.
async fn overdue(database: &TestDatabase, caller: &Caller, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(caller.register(alive("organ", Duration::from_secs(2))).await.unwrap().instance_id);
    }
    let client = connect(database.url()).await;
    let sql = "SELECT count(*) FROM registry_instance WHERE last_heartbeat + interval '3 s' < now()";
    wait_until("they are overdue", SOON, async || match get::<i64>(&client, sql).await {
        late if usize::try_from(late).unwrap() == count => Ok(()),
        late => Err(late),
    })
    .await;
    ids
}

/// Without a retry: the answer itself says that the daemon shows what was done.
#[tokio::test(flavor = "multi_thread")]
async fn operator_call_is_shown_by_the_daemon_that_answered_it() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    for round in 1..=3 {
        let reason = format!("round {round}");
        for minutes in [10, 20] {
            hold(&caller, Some(seconds(60 * i64::try_from(minutes).unwrap())), &reason).await.unwrap();
            let shown = caller.cluster().await.unwrap().hold.unwrap();
            assert_eq!(shown.reason, reason);
            assert!((60 * minutes - 30..=60 * minutes).contains(&shown.remaining.unwrap().as_secs()), "{shown:?}");
        }
        release(&caller, None).await.unwrap();
        assert!(caller.cluster().await.unwrap().hold.is_none());

        let registered = caller.register(alive("organ", Duration::from_secs(60))).await.unwrap();
        expire(&caller, &registered.instance_id, 0).await.unwrap();
        assert_eq!(status(&caller, &registered.instance_id).await, InstanceStatus::Dead);
        let rotated = caller.rotate(&reason).await.unwrap();
        assert_eq!(caller.cluster().await.unwrap().cluster_epoch, rotated.cluster_epoch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_pauses_expiry_on_every_daemon_until_it_is_released() {
    let (database, daemons, callers) = pair().await;
    let [here, there] = &callers;
    let held = hold(here, Some(seconds(600)), "work on the network").await.unwrap();
    assert_eq!(held, Duration::from_secs(600));
    assert_eq!(hold(there, Some(seconds(1)), "shorter").await.unwrap(), Duration::from_secs(1));
    for caller in &callers {
        let hold =
            wait_until("the hold shows", SOON, async || caller.cluster().await?.hold.ok_or("none".to_owned())).await;
        assert_eq!(hold.reason, "work on the network", "one that ends later stays");
        assert!((580..=600).contains(&hold.remaining.unwrap().as_secs()), "{hold:?}");
    }
    let silent = overdue(&database, here, 1).await;
    metric(&daemons, "musterd_expiry_held", 1.0).await;
    assert_eq!(status(here, &silent[0]).await, InstanceStatus::Alive);

    release(there, None).await.unwrap();
    for caller in &callers {
        all_dead(caller, &silent).await;
        wait_until("the hold is over", SOON, async || match caller.cluster().await?.hold {
            None => Ok(()),
            Some(hold) => Err(hold.reason),
        })
        .await;
    }
    metric(&daemons, "musterd_expiry_held", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_without_a_duration_lasts_until_all_could_beat() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    assert_eq!(hold(&caller, None, "").await.unwrap(), Duration::ZERO, "no instance is alive");
    caller.register(alive("organ", Duration::from_secs(60))).await.unwrap();
    assert_eq!(hold(&caller, None, "").await.unwrap(), Duration::from_secs(65));
    let shown =
        wait_until("the hold shows", SOON, async || caller.cluster().await?.hold.ok_or("none".to_owned())).await;
    assert_eq!(shown.reason, "an operator asked for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn mostly_silent_fleet_keeps_its_leases_until_an_operator_releases_expiry() {
    let (database, daemons, callers) = pair().await;
    let [here, there] = &callers;
    let silent = overdue(&database, here, 12).await;
    for caller in &callers {
        // A daemon that looked before all were overdue looks again.
        let brake = wait_until("the brake shows", SOON, async || match caller.cluster().await?.brake {
            Some(brake) if brake.overdue == 12 => Ok(brake),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!((brake.mode, brake.live), (BrakeMode::Protect, 12));
        assert!(brake.since.is_some());
    }
    metric(&daemons, r#"musterd_expiry_brake{mode="protect"}"#, 1.0).await;
    metric(&daemons, r#"musterd_expiry_brake{mode="pace"}"#, 0.0).await;
    for id in &silent {
        assert_eq!(status(there, id).await, InstanceStatus::Alive);
    }
    let one = expire(there, &silent[0], 0).await.unwrap();
    assert!(!one.already_dead);
    assert_eq!(status(there, &silent[0]).await, InstanceStatus::Dead, "one of them can always be ended");

    release(here, Some(seconds(60))).await.unwrap();
    for caller in &callers {
        all_dead(caller, &silent).await;
    }
    metric(&daemons, r#"musterd_expiry_brake{mode="protect"}"#, 0.0).await;
    assert!(here.cluster().await.unwrap().brake.is_none());
    let warned = daemons.iter().filter(|daemon| daemon.log().contains("most instances are silent at once"));
    assert_eq!(warned.count(), 2, "in the log of each");
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_ends_one_instance_despite_a_hold() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let request = alive("organ", Duration::from_secs(300));
    let lease = caller.register(request.clone()).await.unwrap();
    hold(&caller, Some(seconds(600)), "").await.unwrap();
    let id = &lease.instance_id;
    let never = expire(&caller, id, lease.lease_id + 1).await;
    assert_eq!(refusal(never).verdict(), (Code::NotFound, "UNKNOWN_INSTANCE"), "it never had that lease");
    let absent = expire(&caller, &uuid::Uuid::new_v4().to_string(), 0).await;
    assert_eq!(refusal(absent).verdict(), (Code::NotFound, "UNKNOWN_INSTANCE"));

    let ended = expire(&caller, id, lease.lease_id).await.unwrap();
    assert!(!ended.already_dead && ended.revision > lease.revision, "{ended:?}");
    let death = caller.instance(id).await.unwrap().death.unwrap();
    assert_eq!(death.reason, DeathReason::Operator);
    assert!(death.decided_by.starts_with(&daemon.grpc_addr), "{death:?}");
    assert_eq!(caller.beat(lease.lease_id).await.unwrap_err(), "LEASE_EXPIRED");
    let again = expire(&caller, id, 0).await.unwrap();
    assert_eq!((again.already_dead, again.revision), (true, ended.revision));

    let next = caller.register(request).await.unwrap();
    assert!(expire(&caller, id, lease.lease_id).await.unwrap().already_dead, "that lease has ended");
    assert!(caller.beat(next.lease_id).await.is_ok(), "and this one is another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_checked_on_any_daemon_and_refused_as_a_beat_would_be() {
    let (_database, _daemons, callers) = pair().await;
    let [here, there] = &callers;
    let request = alive("organ", Duration::from_secs(300));
    let lease = here.register(request.clone()).await.unwrap();
    let checked = check(there, lease.lease_id, 0).await.unwrap();
    assert_eq!(checked.instance.unwrap().instance_id, lease.instance_id, "by a daemon that may not know it yet");
    assert!(checked.revision >= lease.lease_id);
    let refused = async |lease_id: u64, min_revision: u64| refusal(check(there, lease_id, min_revision).await);
    for unknown in [1, lease.lease_id + 1_000] {
        assert_eq!(refused(unknown, 0).await.verdict(), (Code::NotFound, "UNKNOWN_LEASE"), "{unknown}");
    }
    let ahead = refused(lease.lease_id, 1_000_000).await;
    assert_eq!(ahead.verdict(), (Code::Unavailable, "NOT_YET_SEEN"));

    let ended = expire(here, &lease.instance_id, 0).await.unwrap();
    let dead = refused(lease.lease_id, ended.revision).await;
    assert_eq!(dead.verdict(), (Code::FailedPrecondition, "LEASE_EXPIRED"));
    let next = here.register(request).await.unwrap();
    let replaced = refused(lease.lease_id, next.revision).await;
    assert_eq!(replaced.verdict(), (Code::FailedPrecondition, "LEASE_REPLACED"));
    let epoch = here.rotate("a test").await.unwrap();
    let fenced = refused(next.lease_id, epoch.revision).await;
    assert_eq!(fenced.verdict(), (Code::FailedPrecondition, "EPOCH_FENCED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_alive_at_a_time_are_the_same_over_grpc_and_in_sql() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let client = connect(database.url()).await;
    let now = async || get::<chrono::DateTime<chrono::Utc>>(&client, "SELECT muster_now()").await;
    let mut times = vec![now().await];
    let register = async || caller.register(alive("organ", Duration::from_secs(300))).await.unwrap();
    let (first, _second) = (register().await, register().await);
    times.push(now().await);
    expire(&caller, &first.instance_id, 0).await.unwrap();
    times.push(now().await);
    let epoch = caller.rotate("a test").await.unwrap();
    times.push(now().await);
    let third = register().await;
    times.push(now().await);
    let counts = wait_until("the old epoch is written down", SOON, async || {
        let sql = "SELECT count(*) FROM registry_instance WHERE death_reason = 'old_epoch'";
        if get::<i64>(&client, sql).await == 1 { Ok(()) } else { Err("not yet") }
    });
    counts.await;
    let written: i64 = get(&client, "SELECT revision FROM cluster_metadata").await;
    let mut found = Vec::new();
    for time in times {
        let reader = caller.client();
        reader.require_revision(u64::try_from(written).unwrap().max(epoch.revision));
        let listed: Vec<Instance> = reader.list(Filter::all().alive_at(time.into())).try_collect().await.unwrap();
        let listed: BTreeSet<_> = listed.into_iter().map(|one| one.instance_id.to_string()).collect();
        let sql = format!("SELECT instance_id::text FROM alive_at('{}')", time.to_rfc3339());
        assert_eq!(listed, column::<String>(&client, &sql).await.into_iter().collect(), "{time}");
        found.push(listed.len());
    }
    assert_eq!(found, [0, 2, 1, 0, 1]);
    assert_eq!(status(&caller, &third.instance_id).await, InstanceStatus::Alive);
}

fn assert_invalid(refused: &Refusal, field: &str, help: &str) {
    assert_eq!(refused.verdict(), (Code::InvalidArgument, "INVALID_FIELD"), "{refused:?}");
    let [(named, text)] = &refused.fields[..] else { panic!("{refused:?}") };
    assert!(named == field && text.contains(help), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_with_its_fix_and_changes_nothing() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let whole = [0, -1, 3_601, i64::MAX, i64::MIN].map(seconds);
    let broken = [(0, 999_999_999), (3_600, 1), (1, -1), (-1, i32::MIN), (i64::MAX, i32::MAX)]
        .map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
    for duration in whole.into_iter().chain(broken) {
        assert_invalid(&refusal(hold(&caller, Some(duration), "").await), "duration", "1 s to 1 h");
        assert_invalid(&refusal(release(&caller, Some(duration)).await), "duration", "1 s to 1 h");
    }
    assert_invalid(&refusal(hold(&caller, None, &"x".repeat(1_025)).await), "reason", "1024");
    assert_invalid(&refusal(hold(&caller, None, "a\u{1b}[2J").await), "reason", "U+001B");
    for bad in ["", "organ-1", "00000000-0000-0000-0000-000000000000"] {
        assert_invalid(&refusal(expire(&caller, bad, 0).await), "instance_id", "UUID");
    }
    assert_invalid(&refusal(check(&caller, 0, 0).await), "lease_id", "give the lease");
    let both = v1::ListInstancesRequest {
        alive_at: Some(prost_types::Timestamp::default()),
        statuses: vec![v1::InstanceStatus::Dead.into()],
        ..Default::default()
    };
    assert_invalid(&refusal(caller.wire.discovery.clone().list_instances(both).await), "statuses", "give one of them");
    let client = connect(database.url()).await;
    let untouched = "SELECT coalesce(hold_until, released_until) IS NULL FROM cluster_metadata";
    assert!(get::<bool>(&client, untouched).await);
    for accepted in [1, 3_600] {
        hold(&caller, Some(seconds(accepted)), &"x".repeat(1_024)).await.unwrap();
        release(&caller, Some(seconds(accepted))).await.unwrap();
    }
}
