//! Who owns an instance, as PostgreSQL decides it: for daemons that name the identity of their caller, for daemons without a
//! policy, and for SQL callers.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::harness::{
    registry::{Registry, SQL_CALLER, column, field, get, id, make_alive, refusal, register, run},
    served::{Served, registration},
};

async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    registry
}

/// The outcome of one operation of a daemon.
async fn apply(client: &Client, operation: &Value) -> String {
    let sql = format!("SELECT concat_ws(' ', verdict, changed) FROM muster_apply('[{operation}]', 'the daemon')");
    get(client, &sql).await
}

/// A registration of instance 1 for an identity; without one if it is empty.
fn by(identity: &str) -> Value {
    let mut operation = json!({
        "op": "register", "instance_id": id(1), "logical_id": "organ", "status": "alive", "node_id": "node", "pid": 1,
        "ip_address": "10.0.0.1", "port": 8_000,
    });
    if !identity.is_empty() {
        operation["identity"] = identity.into();
    }
    operation
}

fn with(mut operation: Value, field: &str, value: impl Into<Value>) -> Value {
    operation[field] = value.into();
    operation
}

fn status(identity: &str, status: &str) -> Value {
    let operation = json!({"op": "status", "instance_id": id(1), "status": status});
    if identity.is_empty() { operation } else { with(operation, "identity", identity) }
}

#[tokio::test]
async fn agreement_of_owners_follows_its_table() {
    let registry = Registry::head().await;
    for (owner, identity, agrees) in [
        ("'token/a'", "'token/a'", "true"),
        ("'token/a'", "'token/b'", "false"),
        ("'token/a'", "'sql/app'", "false"),
        ("'sql/app'", "'token/a'", "false"),
        ("'sql/app'", "'sql/app'", ""),
        ("'sql/app'", "'sql/other'", ""),
        ("NULL", "'token/a'", ""),
        ("'token/a'", "NULL", ""),
        ("NULL", "NULL", ""),
    ] {
        let sql = format!("SELECT coalesce(muster_owner_agrees({owner}, {identity})::text, '')");
        assert_eq!(get::<String>(&registry.client, &sql).await, agrees, "{owner} {identity}");
    }
}

#[tokio::test]
async fn live_instance_of_another_identity_is_taken() {
    let Registry { client, database: _database } = &registry().await;
    assert_eq!(apply(client, &by("token/a")).await, "created t");
    assert_eq!(field(client, 1, "owner").await, "token/a");
    for stranger in [by("token/b"), with(by("token/b"), "ip_address", "10.6.6.6"), by("spiffe://a/b")] {
        assert_eq!(apply(client, &stranger).await, "taken f", "{stranger}");
    }
    assert_eq!(refusal(client, &register(1, "organ", 100)).await, "MU003", "an SQL caller is another one too");
    assert_eq!(field(client, 1, "concat_ws(' ', owner, host(ip_address))").await, "token/a 10.0.0.1");
    assert_eq!(apply(client, &by("token/a")).await, "renewed f", "the owner repeats its call");
    assert_eq!(apply(client, &with(by("token/a"), "pid", 2)).await, "taken f", "another process of the owner");
}

#[tokio::test]
async fn owner_moves_its_live_instance_to_another_address() {
    let Registry { client, database: _database } = &registry().await;
    let unknown_process = with(by("token/a"), "pid", Value::Null);
    apply(client, &unknown_process).await;
    let moved = with(with(unknown_process, "ip_address", "10.0.0.2"), "port", 9_000);
    assert_eq!(apply(client, &moved).await, "renewed t");
    assert_eq!(field(client, 1, "concat_ws(' ', owner, host(ip_address), port)").await, "token/a 10.0.0.2 9000");
}

#[tokio::test]
async fn instance_without_owner_is_claimed_by_the_first_identity() {
    let Registry { client, database: _database } = &registry().await;
    assert_eq!(apply(client, &by("")).await, "created t");
    assert_eq!(field(client, 1, "owner").await, "");
    assert_eq!(
        apply(client, &with(by("token/b"), "ip_address", "10.6.6.6")).await,
        "taken f",
        "not at another address"
    );
    assert_eq!(apply(client, &by("token/a")).await, "renewed t", "a revision, so that daemons hear of it");
    assert_eq!(apply(client, &by("token/b")).await, "taken f");
    assert_eq!(apply(client, &by("")).await, "renewed f", "a daemon without a policy compares nothing");
    assert_eq!(field(client, 1, "owner").await, "token/a", "and takes nothing away");
}

#[tokio::test]
async fn caller_without_a_credential_owns_nothing_and_takes_nothing() {
    let Registry { client, database: _database } = &registry().await;
    assert_eq!(apply(client, &by("anonymous")).await, "created t");
    assert_eq!(field(client, 1, "owner").await, "");
    assert_eq!(apply(client, &by("anonymous")).await, "renewed f");
    assert_eq!(apply(client, &with(by("anonymous"), "ip_address", "10.6.6.6")).await, "taken f", "it cannot move it");
    assert_eq!(apply(client, &status("anonymous", "dead")).await, "unknown f", "but for what the daemon allows");
    assert_eq!(apply(client, &by("token/a")).await, "renewed t");
    assert_eq!(apply(client, &by("anonymous")).await, "taken f");
}

#[tokio::test]
async fn dead_instance_gets_the_owner_of_its_next_registration() {
    let Registry { client, database: _database } = &registry().await;
    apply(client, &by("token/a")).await;
    apply(client, &status("token/a", "dead")).await;
    assert_eq!(apply(client, &by("token/b")).await, "replaced t");
    assert_eq!(field(client, 1, "owner").await, "token/b");
    assert_eq!(apply(client, &status("token/b", "dead")).await, "set t");
    assert_eq!(apply(client, &by("")).await, "replaced t");
    assert_eq!(field(client, 1, "owner").await, "", "nor does it inherit one");
}

#[tokio::test]
async fn status_of_another_owner_is_unknown_but_for_an_operator() {
    let Registry { client, database: _database } = &registry().await;
    apply(client, &by("token/a")).await;
    for change in ["draining", "dead", "alive"] {
        assert_eq!(apply(client, &status("token/b", change)).await, "unknown f", "{change}");
    }
    assert_eq!(apply(client, &status("token/a", "draining")).await, "set t");
    assert_eq!(apply(client, &with(status("token/b", "alive"), "as_operator", true)).await, "set t");
    assert_eq!(apply(client, &status("", "draining")).await, "set t", "a daemon without a policy compares nothing");
    assert_eq!(apply(client, &with(status("token/b", "dead"), "as_operator", true)).await, "set t");
    assert_eq!(field(client, 1, "death_decided_by").await, "the daemon for token/b");
    assert_eq!(field(client, 1, "owner").await, "token/a");
}

#[tokio::test]
async fn status_of_an_instance_without_owner_is_unknown_to_an_identity() {
    let Registry { client, database: _database } = &registry().await;
    apply(client, &by("")).await;
    assert_eq!(apply(client, &status("token/b", "draining")).await, "unknown f");
    assert_eq!(apply(client, &status("", "dead")).await, "set t");
    assert_eq!(field(client, 1, "death_decided_by").await, "the daemon");
}

#[tokio::test]
async fn sql_caller_owns_what_it_registers_and_works_as_before() {
    let Registry { client, database } = &registry().await;
    make_alive(client, 1, "organ", 100).await;
    assert_eq!(field(client, 1, "owner").await, SQL_CALLER);
    run(client, &format!("SELECT beat('{}')", id(1))).await;
    assert_eq!(apply(client, &by("token/b")).await, "taken f");
    assert_eq!(apply(client, &status("token/b", "dead")).await, "unknown f");
    // Another role, with the right to call the functions: PostgreSQL's grants decide, and they let it.
    run(
        client,
        "DO $$ BEGIN CREATE ROLE owners_other LOGIN SUPERUSER; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )
    .await;
    let other = crate::harness::postgres::connect(&database.url().replacen("musterd@", "owners_other@", 1)).await;
    assert_eq!(get::<String>(&other, "SELECT session_user::text").await, "owners_other");
    run(&other, &register(1, "organ", 100).replace("10.0.0.1", "10.0.0.2")).await;
    assert_eq!(field(client, 1, "concat_ws(' ', owner, host(ip_address))").await, "sql/owners_other 10.0.0.2");
    // No role that is set within a session hides the one that opened it.
    run(client, "SET ROLE owners_other").await;
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(1))).await;
    assert_eq!(field(client, 1, "death_decided_by").await, SQL_CALLER);
}

#[tokio::test]
async fn row_written_by_hand_is_owned_by_the_role_that_wrote_it() {
    let Registry { client, database: _database } = &registry().await;
    let insert = |instance, owner| {
        format!(
            "INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, status, owner)
             VALUES ('{}', 'organ', '{}', 'alive', {owner})",
            id(instance),
            id(100)
        )
    };
    run(client, &insert(1, "NULL")).await;
    run(client, &insert(2, "'token/a'")).await;
    let owners = "SELECT owner FROM registry_instance ORDER BY instance_id";
    assert_eq!(column::<String>(client, owners).await, [SQL_CALLER, "token/a"]);
    let before: i64 = get(client, "SELECT revision FROM cluster_metadata").await;
    run(client, "UPDATE registry_instance SET owner = 'token/b'").await;
    let after: i64 = get(client, "SELECT revision FROM cluster_metadata").await;
    assert_eq!(after, before + 2, "daemons hear of a changed owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_is_shown_in_every_answer_and_open_daemon_writes_none() {
    let served = Served::start().await;
    let epoch: String = get(&served.sql.client, "SELECT current_epoch::text FROM cluster_metadata").await;
    make_alive(&served.sql.client, 1, "organ", epoch.parse::<uuid::Uuid>().unwrap().as_u128()).await;
    served.clients.register(registration(2, "organ")).await;
    let everything = served.clients.everything_at(served.revision().await).await;
    assert_eq!(everything.iter().map(|one| one.owner.as_str()).collect::<Vec<_>>(), [SQL_CALLER, ""]);
    assert_eq!(served.clients.instance(1).await.owner, SQL_CALLER);
    // An open daemon compares nothing: it may beat, drain and end the instance of an SQL caller.
    served.clients.beat(1).await;
    served.clients.set_status(1, musterd::model::InstanceStatus::Draining).await;
    assert!(!served.clients.deregister(1).await.already_dead);
    let death = served.clients.instance(1).await.death.unwrap();
    assert!(!death.decided_by.contains(" for "), "no identity asked: {}", death.decided_by);
}
