//! Databases with the registry's schema in them, and the SQL that tests of it use again and again.

use musterd::migrate;
use tokio::{sync::OnceCell, task::JoinHandle};
use tokio_postgres::{Client, types::FromSqlOwned};
use uuid::Uuid;

use super::{
    postgres::{BOUND, TestDatabase, connect},
    wait::wait_until,
};

/// A database with the schema of some version, and one connection to it.
#[derive(Debug)]
pub(crate) struct Registry {
    /// The database.
    pub(crate) database: TestDatabase,
    /// A connection to it; [`Registry::connect`] makes more.
    pub(crate) client: Client,
}

impl Registry {
    /// The newest schema.
    pub(crate) async fn head() -> Self {
        static TEMPLATE: OnceCell<TestDatabase> = OnceCell::const_new();
        Self::copy_of(TEMPLATE.get_or_init(|| migrated(i32::MAX)).await).await
    }

    /// The schema as SeedCore has it, known faults included.
    pub(crate) async fn seed() -> Self {
        static TEMPLATE: OnceCell<TestDatabase> = OnceCell::const_new();
        Self::copy_of(TEMPLATE.get_or_init(|| migrated(12)).await).await
    }

    async fn copy_of(template: &TestDatabase) -> Self {
        let database = TestDatabase::create_from_template(template.name()).await;
        let client = patient(database.url()).await;
        Self { database, client }
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> Client {
        patient(self.database.url()).await
    }
}

/// Connects with a limit to waiting for locks, so that a test of who waits for whom fails instead of hanging.
async fn patient(url: &str) -> Client {
    let client = connect(url).await;
    run(&client, &format!("SET lock_timeout = '{}s'", BOUND.as_secs())).await;
    client
}

async fn migrated(version: i32) -> TestDatabase {
    let database = TestDatabase::create().await;
    migrate::up_to(database.url(), version).await.unwrap();
    database
}

/// The identity of the role that tests connect as.
pub(crate) const SQL_CALLER: &str = "sql/musterd";

/// An id that is easy to tell from others: instances and epochs alike.
pub(crate) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Runs statements that must succeed.
pub(crate) async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The one value of the one row that a query must return.
pub(crate) async fn get<T: FromSqlOwned>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The first column of all rows.
pub(crate) async fn column<T: FromSqlOwned>(client: &Client, sql: &str) -> Vec<T> {
    let rows = client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// The SQLSTATE with which statements are refused; empty if they are not.
pub(crate) async fn refusal(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => String::new(),
        Err(error) => error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned(),
    }
}

/// `register_instance` of an instance of its own process, as SQL.
pub(crate) fn register(instance: u128, logical_id: &str, epoch: u128) -> String {
    let (instance_id, epoch_id) = (id(instance), id(epoch));
    format!(
        "SELECT register_instance('{instance_id}', '{logical_id}', '{epoch_id}', 'actor', '/route', 'node', '10.0.0.1', {instance})"
    )
}

/// Registers an instance and makes it alive.
pub(crate) async fn make_alive(client: &Client, instance: u128, logical_id: &str, epoch: u128) {
    run(client, &register(instance, logical_id, epoch)).await;
    run(client, &format!("SELECT set_instance_status('{}', 'alive')", id(instance))).await;
}

/// Lets an instance be silent for some seconds.
pub(crate) async fn silence(client: &Client, instance: u128, seconds: u32) {
    let instance_id = id(instance);
    run(client, &format!("UPDATE registry_instance SET last_heartbeat = now() - interval '{seconds} s' WHERE instance_id = '{instance_id}'")).await;
}

/// One column of an instance, as text; empty for null.
pub(crate) async fn field(client: &Client, instance: u128, column: &str) -> String {
    get(
        client,
        &format!("SELECT coalesce(({column})::text, '') FROM registry_instance WHERE instance_id = '{}'", id(instance)),
    )
    .await
}

/// A statement that runs on a connection of its own.
#[derive(Debug)]
pub(crate) struct Background {
    pid: i32,
    task: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Background {
    /// Starts statements and does not wait for them.
    pub(crate) async fn start(client: Client, sql: String) -> Self {
        let pid = get(&client, "SELECT pg_backend_pid()").await;
        Self { pid, task: tokio::spawn(async move { client.batch_execute(&sql).await }) }
    }

    /// Waits until they wait for a lock that another session holds.
    pub(crate) async fn blocked(&self, observer: &Client) {
        let sql = format!("SELECT cardinality(pg_blocking_pids({})) > 0", self.pid);
        wait_until("a statement that waits for a lock", BOUND, async || {
            if get::<bool>(observer, &sql).await { Ok(()) } else { Err("it does not wait") }
        })
        .await;
    }

    /// Whether they have ended by now.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for their end.
    pub(crate) async fn end(self) -> Result<(), tokio_postgres::Error> {
        self.task.await.unwrap()
    }
}
