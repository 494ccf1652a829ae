//! Rows changed by hand in the columns that give an instance its identity: either every daemon shows the change, or
//! PostgreSQL refuses it with the reason and the fix.

use std::time::{Duration, SystemTime};

use musterd_client::{Instance, Status};
use tokio_postgres::Client;

use crate::harness::{
    actor::Caller,
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::{get, id, make_alive, run},
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(10);

struct Scene {
    _daemon: Daemon,
    caller: Caller,
    client: Client,
    _database: TestDatabase,
}

impl Scene {
    async fn set() -> Self {
        let database = TestDatabase::create().await;
        let daemon = Daemon::start(database.url()).await;
        let client = connect(database.url()).await;
        run(&client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
        run(&client, "SELECT muster_hold_expiry('the test', 600000)").await;
        Self { caller: Caller::of(&daemon), _daemon: daemon, client, _database: database }
    }

    async fn alive(&self, instance: u128) {
        make_alive(&self.client, instance, "organ", 100).await;
        self.shows(instance, "it is alive", |instance| instance.status == Status::Alive).await;
    }

    async fn shows(&self, instance: u128, what: &str, expected: impl Fn(&Instance) -> bool) {
        let instance_id = id(instance).to_string();
        wait_until(what, BOUND, async || match self.caller.instance(&instance_id).await {
            Ok(instance) if expected(&instance) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    async fn update(&self, instance: u128, assignment: &str) {
        run(&self.client, &format!("UPDATE registry_instance SET {assignment} WHERE instance_id = '{}'", id(instance)))
            .await;
    }

    /// The refusal: SQLSTATE and hint.
    async fn refused(&self, instance: u128, assignment: &str) -> (String, String) {
        let sql = format!("UPDATE registry_instance SET {assignment} WHERE instance_id = '{}'", id(instance));
        let error = self.client.batch_execute(&sql).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        (error.code().code().to_owned(), error.hint().unwrap_or_default().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_changed_by_hand_shows_on_the_daemon() {
    let scene = Scene::set().await;
    for replica in [false, true] {
        let role = if replica { "replica" } else { "origin" };
        run(&scene.client, &format!("SET session_replication_role = {role}")).await;
        let base = if replica { 30 } else { 10 };
        scene.alive(base).await;
        scene.update(base, &format!("instance_id = '{}'", id(base + 1))).await;
        scene.shows(base + 1, "the new id shows", |_| true).await;
        wait_until("the former id is gone", BOUND, async || match scene.caller.instance(&id(base).to_string()).await {
            Err(reason) if reason == "UNKNOWN_INSTANCE" => Ok(()),
            other => Err(other),
        })
        .await;

        scene.alive(base + 2).await;
        scene.update(base + 2, "cluster_epoch = gen_random_uuid()").await;
        scene.shows(base + 2, "it is dead", |instance| instance.status == Status::Dead).await;

        scene.alive(base + 3).await;
        scene.update(base + 3, "started_at = '2020-01-01 00:00:00+00'").await;
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
        scene.shows(base + 3, "the start shows", |instance| instance.started_at == Some(start)).await;

        scene.alive(base + 4).await;
        scene.update(base + 4, "node_id = 'moved'").await;
        scene.shows(base + 4, "the node shows", |instance| instance.node_id == "moved").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_changed_by_hand_are_refused_with_the_fix() {
    let scene = Scene::set().await;
    for role in ["origin", "replica"] {
        run(&scene.client, &format!("SET session_replication_role = {role}")).await;
        let instance = if role == "origin" { 10 } else { 11 };
        scene.alive(instance).await;
        for assignment in
            ["lease_id = lease_id + 100000", "lease_id = -1", "epoch_number = 0", "epoch_number = 9223372036854775807"]
        {
            let (code, hint) = scene.refused(instance, assignment).await;
            assert_eq!(code, "22023", "{assignment} as {role}");
            assert!(hint.contains("register_instance()"), "{assignment}: {hint}");
        }
    }
    let rows: i64 = get(&scene.client, "SELECT count(*) FROM registry_instance WHERE epoch_number = 2").await;
    assert_eq!(rows, 2);
}
