//! Many instances at once in a database, daemons that exist only as rows, and what one look of a reaper found.
//!
//! Time does not pass here: a test moves the stamps that time is measured by, and so says exactly what is how old.

use tokio_postgres::Client;

use super::registry::{Registry, get, id, run};

/// An epoch (100), a daemon that is well (900) unless there shall be none, and so many alive instances (1 and up).
pub(crate) async fn fleet(instances: u32, daemon: bool) -> Registry {
    let registry = Registry::head().await;
    let client = &registry.client;
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    let register = format!(
        "SELECT muster_apply((
             SELECT jsonb_agg(jsonb_build_object(
                 'op', 'register', 'status', 'alive', 'logical_id', 'organ', 'node_id', n,
                 'instance_id', '00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0')))
             FROM generate_series(1, {instances}) AS n), 'the test')"
    );
    run(client, &register).await;
    if daemon {
        enter(client, 900).await;
        run(client, "UPDATE cluster_metadata SET hold_until = NULL, hold_reason = NULL").await;
    }
    registry
}

/// The database clock shows this much more than the time of this machine.
pub(crate) async fn set_clock(client: &Client, ahead: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION muster_now() RETURNS timestamptz LANGUAGE sql VOLATILE
         AS $$ SELECT clock_timestamp() + interval '{ahead}' $$"
    );
    run(client, &sql).await;
}

/// A daemon starts.
pub(crate) async fn enter(client: &Client, daemon: u128) {
    run(client, &format!("SELECT muster_daemon_started('{}', '127.0.0.1:7717', '0.1.0')", id(daemon))).await;
}

/// Every daemon was last heard of, and had saved everything, so many milliseconds ago.
pub(crate) async fn daemons_heard_of(client: &Client, ago_ms: i64) {
    let heard = format!("muster_now() - {ago_ms} * interval '1 ms'");
    run(client, &format!("UPDATE registry_daemon SET last_flush = {heard}, saved_up_to = {heard}")).await;
}

/// The first so many live instances have been silent for an hour, all others have just beaten.
pub(crate) async fn silent(client: &Client, instances: u32) {
    let sql = format!(
        "UPDATE registry_instance AS instance
         SET last_heartbeat = muster_now() - CASE WHEN ranked.rank <= {instances} THEN interval '1 h' ELSE '0' END
         FROM (SELECT instance_id, row_number() OVER (ORDER BY lease_id) AS rank
               FROM registry_instance WHERE status <> 'dead') AS ranked
         WHERE ranked.instance_id = instance.instance_id"
    );
    run(client, &sql).await;
}

/// What one look of the reaper of a daemon that is well came to: deaths, brake, why it holds; as far as there is any.
pub(crate) async fn look(client: &Client) -> String {
    daemons_heard_of(client, 0).await;
    look_as_it_is(client).await
}

/// As [`look`], with daemons as they are.
pub(crate) async fn look_as_it_is(client: &Client) -> String {
    get(
        client,
        "SELECT concat_ws(' ', reaped, brake, CASE WHEN held_for_ms > 0 THEN hold_reason END)
         FROM muster_reap_stale(15000, 500, 'the test')",
    )
    .await
}

/// As [`look`], by a daemon that expects the database clock to show the time of this machine.
pub(crate) async fn look_by_the_clock(client: &Client) -> String {
    get(
        client,
        "SELECT concat_ws(' ', reaped, brake, CASE WHEN held_for_ms > 0 THEN hold_reason END)
         FROM muster_reap_stale(15000, 500, 'the test', clock_timestamp(), 1000)",
    )
    .await
}

/// One value of the cluster row as text; empty for null.
pub(crate) async fn cluster(client: &Client, expression: &str) -> String {
    get(client, &format!("SELECT coalesce(({expression})::text, '') FROM cluster_metadata")).await
}

/// How many are not dead.
pub(crate) async fn living(client: &Client) -> i64 {
    get(client, "SELECT count(*) FROM registry_instance WHERE status <> 'dead'").await
}
