//! The feed's connection: notifications, the cluster row, and the rows that changed.
//!
//! A connection of its own, because a pooled one drops notifications. A notification is a hint, never the truth:
//! [`Connection::changes`] reads what there is. Where LISTEN does not exist or is lost on the way (a distributed
//! engine, a pooler), everything works all the same, a poll interval later.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{TryStreamExt, future::poll_fn, pin_mut};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Notification, Row, Statement,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    Database, Error,
    expiry::hold,
    row::{INSTANCE_COLUMNS, Time, instance, signed, unsigned},
};
use crate::{
    model::{Brake, BrakeMode, Cluster, DaemonRecord, Daemons, Epoch, EpochId, Instance, LostDaemon, Revision},
    postgres::{server::Want, session::Opened},
};

/// How long any answer may take before the connection counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Columns of the cluster row in [`COLUMNS`], before those of an instance.
const CLUSTER_COLUMNS: usize = 12;

/// The start of a daemon, within the years that a client can show: a row that was written by hand may hold any time.
const STARTED_AT: &str =
    "greatest(least(started_at, timestamptz '9999-12-31 00:00:00+00'), timestamptz '1970-01-01 00:00:00+00')";

/// What one look found: the cluster row, and the instances changed after a revision, as of one moment.
#[derive(Clone, Debug)]
pub struct Changes {
    /// What was asked for: all changes after this revision.
    pub after: Revision,
    /// The cluster row.
    pub cluster: Cluster,
    /// The instances, by revision.
    pub instances: Vec<Instance>,
    /// How many rows there were: those that cannot be read are not among the instances.
    pub rows: usize,
    /// When it was asked, by this daemon's clock.
    pub at_ms: u64,
}

/// Notifications that arrived: that there was one, and the highest revision they named.
#[derive(Debug, Default)]
struct Notifications {
    arrived: Notify,
    revision: AtomicU64,
}

impl Notifications {
    fn note(&self, revision: Revision) {
        self.revision.fetch_max(revision.0, Ordering::AcqRel);
        self.arrived.notify_one();
    }
}

/// For which revision it rings. What is no revision may be any.
fn revision_of(notification: &Notification) -> Revision {
    Revision(notification.payload().parse().unwrap_or(u64::MAX))
}

/// The dedicated connection of a feed.
#[derive(Debug)]
pub struct Connection {
    database: Database,
    generation: u64,
    client: Client,
    changes: Statement,
    notifications: Arc<Notifications>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects and listens. What is read afterwards misses nothing that rings later.
    ///
    /// # Errors
    /// No connection in time, or PostgreSQL refused.
    #[tracing::instrument(level = "debug", name = "db.open_feed", skip_all)]
    pub async fn open(database: &Database) -> Result<Self, Error> {
        let opened = database.open(Want::Primary, ANSWER_TIMEOUT).await?;
        let Opened { client, mut connection, target, generation, .. } = opened;
        let notifications = Arc::new(Notifications::default());
        let received = Arc::clone(&notifications);
        let (database, driven) = (database.clone(), database.clone());
        #[expect(clippy::disallowed_methods, reason = "belongs to the connection, whose calls fail when it has ended")]
        let driver = tokio::spawn(async move {
            // Ends when the connection does; the next call then fails, and the feed connects again.
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => received.note(revision_of(&notification)),
                    Ok(_) => {}
                    Err(error) => {
                        driven.connection_lost(&target, &error);
                        break;
                    }
                }
            }
            received.note(Revision(u64::MAX));
        });
        // Sent one behind the other: one round trip.
        match tokio::try_join!(biased; listen(&client), answer(client.prepare(&CHANGES))) {
            Ok(((), changes)) => Ok(Self { database, generation, client, changes, notifications, driver }),
            Err(error) => {
                driver.abort();
                Err(error)
            }
        }
    }

    /// Tells PostgreSQL what this daemon has seen, so that a failover or a restored copy becomes another history.
    ///
    /// # Errors
    /// The connection is lost, or PostgreSQL refused.
    #[tracing::instrument(level = "debug", name = "db.confirm_history", skip_all)]
    pub async fn confirm_history(&self, revision: Revision) -> Result<(), Error> {
        let seen = signed(revision.0);
        answer(self.client.query_typed("SELECT muster_confirm_history($1)", &[(&seen, Type::INT8)])).await.map(drop)
    }

    /// The generation of sessions that this one belongs to: another one means another database.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns when the daemon has changed to another database.
    pub async fn superseded(&self) -> Error {
        self.database.superseded(self.generation).await;
        Error::Unreachable("the daemon has changed to another database".into())
    }

    /// The highest revision that this daemon has committed or read: what is asked afterwards must not be below it.
    #[must_use]
    pub fn seen(&self) -> Revision {
        Revision(self.database.seen())
    }

    /// The registry was loaded, or read on, up to this cluster row.
    pub fn confirmed(&self, floor: Revision, cluster: &Cluster) {
        if let Some(lineage) = self.database.lineage() {
            lineage.loaded(self.generation, cluster.history_id.to_string(), cluster.revision.0);
            lineage.answered(self.generation, floor.0, cluster.revision.0);
        }
    }

    /// Waits until something changed, as far as notifications tell, and returns up to which revision. Also returns when
    /// the connection is lost.
    pub async fn notified(&self) -> Revision {
        self.notifications.arrived.notified().await;
        Revision(self.notifications.revision.swap(0, Ordering::AcqRel))
    }

    /// The cluster row, and at most `limit` instances changed after `after`. `None` without an epoch.
    ///
    /// # Errors
    /// The connection is lost, or PostgreSQL refused.
    #[tracing::instrument(level = "debug", name = "db.read_changes", skip_all)]
    pub async fn changes(&self, after: Revision, limit: i64, at_ms: u64) -> Result<Option<Changes>, Error> {
        let rows = answer(self.client.query(&self.changes, &[&signed(after.0), &limit])).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut instances = Vec::with_capacity(rows.len());
        for row in &rows {
            instances.extend(instance_of(row, 0)?);
        }
        let cluster = cluster(first, 0)?;
        Ok(cluster.map(|cluster| Changes { after, cluster, instances, rows: rows.len(), at_ms }))
    }

    /// Everything on record as of one moment, streamed to `each`. Returns the cluster row; `None` without an epoch.
    ///
    /// # Errors
    /// The connection is lost, or PostgreSQL refused. `each` may have been called then.
    #[tracing::instrument(level = "debug", name = "db.load", skip_all)]
    pub async fn load(&self, mut each: impl FnMut(Instance)) -> Result<Option<Cluster>, Error> {
        let no_parameters: [(&(dyn ToSql + Sync), Type); 0] = [];
        let rows = answer(self.client.query_typed_raw(load_sql().as_str(), no_parameters)).await?.map_err(Error::from);
        pin_mut!(rows);
        let mut seen = None;
        while let Some(row) = timeout(ANSWER_TIMEOUT, rows.try_next()).await.map_err(|_| Error::Unanswered(None))?? {
            if seen.is_none() {
                seen = cluster(&row, 0)?;
            }
            if let Some(instance) = instance_of(&row, 0)? {
                each(instance);
            }
        }
        Ok(seen)
    }

    /// The daemons that share the database, and those that were lost.
    ///
    /// # Errors
    /// The connection is lost, or PostgreSQL refused.
    #[tracing::instrument(level = "debug", name = "db.read_daemons", skip_all)]
    pub async fn daemons(&self) -> Result<Daemons, Error> {
        let present = format!(
            "SELECT daemon_id, address, version, {STARTED_AT}, \
             -muster_ms_until(last_flush, muster_now()), left(policy, 64) \
             FROM registry_daemon ORDER BY started_at, daemon_id LIMIT 1000"
        );
        let lost = format!(
            "SELECT daemon_id, address, version, {STARTED_AT}, \
             -muster_ms_until(last_flush, muster_now()), NULL::text, \
             -muster_ms_until(lost_at, muster_now()) \
             FROM registry_daemon_loss AS loss \
             WHERE lost_at > muster_now() - interval '1 hour' \
             AND NOT EXISTS (SELECT FROM registry_daemon AS daemon WHERE daemon.address = loss.address) \
             ORDER BY lost_at DESC, daemon_id LIMIT 16"
        );
        let present = answer(self.client.query_typed(&present, &[]));
        let lost = answer(self.client.query_typed(&lost, &[]));
        // Sent one behind the other.
        let (present, lost) = tokio::try_join!(biased; present, lost)?;
        let lost = lost.iter().map(|row| {
            let lost_for = Duration::from_millis(unsigned(row.try_get(6)?));
            Ok(LostDaemon { record: daemon(row)?, lost_for })
        });
        let present = present.iter().map(daemon).collect::<Result<_, _>>()?;
        Ok(Daemons { present, lost: lost.collect::<Result<_, Error>>()? })
    }
}

async fn listen(client: &Client) -> Result<(), Error> {
    match answer(client.batch_execute("LISTEN muster")).await {
        Err(Error::Refused(error)) => {
            tracing::warn!(%error, "notifications are not available, polling alone");
            Ok(())
        }
        other => other,
    }
}

fn daemon(row: &Row) -> Result<DaemonRecord, Error> {
    Ok(DaemonRecord {
        daemon_id: row.try_get(0)?,
        address: row.try_get(1)?,
        version: row.try_get(2)?,
        started_at: row.try_get(3)?,
        last_flush_age: Duration::from_millis(unsigned(row.try_get(4)?)),
        policy: row.try_get(5)?,
    })
}

async fn answer<T>(call: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
    match timeout(ANSWER_TIMEOUT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Unanswered(None)),
    }
}

/// The cluster row `c` and an instance `i`. The clock is read in subqueries, and so once and not for each row.
pub(super) static COLUMNS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "c.current_epoch, c.epoch_number, c.revision, c.history_id, c.purged_revision, \
         CASE WHEN c.hold_until > (SELECT muster_now()) \
              THEN muster_ms_until(c.hold_until, (SELECT muster_now())) END, \
         c.hold_reason, (SELECT muster_now()), c.brake, c.brake_since, c.brake_overdue, c.brake_live, \
         {INSTANCE_COLUMNS}"
    )
});

/// What changed. One statement, so that the cluster row and the instances are of the same moment: every change up to the
/// revision it shows is among them.
static CHANGES: LazyLock<String> = LazyLock::new(|| {
    let changed = "SELECT * FROM registry_instance WHERE revision > $1 ORDER BY revision LIMIT $2";
    let columns = &*COLUMNS;
    format!(
        "SELECT {columns} FROM cluster_metadata c LEFT JOIN LATERAL ({changed}) i ON true \
         WHERE c.id = 1 ORDER BY i.revision"
    )
});

/// Everything, in no order: to sort a million rows takes longer than a first answer may, and no caller needs it.
fn load_sql() -> String {
    let columns = &*COLUMNS;
    format!("SELECT {columns} FROM cluster_metadata c LEFT JOIN registry_instance i ON true WHERE c.id = 1")
}

/// The instance in the columns that begin at `first`; `None` where there is none, or where the row cannot be read.
pub(super) fn instance_of(row: &Row, first: usize) -> Result<Option<Instance>, Error> {
    let first = first + CLUSTER_COLUMNS;
    let joined: Option<Uuid> = row.try_get(first)?;
    Ok(joined.and_then(|_| instance(row, first)))
}

/// The cluster row in the columns that begin at `first`; `None` where there is none.
pub(super) fn cluster(row: &Row, first: usize) -> Result<Option<Cluster>, Error> {
    let Some(epoch_id) = row.try_get(first)? else { return Ok(None) };
    let held_for_ms: Option<i64> = row.try_get(first + 5)?;
    Ok(Some(Cluster {
        epoch: Epoch { id: EpochId(epoch_id), number: unsigned(row.try_get(first + 1)?) },
        revision: Revision(unsigned(row.try_get(first + 2)?)),
        history_id: row.try_get(first + 3)?,
        purged: Revision(unsigned(row.try_get(first + 4)?)),
        hold: held_for_ms.map(|ms| hold(ms, row.try_get(first + 6).ok().flatten())),
        brake: brake(row, first + 8)?,
        read_at: row.try_get(first + 7)?,
    }))
}

fn brake(row: &Row, first: usize) -> Result<Option<Brake>, Error> {
    let mode = row.try_get::<_, Option<&str>>(first)?.and_then(BrakeMode::from_word);
    let (Some(mode), Some(Time(since))) = (mode, row.try_get(first + 1)?) else { return Ok(None) };
    let count = |column| Ok::<_, Error>(unsigned(row.try_get::<_, Option<i64>>(first + column)?.unwrap_or_default()));
    Ok(Some(Brake { mode, since, overdue: count(2)?, live: count(3)? }))
}
