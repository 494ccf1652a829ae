//! The record of decisions under the roles of `deploy/roles.sql`: read by daemons and readers, written by functions alone.

use super::roles::{NOT_ALLOWED, url_for, with_roles};
use crate::harness::{
    postgres::connect,
    registry::{get, refusal, run},
};

#[tokio::test]
async fn decisions_are_written_by_functions_alone_and_read_by_daemon_and_reader() {
    let registry = with_roles().await;
    run(&registry.client, "SELECT muster_ensure_epoch('test'); SELECT set_current_epoch(gen_random_uuid())").await;
    let rows = "SELECT count(*) FROM registry_audit WHERE action = 'rotate'";
    for role in ["musterd_daemon", "musterd_reader"] {
        let client = connect(&url_for(&registry.database, role)).await;
        run(&client, "SET default_transaction_read_only = off").await;
        for statement in [
            "INSERT INTO registry_audit (at, action, by_role, by, object, detail) VALUES (now(), 'rotate', 'x', 'x', '', '{}')",
            "UPDATE registry_audit SET by = 'another'",
            "DELETE FROM registry_audit",
            "TRUNCATE registry_audit",
            "SELECT muster_audit('rotate', 'token/another', 'epoch 9', NULL, NULL)",
            "SELECT muster_audit_counted('denied', 'token/another', '', '{}', 1, 60000)",
        ] {
            assert_eq!(refusal(&client, statement).await, NOT_ALLOWED, "{role}: {statement}");
        }
        assert_eq!(get::<i64>(&client, rows).await, 1, "{role}");
    }
    let client = connect(&url_for(&registry.database, "musterd_daemon")).await;
    run(&client, r#"SELECT muster_audit_note('[{"action": "denied", "by": "token/a", "object": "m", "count": 3}]')"#)
        .await;
    let noted = "SELECT by_role || ' ' || (detail ->> 'count') FROM registry_audit WHERE action = 'denied'";
    assert_eq!(get::<String>(&client, noted).await, "musterd_daemon 3");
}
