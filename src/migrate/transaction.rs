//! How a transaction of the migrations begins, and how the daemons that migrate take turns.

use std::time::Duration;

use tokio::try_join;
use tokio_postgres::{Client, IsolationLevel, Transaction, types::Type};

use super::{error::Error, schema};

/// Key of the advisory lock under which migrations run. Any number will do as long as it stays; this one reads "muster"
/// in ASCII.
const LOCK_KEY: i64 = 0x6d75_7374_6572;

/// How long a waiting daemon gives the one that migrates before it tries again.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a statement of a migration may wait for a lock. While it waits for a table, beats of SQL callers queue up
/// behind it: this must stay well below a TTL.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Begins a transaction with what all of ours need, whatever the defaults of the user or the database are.
///
/// Read committed, because what is read after the lock was awaited must be what the one before us committed.
pub(super) async fn begin<'a>(client: &'a mut Client, doing: &str) -> Result<Transaction<'a>, Error> {
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::ReadCommitted)
        .start()
        .await
        .map_err(Error::during(doing))?;
    // A function's file has its current text, which may name a column that a later migration adds.
    let settings = transaction.batch_execute(
        "SET LOCAL statement_timeout = 0; SET LOCAL client_min_messages = warning;
         SET LOCAL check_function_bodies = off",
    );
    // Both in one round trip, in this order.
    let ((), schema) =
        try_join!(biased; settings, schema::pin_search_path(&transaction)).map_err(Error::during(doing))?;
    if schema.is_none() { Err(Error::NoSchema) } else { Ok(transaction) }
}

/// Waits for the daemons that are migrating, then limits how long the migration itself may wait.
pub(super) async fn lock(transaction: &Transaction<'_>) -> Result<(), Error> {
    let lock = async {
        let locked = transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK_KEY, Type::INT8)]).await;
        locked.map(drop).map_err(Error::during("waiting for another migration"))
    };
    // Sent at once and run in this order; what follows a failure fails as well.
    try_join!(
        biased;
        set_lock_timeout(transaction, QUEUE_TIMEOUT),
        lock,
        set_lock_timeout(transaction, LOCK_TIMEOUT),
        become_owner(transaction),
    )
    .map(drop)
}

/// Goes on as the owner of the registry's tables, until the end of the transaction, if they are another's.
async fn become_owner(transaction: &Transaction<'_>) -> Result<(), Error> {
    let statement = "SELECT set_config('role', pg_get_userbyid(class.relowner), true)
                  FROM pg_class AS class
                  WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')
                    AND class.relowner <> quote_ident(current_user)::regrole
                    AND pg_has_role(class.relowner, 'MEMBER')";
    transaction.query_typed(statement, &[]).await.map(drop).map_err(Error::during("migrating"))
}

async fn set_lock_timeout(transaction: &Transaction<'_>, limit: Duration) -> Result<(), Error> {
    let statement = format!("SET LOCAL lock_timeout = {}", limit.as_millis());
    transaction.batch_execute(&statement).await.map_err(Error::during("migrating"))
}
