//! The daemon of the previous release on the schema of this tree: a rolling upgrade migrates the database under it, and it
//! has to serve until it is replaced, beside daemons of this tree.
//!
//! `tests/previous_release.sh` builds that daemon and runs these tests, which `cargo test` alone lists as ignored.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use musterd::{
    migrate,
    proto::v1::{ErrorReason, InstanceStatus, RegisterRequest, RegisterResponse, RotateEpochRequest, WatchRequest},
};
use musterd_client::{Choice, Client as Registry, Register, State};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::harness::{
    daemon::{Daemon, build_at},
    postgres::{TestDatabase, connect},
    registry::{column, get, run},
    wait::wait_until,
    wire::{BeatStream, Watcher, alive, deregister, register, seconds, set_status},
};

/// How long an effect may take on a loaded machine: the longest hold and the expiry after it included.
const BOUND: Duration = Duration::from_secs(90);

/// The newest migration that the previous release may not know.
const NEWER: &str = "INSERT INTO muster_migration
    SELECT max(version) + 1, 'newer', 'c', now(), 'test', 1, 19 FROM muster_migration";

fn previous_release() -> PathBuf {
    let program = std::env::var_os("MUSTERD_PREVIOUS_RELEASE");
    let program =
        program.unwrap_or_else(|| panic!("MUSTERD_PREVIOUS_RELEASE is not set; run tests/previous_release.sh"));
    program.into()
}

/// A daemon of the previous release, which migrates and restores objects as it would on its own schema.
async fn start_previous(url: &str) -> Daemon {
    Daemon::start_build(&previous_release(), &["--database-url", url]).await
}

/// What the migration history and the functions of a database are made of.
async fn schema(client: &Client) -> Vec<String> {
    let mut schema = column(client, "SELECT muster_migration::text FROM muster_migration ORDER BY version").await;
    let functions =
        "SELECT proname || prosrc FROM pg_proc WHERE pronamespace = current_schema::regnamespace ORDER BY 1";
    schema.extend(column::<String>(client, functions).await);
    schema
}

/// Waits until a daemon has compared the schema once more.
async fn compared(daemon: &Daemon) {
    let count = || daemon.log().matches("db.compare_schema").count();
    let before = count();
    wait_until("the schema is compared", BOUND, async || if count() > before { Ok(()) } else { Err(before) }).await;
}

/// The one daemon grants leases, the other renews them, and both see every change.
async fn serve_one_registry(at: &Daemon, other: &Daemon, client: &Client) {
    let (mut here, mut there) = (at.registry().await, other.registry().await);
    let mut watcher = Watcher::open(other, WatchRequest::default()).await.unwrap();
    let lease = register(&mut here, RegisterRequest { ttl: seconds(60), ..alive("shared") }).await;
    watcher.reach(lease.revision).await;
    assert!(watcher.known.contains_key(&lease.instance_id));
    resolved(other, "shared", &lease).await;

    let saved = format!("SELECT last_heartbeat::text FROM registry_instance WHERE lease_id = {}", lease.lease_id);
    for is_stream in [false, true] {
        let mut stream = BeatStream::open(other).await;
        let before: String = get(client, &saved).await;
        wait_until("a beat is saved", BOUND, async || {
            if is_stream {
                assert_eq!(stream.beat(&[lease.lease_id]).await.unwrap().renewed, 1);
            } else {
                let beat = musterd::proto::v1::BeatRequest { lease_id: lease.lease_id, instance_id: String::new() };
                there.beat(beat).await.unwrap();
            }
            let now: String = get(client, &saved).await;
            if now == before { Err(now) } else { Ok(()) }
        })
        .await;
    }
    let drained = set_status(&mut there, lease.lease_id, InstanceStatus::Draining).await;
    watcher.reach(drained).await;
    assert_eq!(watcher.known[&lease.instance_id].status(), InstanceStatus::Draining);
    let ended = deregister(&mut here, lease.lease_id).await;
    watcher.reach(ended).await;
    assert!(!watcher.known.contains_key(&lease.instance_id));
}

/// A name resolves to the instance of a lease at this daemon.
async fn resolved(daemon: &Daemon, name: &str, lease: &RegisterResponse) {
    let client = registry(daemon);
    client.require_revision(lease.revision);
    let resolved = client.resolve(name, &Choice::best()).await.unwrap();
    assert_eq!(resolved.instance.instance_id.to_string(), lease.instance_id);
}

fn registry(daemon: &Daemon) -> Registry {
    Registry::builder().daemons([daemon.grpc_addr.clone()]).timeout(Duration::from_secs(20)).build().unwrap()
}

/// A silent instance that was registered at this daemon expires, and each of the daemons sees its death.
async fn expire_the_silent(at: &Daemon, daemons: &[&Daemon], client: &Client) {
    let lease = register(&mut at.registry().await, RegisterRequest { ttl: seconds(2), ..alive("silent") }).await;
    let reason =
        format!("SELECT coalesce(death_reason, '') FROM registry_instance WHERE lease_id = {}", lease.lease_id);
    wait_until("the silent instance expires", BOUND, async || match get::<String>(client, &reason).await {
        reason if reason == "stale" => Ok(()),
        other => Err(other),
    })
    .await;
    let instance_id: Uuid = lease.instance_id.parse().unwrap();
    for daemon in daemons {
        wait_until("the death is seen", BOUND, async || {
            let instance = registry(daemon).instance(instance_id).await.unwrap().instance;
            if instance.status == musterd_client::Status::Dead { Ok(()) } else { Err(instance.status) }
        })
        .await;
    }
}

/// SQL callers register, beat and end an instance as they always did, and each of the daemons sees it.
async fn serve_sql_callers(daemons: &[&Daemon], client: &Client) {
    let instance_id = Uuid::new_v4();
    let register = format!(
        "SELECT register_instance('{instance_id}', 'by-sql', (SELECT current_epoch FROM cluster_metadata), 'actor', '/r',
             'node', '10.0.0.1', 7)"
    );
    run(client, &register).await;
    run(client, &format!("SELECT set_instance_status('{instance_id}', 'alive'); SELECT beat('{instance_id}')")).await;
    let seen = async |is_live: bool| {
        for daemon in daemons {
            wait_until("the change is seen", BOUND, async || {
                let resolved = registry(daemon).resolve("by-sql", &Choice::best()).await;
                match resolved.map(|resolved| resolved.instance.instance_id) {
                    Ok(id) if is_live && id == instance_id => Ok(()),
                    Err(error) if !is_live && error.reason() == musterd_client::Reason::NoLiveInstance => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    };
    seen(true).await;
    run(client, &format!("SELECT set_instance_status('{instance_id}', 'dead')")).await;
    seen(false).await;
    get::<i32>(client, "SELECT expire_stale_instances()").await;
    get::<i32>(client, "SELECT expire_old_epoch_instances()").await;
}

/// After a rotation at the one daemon, the other fences what is older and takes what is new.
async fn rotate_together(at: &Daemon, other: &Daemon) {
    let lease = register(&mut at.registry().await, alive("older")).await;
    resolved(other, "older", &lease).await;
    let rotated = at
        .cluster()
        .await
        .rotate_epoch(RotateEpochRequest { force: true, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut stream = BeatStream::open(other).await;
    wait_until("the older lease is fenced", BOUND, async || {
        let answer = stream.beat(&[lease.lease_id]).await.unwrap();
        match answer.exceptions.first().map(|exception| exception.reason()) {
            Some(ErrorReason::EpochFenced) if answer.epoch_number == rotated.epoch_number => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let lease = register(&mut other.registry().await, alive("newer")).await;
    resolved(at, "newer", &lease).await;
}

/// All that daemons of two releases do together on one database, and the previous one alone after that: the upgrade may be
/// taken back.
async fn serve_together(previous: &Daemon, present: Daemon, client: &Client) {
    let before = schema(client).await;
    wait_until("each daemon lists both", BOUND, async || {
        let counts = (registry(previous).cluster(0).await, registry(&present).cluster(0).await);
        let (there, here) = (counts.0.unwrap().daemons.len(), counts.1.unwrap().daemons.len());
        if (there, here) == (2, 2) { Ok(()) } else { Err((there, here)) }
    })
    .await;
    serve_one_registry(previous, &present, client).await;
    serve_one_registry(&present, previous, client).await;
    expire_the_silent(previous, &[previous, &present], client).await;
    expire_the_silent(&present, &[previous, &present], client).await;
    serve_sql_callers(&[previous, &present], client).await;
    rotate_together(previous, &present).await;
    rotate_together(&present, previous).await;
    compared(previous).await;
    assert!(present.terminate().await.success());
    expire_the_silent(previous, &[previous], client).await;
    compared(previous).await;
    assert_eq!(schema(client).await, before, "neither daemon migrates or restores anything");
    assert_eq!(previous.http_get("/readyz").await.unwrap().0, 200);
}

/// Migrates an empty database as the previous release does.
fn migrate_with(program: &Path, url: &str) {
    let status = build_at(program).args(["migrate", "up", "--database-url", url]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the daemon of the previous release: tests/previous_release.sh"]
async fn previous_daemon_serves_the_present_schema_beside_a_present_daemon() {
    let database = TestDatabase::create().await;
    migrate::up(database.url(), "test").await.unwrap();
    let client = connect(database.url()).await;
    let (previous, present) = tokio::join!(start_previous(database.url()), Daemon::start(database.url()));
    serve_together(&previous, present, &client).await;
    assert_eq!(migrate::verify(database.url()).await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the daemon of the previous release: tests/previous_release.sh"]
async fn previous_daemon_leaves_a_newer_schema_that_admits_it_alone() {
    let database = TestDatabase::create().await;
    migrate::up(database.url(), "test").await.unwrap();
    let client = connect(database.url()).await;
    // As a later migration may leave it: a table more, and another text of a function that daemons call.
    let changes = "CREATE TABLE muster_newer (lease_id bigint PRIMARY KEY);
        DO $do$ BEGIN
            EXECUTE replace(pg_get_functiondef('beat'::regproc), 'BEGIN', E'BEGIN\\n    -- Newer.');
            EXECUTE replace(pg_get_functiondef('muster_apply'::regproc), 'BEGIN', E'BEGIN\\n    -- Newer.');
        END $do$";
    run(&client, &format!("{changes}; {NEWER}")).await;
    let newer = "SELECT count(*) FROM pg_proc WHERE proname IN ('beat', 'muster_apply') AND prosrc LIKE '%-- Newer.%'";
    assert_eq!(get::<i64>(&client, newer).await, 2);
    let (previous, present) = tokio::join!(start_previous(database.url()), Daemon::start(database.url()));
    assert!(previous.log().contains("schema is newer than this binary"), "{}", previous.log());
    serve_together(&previous, present, &client).await;
    assert_eq!(get::<i64>(&client, newer).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the daemon of the previous release: tests/previous_release.sh"]
async fn upgrade_under_a_running_previous_daemon_ends_no_lease() {
    let database = TestDatabase::create().await;
    migrate_with(&previous_release(), database.url());
    let client = connect(database.url()).await;
    let previous = start_previous(database.url()).await;
    let kept = registry(&previous).register(Register::new("kept").ttl(Duration::from_secs(30))).await.unwrap();
    let lease = kept.lease().unwrap();

    migrate::up(database.url(), "test").await.unwrap();
    run(&client, NEWER).await;
    compared(&previous).await;
    let present = Daemon::start(database.url()).await;
    let before = registry(&present).instance(lease.instance_id).await.unwrap().instance.last_beat;
    wait_until("the lease is renewed after the upgrade", BOUND, async || {
        let now = registry(&present).instance(lease.instance_id).await.unwrap().instance.last_beat;
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;
    assert!(matches!(*kept.states().borrow(), State::Held(now) if now == lease));
    resolved_by_name(&present, "kept", lease.instance_id).await;
    serve_together(&previous, present, &client).await;
}

async fn resolved_by_name(daemon: &Daemon, name: &str, instance_id: Uuid) {
    let resolved = registry(daemon).resolve(name, &Choice::best()).await.unwrap();
    assert_eq!(resolved.instance.instance_id, instance_id);
}
