//! How PostgreSQL finds the rows: by their ids, however new the table is.
//!
//! A table that was never analysed looks tiny to the planner, and a plan that reads all of it looks cheap; it is kept
//! while a fleet registers by the thousand. What was read is what PostgreSQL has counted.

use crate::harness::{
    postgres::BOUND,
    registry::{Registry, get, id, run},
    wait::wait_until,
};

const GROUPS: usize = 40;
const GROUP: usize = 50;
const ROWS: usize = GROUPS * GROUP;

/// What PostgreSQL has counted of the instances: scans of all of them, and rows that were found through an index.
async fn counted(registry: &Registry) -> (i64, i64) {
    let client = registry.connect().await;
    let sql = |column: &str| {
        format!("SELECT coalesce({column}, 0) FROM pg_stat_user_tables WHERE relname = 'registry_instance'")
    };
    (get(&client, &sql("seq_scan")).await, get(&client, &sql("idx_tup_fetch")).await)
}

/// Runs statements in a session of their own; what it has done is counted once it has ended.
async fn in_a_session(registry: &Registry, counter: &str, at_least: usize, statements: &[String]) {
    let client = registry.connect().await;
    // One after the other, so that the functions settle on their plans, as in the session of a daemon.
    for statement in statements {
        run(&client, statement).await;
    }
    drop(client);
    let sql = format!("SELECT {counter} FROM pg_stat_user_tables WHERE relname = 'registry_instance'");
    wait_until("what was done is counted", BOUND, async || {
        let counted: i64 = get(&registry.connect().await, &sql).await;
        if usize::try_from(counted).unwrap() >= at_least { Ok(()) } else { Err(counted.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn rows_of_a_new_table_are_found_by_their_ids() {
    let registry = Registry::head().await;
    let off = "ALTER TABLE registry_instance SET (autovacuum_enabled = off)";
    run(&registry.client, &format!("{off}; SELECT set_current_epoch('{}')", id(1_000_000))).await;
    let apply = |group: usize, operation: &str| {
        format!(
            "SELECT count(*) FROM muster_apply((
                 SELECT jsonb_agg(jsonb_build_object('instance_id', lpad(to_hex(n), 32, '0'), 'lease_id', n + 1, {operation}))
                 FROM generate_series({} + 1, {} + {GROUP}) AS n
             ), 'test')",
            group * GROUP,
            group * GROUP
        )
    };
    let (scans, _) = counted(&registry).await;
    let register = "'op', 'register', 'logical_id', 'organ-' || n, 'status', 'alive'";
    let registered: Vec<_> = (0..GROUPS).map(|group| apply(group, register)).collect();
    in_a_session(&registry, "n_tup_ins", ROWS, &registered).await;
    assert_eq!(counted(&registry).await, (scans, 0), "no instance was on record, so there was nothing to find");

    // Leases of a group, and as many ages.
    let arrays = |group: usize| {
        let leases = format!("lease_id > {} AND lease_id <= {}", 1 + group * GROUP, 1 + (group + 1) * GROUP);
        let numbers = format!("FROM generate_series(1, {}) AS lease_id WHERE {leases}", 1 + ROWS);
        format!("(SELECT array_agg(lease_id ORDER BY lease_id) {numbers}), (SELECT array_agg(0::bigint) {numbers})")
    };
    let flush = |group| format!("SELECT (muster_flush_beats('{}', {})).saved", id(1), arrays(group));
    let flushed: Vec<_> = (0..GROUPS).map(flush).collect();
    in_a_session(&registry, "n_tup_upd", ROWS, &flushed).await;
    let (after, found) = counted(&registry).await;
    assert_eq!(after, scans, "saving beats");
    assert!(found <= i64::try_from(4 * ROWS).unwrap(), "{found} rows were read to save the beats of {ROWS}");

    let doubt = |group| format!("SELECT count(*) FROM muster_exchange_suspicions({}, '{{}}')", arrays(group));
    let doubted: Vec<_> = (0..GROUPS).map(doubt).collect();
    in_a_session(&registry, "idx_scan", 4 * ROWS, &doubted).await;
    let (after, found_then) = counted(&registry).await;
    assert_eq!(after, scans, "telling of suspects");
    // Each stands until it is withdrawn, and is looked up again by every exchange.
    let read = found_then - found;
    assert!(read <= i64::try_from((GROUPS / 2 + 4) * ROWS).unwrap(), "{read} rows were read to tell of {ROWS}");
    let found = found_then;

    let drained: Vec<_> = (0..GROUPS).map(|group| apply(group, "'op', 'status', 'status', 'draining'")).collect();
    in_a_session(&registry, "n_tup_upd", 2 * ROWS, &drained).await;
    let (after, found_then) = counted(&registry).await;
    assert_eq!(after, scans, "changing a status");
    let read = found_then - found;
    assert!(read <= i64::try_from(6 * ROWS).unwrap(), "{read} rows were read to change the status of {ROWS}");
}
