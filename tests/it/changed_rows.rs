//! The answer of a change has the rows that a reader has to apply next, so that no second query reads them.

use tokio_postgres::Client;

use crate::harness::{
    daemon::Daemon,
    postgres::{BOUND, TestDatabase, connect},
    registry::{Registry, column, get, id, run},
    served::registration,
    wait::wait_until,
};

/// A registry in an epoch that began at revision 1.
async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    registry
}

fn register(instance: u128) -> String {
    format!(r#"{{"op": "register", "instance_id": "{}", "logical_id": "organ", "status": "alive"}}"#, id(instance))
}

fn end(instance: u128) -> String {
    format!(r#"{{"op": "status", "instance_id": "{}", "status": "dead"}}"#, id(instance))
}

/// Applies a group and returns what each row of the answer has: outcome, instance with its revision and status, cluster.
async fn apply(client: &Client, group: &[String], after: &str) -> Vec<String> {
    let group = group.join(",");
    let answer = format!("muster_apply('[{group}]', 'test', p_after => {after}, p_limit => 5)");
    let row = "concat_ws(' ', verdict, 'row ' || (instance_row).revision || ' ' || (instance_row).status,
               'cluster ' || (cluster_row).revision)";
    column(client, &format!("SELECT {row} FROM {answer}")).await
}

#[tokio::test]
async fn answer_of_new_instances_is_what_a_reader_applies_next() {
    let Registry { client, database: _database } = &registry().await;
    assert_eq!(apply(client, &[register(1), register(2)], "NULL").await, ["created", "created"], "no reader");
    let rows = ["created row 4 alive", "created row 5 alive", "cluster 5"];
    assert_eq!(apply(client, &[register(3), register(4)], "3").await, rows);
    // The reader has not applied 4 and 5 yet.
    let rows = ["created", "row 4 alive", "row 5 alive", "row 6 alive", "cluster 6"];
    assert_eq!(apply(client, &[register(5)], "3").await, rows);
}

#[tokio::test]
async fn answer_of_any_group_has_the_rows_as_they_are_after_it() {
    let Registry { client, database: _database } = &registry().await;
    let rows = ["created", "created", "set", "unknown", "row 3 alive", "row 4 dead", "cluster 4"];
    assert_eq!(apply(client, &[register(1), register(2), end(1), end(9)], "1").await, rows);
    assert_eq!(apply(client, &[register(2)], "4").await, ["renewed", "cluster 4"], "nothing changed");
    let rows = ["created", "set", "row 3 alive", "row 4 dead", "row 6 dead", "cluster 6"];
    assert_eq!(apply(client, &[register(3), end(3)], "2").await, rows);
}

#[tokio::test]
async fn answer_without_all_rows_has_no_cluster_row() {
    let Registry { client, database: _database } = &registry().await;
    let group: Vec<_> = (1..=4).map(register).collect();
    apply(client, &group, "NULL").await;
    let answer = apply(client, &[register(5)], "1").await;
    assert_eq!(answer.len(), 6, "{answer:?}");
    assert!(!answer.iter().any(|row| row.contains("cluster")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_daemon_are_read_without_a_query_for_each() {
    const CHANGES: i64 = 200;
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = connect(database.url()).await;
    let read = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes WHERE indexrelname = 'idx_instance_revision'";
    let mut registry = daemon.registry().await;
    for instance in 1..=CHANGES {
        let request = registration(u128::try_from(instance).unwrap(), "organ");
        registry.register(request).await.unwrap();
    }
    assert!(daemon.terminate().await.success());
    // A session is counted when it has ended.
    let inserted =
        "SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables WHERE relname = 'registry_instance'";
    let queries = wait_until("the sessions are counted", BOUND, async || {
        let sessions: i64 =
            get(&client, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'").await;
        match (sessions, get::<i64>(&client, inserted).await) {
            (0, CHANGES) => Ok(get::<i64>(&client, read).await),
            counted => Err(format!("{counted:?}")),
        }
    })
    .await;
    assert!(queries < CHANGES / 2, "{queries} queries for {CHANGES} changes");
}
