//! What the SQL functions answer, to daemons (`muster_apply`, `muster_rotate_epoch`) and to direct SQL callers.

use musterd::model::input;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use uuid::Uuid;

use crate::harness::{
    postgres::BOUND,
    registry::{Registry, column, field, get, id, make_alive, refusal, register, run, silence},
};

/// The newest schema, in epoch 100, which began at revision 1.
async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    registry
}

/// Applies a group and returns, for each operation: verdict, changed, lease, revision, status, as far as they are known.
async fn apply(client: &Client, operations: Value) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', verdict, changed, lease_id, revision, status) FROM muster_apply('{operations}', 'the test')"
    );
    column(client, &sql).await
}

/// A registration by the process with the same number.
fn registration(instance: u128) -> Value {
    json!({"op": "register", "instance_id": id(instance), "logical_id": "organ", "node_id": "node", "pid": instance})
}

fn status(instance: u128, status: &str) -> Value {
    json!({"op": "status", "instance_id": id(instance), "status": status})
}

fn with(mut operation: Value, field: &str, value: impl Into<Value>) -> Value {
    operation[field] = value.into();
    operation
}

async fn revision(client: &Client) -> i64 {
    get(client, "SELECT revision FROM cluster_metadata").await
}

#[tokio::test]
async fn a_group_is_applied_in_order_and_a_refusal_undoes_nothing() {
    let Registry { client, database: _database } = &registry().await;
    let group = json!([
        registration(1),
        with(registration(2), "status", "alive"),
        status(1, "alive"),
        status(9, "alive"),
        with(registration(3), "cluster_epoch", id(99).to_string()),
        status(2, "draining"),
    ]);
    let outcomes = [
        "created t 2 2 starting",
        "created t 3 3 alive",
        "set t 2 4 alive",
        "unknown f",
        "epoch_fenced f",
        "set t 3 5 draining",
    ];
    assert_eq!(apply(client, group).await, outcomes);
    assert_eq!(revision(client).await, 5);
    let feed =
        column::<Uuid>(client, "SELECT instance_id FROM registry_instance WHERE revision > 1 ORDER BY revision").await;
    assert_eq!(feed, [id(1), id(2)]);
    assert_eq!(apply(client, json!([])).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_group_that_cannot_be_read_changes_nothing() {
    let Registry { client, database: _database } = &registry().await;
    let poisons = [
        (json!({"op": "dance", "instance_id": id(2)}), "20000"),
        (with(registration(2), "port", 70_000), "23514"),
        (with(registration(2), "ttl_ms", 1_999), "23514"),
        (with(registration(2), "labels", "no object"), "23514"),
        (with(registration(2), "ip_address", "nowhere"), "22P02"),
    ];
    for (poison, code) in poisons {
        let group = json!([registration(1), poison]);
        assert_eq!(refusal(client, &format!("SELECT muster_apply('{group}', 'the test')")).await, code, "{poison}");
    }
    assert_eq!(get::<i64>(client, "SELECT count(*) FROM registry_instance").await, 0);
    assert_eq!(revision(client).await, 1);
}

#[tokio::test]
async fn a_repeated_registration_keeps_its_lease() {
    let Registry { client, database: _database } = &registry().await;
    assert_eq!(apply(client, json!([registration(1)])).await, ["created t 2 2 starting"]);
    assert_eq!(apply(client, json!([registration(1)])).await, ["renewed f 2 2 starting"], "a retry uses no revision");
    let starting = json!([with(registration(1), "status", "starting")]);
    assert_eq!(apply(client, starting.clone()).await, ["renewed f 2 2 starting"]);
    assert_eq!(apply(client, json!([with(registration(1), "status", "alive")])).await, ["renewed t 2 3 alive"]);
    assert_eq!(apply(client, starting).await, ["renewed f 2 3 alive"], "never back to starting");
    assert_eq!(apply(client, json!([registration(1)])).await, ["renewed f 2 3 alive"]);
    let changed = with(with(registration(1), "serve_route", "/new"), "labels", json!({"zone": "a"}));
    assert_eq!(apply(client, json!([changed])).await, ["renewed t 2 4 alive"]);
    assert_eq!(field(client, 1, "labels->>'zone'").await, "a");
}

#[tokio::test]
async fn an_instance_id_is_taken_while_its_owner_lives() {
    let Registry { client, database: _database } = &registry().await;
    apply(client, json!([registration(1)])).await;
    for other in
        [("pid", json!(77)), ("node_id", json!("elsewhere")), ("logical_id", json!("another")), ("pid", Value::Null)]
    {
        assert_eq!(
            apply(client, json!([with(registration(1), other.0, other.1.clone())])).await,
            ["taken f 2 2 starting"],
            "{other:?}"
        );
    }
    apply(client, json!([status(1, "dead")])).await;
    assert_eq!(apply(client, json!([with(registration(1), "pid", 77)])).await, ["replaced t 4 4 starting"]);
    assert_eq!(field(client, 1, "replaces_lease_id").await, "2");
}

#[tokio::test]
async fn an_owner_without_node_or_pid_is_known_by_its_address() {
    let Registry { client, database: _database } = &registry().await;
    let bare =
        json!({"op": "register", "instance_id": id(1), "logical_id": "organ", "ip_address": "10.0.0.1", "port": 80});
    assert_eq!(apply(client, json!([bare, bare])).await, ["created t 2 2 starting", "renewed f 2 2 starting"]);
    for other in [with(bare.clone(), "port", 81), with(bare.clone(), "ip_address", "10.0.0.2")] {
        assert_eq!(apply(client, json!([other])).await, ["taken f 2 2 starting"]);
    }
}

#[tokio::test]
async fn every_change_of_status_is_allowed_or_refused_as_documented() {
    let all = ["starting", "alive", "draining", "dead"];
    let table = [
        ("starting", ["set f", "set t", "invalid_transition f", "set t"]),
        ("alive", ["invalid_transition f", "set f", "set t", "set t"]),
        ("draining", ["invalid_transition f", "set t", "set f", "set t"]),
        ("dead", ["expired f", "expired f", "expired f", "set f"]),
    ];
    let Registry { client, database: _database } = &registry().await;
    let mut instance = 0;
    for (from, verdicts) in table {
        for (to, verdict) in all.into_iter().zip(verdicts) {
            instance += 1;
            let mut group = vec![registration(instance)];
            match from {
                "starting" => {}
                "draining" => group.extend([status(instance, "alive"), status(instance, "draining")]),
                _ => group.push(status(instance, from)),
            }
            group.push(status(instance, to));
            let outcome = apply(client, Value::from(group)).await.pop().unwrap();
            assert!(outcome.starts_with(verdict), "{from} to {to}: {outcome}");
            let expected = if verdict == "set t" { to } else { from };
            assert_eq!(field(client, instance, "status").await, expected, "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn a_lease_that_was_replaced_cannot_touch_its_successor() {
    let Registry { client, database: _database } = &registry().await;
    apply(client, json!([registration(1), status(1, "dead"), with(registration(1), "status", "alive")])).await;
    let by_lease = |lease: i64, to: &str| json!([with(status(1, to), "lease_id", lease)]);
    assert_eq!(apply(client, by_lease(2, "draining")).await, ["lease_replaced f 2 4 dead"]);
    assert_eq!(apply(client, by_lease(2, "dead")).await, ["set f 2 4 dead"], "ended already, so no error");
    assert_eq!(field(client, 1, "status").await, "alive");
    assert_eq!(apply(client, by_lease(5, "dead")).await, ["unknown f 5"], "never issued");
    assert_eq!(apply(client, by_lease(4, "dead")).await, ["set t 4 5 dead"]);
    let death = field(client, 1, "concat_ws(' ', death_reason, death_decided_by, stopped_at IS NOT NULL)").await;
    assert_eq!(death, "deregistered the test t");
}

#[tokio::test]
async fn instance_of_an_old_epoch_can_only_die_or_register_again() {
    let Registry { client, database: _database } = &registry().await;
    apply(client, json!([with(registration(1), "status", "alive"), with(registration(2), "status", "alive")])).await;
    run(client, &format!("SELECT set_current_epoch('{}')", id(101))).await;
    let group = json!([status(1, "draining"), status(1, "alive"), status(1, "dead"), registration(2)]);
    let outcomes =
        ["epoch_fenced f 2 2 alive", "epoch_fenced f 2 2 alive", "set t 2 5 dead", "replaced t 6 6 starting"];
    assert_eq!(apply(client, group).await, outcomes);
    assert_eq!(field(client, 1, "death_reason").await, "old_epoch");
}

#[tokio::test]
async fn a_rotation_compares_and_sets_and_may_be_repeated() {
    let Registry { client, database: _database } = &registry().await;
    let rotate = async |new: u128, expected: Option<u128>| -> String {
        let expected = expected.map_or("NULL".to_owned(), |epoch| format!("'{}'", id(epoch)));
        let sql = format!(
            "SELECT concat_ws(' ', verdict, right(cluster_epoch::text, 2), epoch_number, revision, right(previous_epoch::text, 2))
             FROM muster_rotate_epoch('{}', {expected}, 'a reason', 'the test')",
            id(new)
        );
        get(client, &sql).await
    };
    // 64, 65 and 66 are 100, 101 and 102 in hexadecimal.
    assert_eq!(rotate(101, Some(100)).await, "rotated 65 2 2 64");
    assert_eq!(rotate(101, Some(100)).await, "unchanged 65 2 2", "repeated");
    assert_eq!(rotate(102, Some(100)).await, "epoch_mismatch 65 2 2", "another session was first");
    assert_eq!(rotate(100, None).await, "epoch_reused 65 2 2");
    assert_eq!(rotate(102, None).await, "rotated 66 3 3 65");
    let history =
        "SELECT concat_ws(' ', epoch_number, started_revision, reason, rotated_by) FROM registry_epoch ORDER BY 1";
    assert_eq!(
        column::<String>(client, history).await,
        ["1 1 set_current_epoch sql/musterd", "2 2 a reason the test", "3 3 a reason the test"]
    );
    assert_eq!(refusal(client, "SELECT muster_rotate_epoch(NULL, NULL, '', '')").await, "22023");
}

#[tokio::test]
async fn sql_callers_receive_an_error_that_names_the_cause() {
    let registry = Registry::head().await;
    let client = &registry.client;
    assert_eq!(refusal(client, &register(1, "organ", 100)).await, "MU001", "no epoch yet");
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(client, 1, "organ", 100).await;
    let set = |to: &str| format!("SELECT set_instance_status('{}', '{to}')", id(1));
    assert_eq!(refusal(client, &set("starting")).await, "MU006");
    assert_eq!(refusal(client, &set("alive")).await, "", "what it is already");
    assert_eq!(refusal(client, &set("sleeping")).await, "22P02");
    assert_eq!(refusal(client, "SELECT set_instance_status(NULL, 'alive')").await, "22023");
    assert_eq!(refusal(client, "SELECT expire_stale_instances(-1)").await, "22023");
    assert_eq!(refusal(client, "SELECT set_current_epoch(NULL)").await, "22023");
    let good = register(2, "organ", 100);
    for (part, bad) in [
        ("'organ'", "''".to_owned()),
        ("'organ'", "NULL".to_owned()),
        ("'organ'", format!("'{}'", "x".repeat(254))),
        ("'organ'", "E'or\\ngan'".to_owned()),
        ("'organ'", "U&'or\\0085gan'".to_owned()),
        ("'/route'", format!("'{}'", "x".repeat(1025))),
        ("'node'", "E'\\t'".to_owned()),
        ("'10.0.0.1', 2", "'10.0.0.1', -2".to_owned()),
    ] {
        assert_eq!(refusal(client, &good.replace(part, &bad)).await, "22023", "{bad}");
    }
    assert_eq!(refusal(client, &good.replace("'organ'", &format!("'{}'", "x".repeat(253)))).await, "");
    assert_eq!(refusal(client, &register(3, "\u{f6}rgan \u{1f980}", 100)).await, "", "any script is welcome");
}

#[tokio::test]
async fn rows_written_by_hand_go_through_the_revision() {
    let Registry { client, database: _database } = &registry().await;
    let insert = format!(
        "INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, status)
         VALUES ('{}', 'organ', '{e}', 'alive'), ('{}', 'organ', '{e}', 'alive'), ('{}', 'organ', '{e}', 'alive')",
        id(1),
        id(2),
        id(3),
        e = id(100)
    );
    run(client, &insert).await;
    let rows = "SELECT concat_ws(' ', lease_id, revision, epoch_number) FROM registry_instance ORDER BY instance_id";
    assert_eq!(column::<String>(client, rows).await, ["2 2 1", "3 3 1", "4 4 1"]);
    run(client, "UPDATE registry_instance SET status = 'draining' WHERE lease_id > 2").await;
    assert_eq!(column::<String>(client, rows).await, ["2 2 1", "3 5 1", "4 6 1"]);
    assert_eq!(revision(client).await, 6);

    run(client, "UPDATE registry_instance SET status = 'dead' WHERE lease_id = 4").await;
    let death = field(client, 3, "concat_ws(' ', death_reason, death_decided_by, stopped_at IS NOT NULL)").await;
    assert_eq!(death, "operator sql/musterd t");
    assert_eq!(refusal(client, "UPDATE registry_instance SET status = 'alive' WHERE lease_id = 4").await, "MU005");
    run(client, "UPDATE registry_instance SET last_heartbeat = now()").await;
    assert_eq!(revision(client).await, 7, "a beat is no change of membership");
}

#[tokio::test]
async fn deleted_rows_make_readers_reload() {
    let Registry { client, database: _database } = &registry().await;
    apply(client, json!([registration(1), registration(2), registration(3), status(3, "dead")])).await;
    let history = "SELECT history_id FROM cluster_metadata";
    let purged = "SELECT purged_revision FROM cluster_metadata";
    let first = get::<Uuid>(client, history).await;
    run(client, "DELETE FROM registry_instance WHERE logical_id = 'absent'").await;
    run(client, "DELETE FROM registry_instance WHERE status = 'dead'").await;
    assert_eq!(get::<Uuid>(client, history).await, first, "a tombstone, and nothing");
    assert_eq!(get::<i64>(client, purged).await, 5, "a reader that has not seen the death by now never can");
    run(client, "DELETE FROM registry_instance WHERE lease_id = 2").await;
    let second = get::<Uuid>(client, history).await;
    assert_ne!(second, first, "a live row leaves no tombstone");
    assert_eq!(get::<i64>(client, purged).await, 5);
    run(client, "TRUNCATE registry_instance").await;
    assert_ne!(get::<Uuid>(client, history).await, second);
}

#[tokio::test]
async fn an_epoch_written_by_hand_is_a_rotation() {
    let Registry { client, database: _database } = &registry().await;
    make_alive(client, 1, "organ", 100).await;
    run(client, &format!("UPDATE cluster_metadata SET current_epoch = '{}'", id(101))).await;
    let row: String = get(client, "SELECT concat_ws(' ', epoch_number, revision) FROM cluster_metadata").await;
    assert_eq!(row, "2 4");
    let back = format!("UPDATE cluster_metadata SET current_epoch = '{}'", id(100));
    assert_eq!(refusal(client, &back).await, "MU008");
    make_alive(client, 2, "organ", 101).await;
    assert_eq!(get::<i32>(client, "SELECT expire_old_epoch_instances()").await, 1);
    assert_eq!(column::<Uuid>(client, "SELECT instance_id FROM active_instances").await, [id(2)]);

    // The row lost and written again: numbers and revisions continue.
    run(client, "DELETE FROM cluster_metadata").await;
    run(client, &format!("INSERT INTO cluster_metadata (current_epoch) VALUES ('{}')", id(102))).await;
    let row: String = get(client, "SELECT concat_ws(' ', epoch_number, revision) FROM cluster_metadata").await;
    assert_eq!(row, "3 8", "after two registrations, two changes of status, one death and two epochs");
}

#[tokio::test]
async fn the_best_instance_is_not_overdue_then_longest_serving() {
    let Registry { client, database: _database } = &registry().await;
    for instance in 1..=4 {
        make_alive(client, instance, "organ", 100).await;
    }
    let best = async || get::<Uuid>(client, "SELECT instance_id FROM active_instance WHERE logical_id = 'organ'").await;
    assert_eq!(best().await, id(1));
    silence(client, 1, 20).await;
    assert_eq!(best().await, id(2), "1 is overdue");
    run(client, &format!("SELECT set_instance_status('{}', 'draining')", id(2))).await;
    assert_eq!(best().await, id(3), "2 is draining");
    for overdue in [3, 4] {
        silence(client, overdue, 20).await;
    }
    assert_eq!(best().await, id(1), "all are overdue");
    run(client, &register(9, "another", 100)).await;
    assert_eq!(get::<i64>(client, "SELECT count(*) FROM active_instance").await, 1, "starting is not alive");
}

#[tokio::test]
async fn each_change_sends_one_notification_with_its_revision() {
    let registry = registry().await;
    let (listener, mut connection) = tokio_postgres::connect(registry.database.url(), NoTls).await.unwrap();
    let (sender, mut rings) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move {
        while let Some(Ok(message)) = futures_util::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(ring) = message {
                sender.send(ring.payload().to_owned()).await.unwrap();
            }
        }
    });
    run(&listener, "LISTEN muster").await;
    let client = &registry.client;
    apply(client, json!([registration(1), registration(2), status(1, "alive"), status(9, "alive")])).await;
    run(
        client,
        &format!("SELECT beat('{}'); SELECT saved FROM muster_flush_beats('{}', '{{2,3}}', '{{0,0}}')", id(1), id(1)),
    )
    .await;
    apply(client, json!([registration(1)])).await;
    run(client, &format!("SELECT set_current_epoch('{}')", id(101))).await;
    run(client, "SELECT expire_old_epoch_instances()").await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(timeout(BOUND, rings.recv()).await.unwrap().unwrap());
    }
    assert_eq!(heard, ["4", "5", "7"], "a group, a rotation, two deaths; nothing for beats and retries");
}

#[tokio::test]
async fn characters_refused_in_names_are_the_same_in_sql_and_in_the_daemon() {
    let Registry { client, database: _database } = &registry().await;
    let sql = "SELECT n FROM generate_series(1, 1114111) AS n
               WHERE n NOT BETWEEN 55296 AND 57343 AND muster_hidden_character(chr(n)) IS NOT NULL ORDER BY n";
    let in_sql = column::<i32>(client, sql).await;
    let here: Vec<i32> = (1..=0x0010_ffff_u32)
        .filter(|number| char::from_u32(*number).is_some_and(|character| input::hidden(character).is_some()))
        .map(|number| i32::try_from(number).unwrap())
        .collect();
    let differing = in_sql
        .iter()
        .filter(|n| here.binary_search(n).is_err())
        .chain(here.iter().filter(|n| in_sql.binary_search(n).is_err()));
    assert_eq!(differing.collect::<Vec<_>>(), Vec::<&i32>::new());
    assert!(here.len() > 900_000, "{}", here.len());
    for name in ["organ\u{200b}", "organ\u{202e}", "organ\u{feff}"] {
        assert_eq!(refusal(client, &register(7, name, 100)).await, "22023", "{name:?}");
    }
}
