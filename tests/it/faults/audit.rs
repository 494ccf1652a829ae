//! The oracle: triggers that write down, in the transaction of each membership change, what was changed.
//!
//! They are added to the test's own database and slow nothing that beats: a beat changes none of the columns named.
//! What a crash takes from the registry it takes from the audit as well, so a lost change is missing in both.

use tokio_postgres::{Client, Row as SqlRow};
use uuid::Uuid;

use super::{
    checker::{Change, Epoch},
    history::{History, Micros, Row},
};

const INSTALL: &str = "
CREATE TABLE faults_change (
    n bigserial, transaction bigint DEFAULT txid_current(), at timestamptz DEFAULT clock_timestamp(),
    instance_id uuid, lease_id bigint, revision bigint, epoch_number bigint, status text, content text, logical_id text,
    lease_before bigint, status_before text, reason text, stopped_at timestamptz
);
CREATE FUNCTION faults_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO faults_change (instance_id, lease_id, revision, epoch_number, status, content, logical_id,
                               lease_before, status_before, reason, stopped_at)
    VALUES (NEW.instance_id, NEW.lease_id, NEW.revision, NEW.epoch_number, NEW.status, coalesce(NEW.actor_name, ''),
            NEW.logical_id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.lease_id END,
            CASE WHEN TG_OP = 'UPDATE' THEN OLD.status::text END, NEW.death_reason, NEW.stopped_at);
    RETURN NULL;
END $$;
CREATE TRIGGER zz_faults_note_change AFTER INSERT OR UPDATE OF status, revision, lease_id ON registry_instance
FOR EACH ROW EXECUTE FUNCTION faults_note_change();

CREATE TABLE faults_protection (
    at timestamptz DEFAULT clock_timestamp(), hold_until timestamptz, hold_reason text, brake text
);
CREATE FUNCTION faults_note_protection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO faults_protection (hold_until, hold_reason, brake)
    VALUES (NEW.hold_until, NEW.hold_reason, NEW.brake);
    RETURN NULL;
END $$;
CREATE TRIGGER zz_faults_note_protection AFTER UPDATE ON cluster_metadata FOR EACH ROW
WHEN ((OLD.hold_until, OLD.brake) IS DISTINCT FROM (NEW.hold_until, NEW.brake))
EXECUTE FUNCTION faults_note_protection();
";

/// Installs it.
pub(crate) async fn install(client: &Client) {
    client.batch_execute(INSTALL).await.unwrap();
}

/// How the database clock relates to the history's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatabaseClock {
    /// Microseconds of Unix time at which the history began.
    began: i64,
    /// By how much that may be wrong.
    pub(crate) error: Micros,
}

impl DatabaseClock {
    /// Reads both clocks a few times and keeps the closest pair.
    pub(crate) async fn read(client: &Client, history: &History) -> Self {
        let mut best: Option<Self> = None;
        for _ in 0..10 {
            let before = history.now();
            let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
            let shown: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
            let error = (history.now() - before) / 2;
            let began = shown - (before + error).cast_signed();
            if best.is_none_or(|best| error < best.error) {
                best = Some(Self { began, error });
            }
        }
        let best = best.unwrap();
        // A millisecond for what PostgreSQL and the daemon round away.
        Self { error: best.error + 2_000, ..best }
    }

    fn history(self, unix: i64) -> Micros {
        u64::try_from(unix - self.began).unwrap_or_default()
    }
}

fn number(row: &SqlRow, column: &str) -> u64 {
    row.get::<_, i64>(column).cast_unsigned()
}

fn registry_row(row: &SqlRow) -> Row {
    Row {
        instance: row.get("instance_id"),
        lease: number(row, "lease_id"),
        revision: number(row, "revision"),
        epoch: number(row, "epoch_number"),
        status: row.get("status"),
    }
}

/// Every change, in order.
pub(crate) async fn changes(client: &Client, clock: DatabaseClock) -> Vec<Change> {
    let sql = "SELECT *, (extract(epoch FROM at) * 1000000)::bigint AS at_us,
                      (extract(epoch FROM stopped_at) * 1000000)::bigint AS stopped_us
               FROM faults_change ORDER BY n";
    let change = |row: &SqlRow| Change {
        n: number(row, "n"),
        transaction: number(row, "transaction"),
        at: clock.history(row.get("at_us")),
        row: registry_row(row),
        content: row.get("content"),
        logical_id: row.get("logical_id"),
        before: row
            .get::<_, Option<i64>>("lease_before")
            .map(|lease| (lease.cast_unsigned(), row.get::<_, String>("status_before"))),
        reason: row.get("reason"),
        stopped_at: row.get::<_, Option<i64>>("stopped_us").map(|at| clock.history(at)),
    };
    client.query(sql, &[]).await.unwrap().iter().map(change).collect()
}

/// When expiry was held or braked, and why.
pub(crate) async fn protections(client: &Client, clock: DatabaseClock) -> Vec<(Micros, Micros, String)> {
    let sql = "SELECT (extract(epoch FROM at) * 1000000)::bigint AS from_us,
                      (extract(epoch FROM hold_until) * 1000000)::bigint AS held_us, hold_reason,
                      (extract(epoch FROM lead(at) OVER (ORDER BY at)) * 1000000)::bigint AS next_us, brake
               FROM faults_protection ORDER BY at";
    let mut windows = Vec::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let from = clock.history(row.get("from_us"));
        if let Some(until) = row.get::<_, Option<i64>>("held_us") {
            windows.push((from, clock.history(until), row.get::<_, Option<String>>("hold_reason").unwrap_or_default()));
        }
        if let Some(brake) = row.get::<_, Option<String>>("brake") {
            let until = row.get::<_, Option<i64>>("next_us").map_or(Micros::MAX, |at| clock.history(at));
            windows.push((from, until, brake));
        }
    }
    windows
}

/// The history of epochs.
pub(crate) async fn epochs(client: &Client) -> Vec<Epoch> {
    let sql = "SELECT epoch_number, cluster_epoch, started_revision FROM registry_epoch ORDER BY epoch_number";
    let epoch = |row: &SqlRow| Epoch {
        number: number(row, "epoch_number"),
        id: row.get::<_, Uuid>("cluster_epoch"),
        started: number(row, "started_revision"),
    };
    client.query(sql, &[]).await.unwrap().iter().map(epoch).collect()
}

/// All rows and the revision, as of one moment.
pub(crate) async fn rows(client: &Client) -> (u64, Vec<Row>) {
    let sql = "SELECT c.revision AS now, i.instance_id, i.lease_id, i.revision, i.epoch_number, i.status::text
               FROM cluster_metadata c LEFT JOIN registry_instance i ON true ORDER BY i.instance_id";
    let found = client.query(sql, &[]).await.unwrap();
    let now = found.first().map(|row| number(row, "now")).unwrap_or_default();
    let present = found.iter().filter(|row| row.get::<_, Option<Uuid>>("instance_id").is_some());
    (now, present.map(registry_row).collect())
}
