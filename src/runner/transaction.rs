//! How a transaction of the migrations begins, and how the daemons that migrate take turns.
//!
//! A daemon that waits for its turn asks again and again, each time in a transaction of its own. A waiter with an open
//! transaction would hold a snapshot, which the concurrent build of an index waits for: if the daemon whose turn it is builds
//! one, they wait for each other.

use std::time::Duration;

use tokio::try_join;
use tokio_postgres::{Client, GenericClient, IsolationLevel, Transaction, types::Type};

use super::error::Error;
use crate::schema;

/// Key of the advisory lock under which migrations run. Any number will do as long as it stays; this one reads "muster"
/// in ASCII.
pub(crate) const LOCK_KEY: i64 = 0x6d75_7374_6572;

/// How long a statement of a migration may wait for a lock. While it waits for a table, beats of SQL callers queue up
/// behind it: this must stay well below a TTL.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a transaction of ours needs, whatever the defaults of the user or the database are.
///
/// A function's file has its current text, which may name a column that a later migration adds.
pub(crate) const SETTINGS: &str = "\
SET LOCAL statement_timeout = 0;
SET LOCAL client_min_messages = warning;
SET LOCAL check_function_bodies = off";

/// Begins a transaction with those settings.
///
/// Read committed, because what is read after the lock was awaited must be what the one before us committed.
pub(crate) async fn begin<'a>(client: &'a mut Client, doing: &str) -> Result<Transaction<'a>, Error> {
    let builder = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).read_only(false);
    set_up(builder.start().await.map_err(Error::during(doing))?, doing).await
}

/// The same, in which nothing can be changed. Read committed as well: the server prints definitions as of now, whatever the
/// snapshot is.
pub(crate) async fn begin_reading<'a>(client: &'a mut Client, doing: &str) -> Result<Transaction<'a>, Error> {
    let builder = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).read_only(true);
    set_up(builder.start().await.map_err(Error::during(doing))?, doing).await
}

async fn set_up<'a>(transaction: Transaction<'a>, doing: &str) -> Result<Transaction<'a>, Error> {
    settle(&transaction, doing).await?;
    Ok(transaction)
}

/// Makes the settings of the transaction that this client is in.
pub(crate) async fn settle(transaction: &impl GenericClient, doing: &str) -> Result<(), Error> {
    let settings = transaction.batch_execute(SETTINGS);
    // Both in one round trip, in this order.
    let ((), schema) =
        try_join!(biased; settings, schema::pin_search_path(transaction)).map_err(Error::during(doing))?;
    if schema.is_none() { Err(Error::NoSchema) } else { Ok(()) }
}

/// The schema that a transaction works in.
pub(crate) async fn schema_name(client: &impl GenericClient) -> Result<String, tokio_postgres::Error> {
    let rows = client.query_typed("SELECT current_schema()::text", &[]).await?;
    Ok(rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default())
}

/// Takes the turn to migrate, until the end of the transaction, limits how long its statements may wait for a lock, and goes
/// on as the owner of the registry's tables. Sent at once and run in this order; what follows a failure fails as well.
///
/// # Errors
/// [`Error::Queued`] if another session has the turn.
pub(crate) async fn lock(transaction: &impl GenericClient) -> Result<(), Error> {
    try_join!(biased; take_turn(transaction), become_owner(transaction)).map(drop)
}

/// The same as the role of the session.
pub(crate) async fn take_turn(transaction: &impl GenericClient) -> Result<(), Error> {
    let (is_ours, ()) = try_join!(biased; is_our_turn(transaction), set_lock_timeout(transaction))?;
    if is_ours { Ok(()) } else { Err(Error::Queued) }
}

async fn is_our_turn(transaction: &impl GenericClient) -> Result<bool, Error> {
    let locked = transaction.query_typed("SELECT pg_try_advisory_xact_lock($1)", &[(&LOCK_KEY, Type::INT8)]).await;
    Ok(locked.map_err(Error::during("waiting for another migration"))?.first().is_some_and(|row| row.get(0)))
}

/// Whether a role may become the role in a column: since PostgreSQL 16, a member need not have that right. Both are expressions.
pub(crate) fn may_become(role: &str, column: &str) -> String {
    format!(
        "pg_has_role({role}, {column}, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)"
    )
}

/// Goes on as the owner of the registry's tables, until the end of the transaction, if they are another's.
async fn become_owner(transaction: &impl GenericClient) -> Result<(), Error> {
    transaction.query_typed(&becoming_owner(), &[]).await.map(drop).map_err(Error::during("migrating"))
}

/// The statement for that.
pub(crate) fn becoming_owner() -> String {
    format!(
        "SELECT set_config('role', pg_get_userbyid(class.relowner), true)
         FROM pg_class AS class
         WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')
           AND class.relowner <> quote_ident(current_user)::regrole
           AND {}",
        may_become("current_user", "class.relowner")
    )
}

async fn set_lock_timeout(transaction: &impl GenericClient) -> Result<(), Error> {
    transaction.batch_execute(&lock_timeout()).await.map_err(Error::during("migrating"))
}

/// The statement that limits how long a lock is waited for.
pub(crate) fn lock_timeout() -> String {
    format!("SET LOCAL lock_timeout = {}", LOCK_TIMEOUT.as_millis())
}

/// Gives each lease its TTL and a few seconds from now on. A migration can hold locks for so long that no beat is saved, and
/// without a daemon there is no brake.
pub(crate) const HOLD: &str =
    "SELECT muster_note_disruption('the schema was migrated') FROM cluster_metadata WHERE id = 1";

/// The same, at the end of a migration.
pub(crate) async fn hold_leases(transaction: &Transaction<'_>) -> Result<(), Error> {
    transaction.batch_execute(HOLD).await.map_err(Error::during("putting expiry on hold"))
}
