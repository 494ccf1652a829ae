//! Deaths are recorded, and hooks free what the dead held: exactly once, with their own rights, and without a delay of anything
//! else.

mod daemons;
mod records;
mod release;
mod rights;
mod seedcore;

use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::registry::{Registry, get, id, make_alive, register, run};

/// Within this a death must be released; many times what is promised, for machines under load.
const BOUND: Duration = Duration::from_secs(30);

/// The newest schema, in epoch 100, with a table `held (lease_id)` of the application and its role `hook_app`.
async fn registry() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    create_role(&registry.client, "hook_app").await;
    let tables = "CREATE TABLE held (lease_id bigint);
         CREATE TABLE calls (hook text, lease_ids bigint[]);
         GRANT ALL ON held, calls TO hook_app;";
    run(&registry.client, tables).await;
    registry
}

/// Creates a role, which all databases of the server share.
async fn create_role(client: &Client, name: &str) {
    let sql = format!(
        "DO $$ BEGIN CREATE ROLE {name} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    run(client, &sql).await;
}

/// Defines a function of the application, which deletes what is held, after these statements.
async fn define(client: &Client, name: &str, statements: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION {name}(p_lease_ids bigint[]) RETURNS bigint
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $body$
         DECLARE v_freed bigint;
         BEGIN
             {statements}
             INSERT INTO calls VALUES ('{name}', p_lease_ids);
             DELETE FROM held WHERE lease_id = ANY (p_lease_ids);
             GET DIAGNOSTICS v_freed = ROW_COUNT;
             RETURN v_freed;
         END $body$;
         ALTER FUNCTION {name}(bigint[]) OWNER TO hook_app;"
    );
    run(client, &sql).await;
}

/// Defines a function of the application and makes it a hook.
async fn hook(client: &Client, name: &str, statements: &str) {
    define(client, name, statements).await;
    run(client, &format!("SELECT muster_hook_set('{name}', 'public.{name}')")).await;
}

/// Registers an instance that holds a row, and ends its lease. Returns the lease.
async fn die(client: &Client, instance: u128) -> i64 {
    make_alive(client, instance, "organ", 100).await;
    let lease =
        get(client, &format!("SELECT lease_id FROM registry_instance WHERE instance_id = '{}'", id(instance))).await;
    run(client, &format!("INSERT INTO held VALUES ({lease})")).await;
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(instance))).await;
    lease
}

/// Registers an instance.
async fn born(client: &Client, instance: u128) {
    run(client, &register(instance, "organ", 100)).await;
}

async fn released(client: &Client, limit: i32) -> i32 {
    get(client, &format!("SELECT muster_release_deaths({limit})")).await
}

async fn unreleased(client: &Client) -> i64 {
    get(client, "SELECT unreleased FROM muster_release_state()").await
}

async fn held(client: &Client) -> i64 {
    get(client, "SELECT count(*) FROM held").await
}

/// Which hook failed last, and why; empty if none has.
async fn failure(client: &Client) -> String {
    get(client, "SELECT coalesce(failure, '') FROM muster_release_state()").await
}

/// Makes every death due again.
async fn due(client: &Client) {
    run(client, "UPDATE registry_death SET next_attempt_at = NULL").await;
}
