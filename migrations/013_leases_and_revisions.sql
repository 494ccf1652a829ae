-- 013: leases, revisions, epoch history, TTL, labels, death records, daemons; and storage that keeps a beat cheap.
--
-- Rows that are already there keep everything they hold. They get numbers in the order in which they were registered.
-- Locks both tables exclusively, for about 20 us per row: beats of SQL callers wait.
--
-- Oldest head: 019.

-- SeedCore's expiry knows no hold, and runs as soon as the locks of this migration are gone, when no beat has got through. So
-- nothing expires until 017 defines the function again.
CREATE OR REPLACE FUNCTION expire_stale_instances(p_timeout_seconds integer DEFAULT 15)
RETURNS integer
LANGUAGE sql
AS 'SELECT 0';

-- cluster_metadata: the row that orders everything ---------------------------------------------------------------

ALTER TABLE cluster_metadata
    ADD COLUMN epoch_number    bigint NOT NULL DEFAULT 1,
    ADD COLUMN revision        bigint NOT NULL DEFAULT 0,
    ADD COLUMN history_id      uuid   NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN purged_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN hold_until      timestamptz,
    ADD COLUMN hold_reason     text,
    ADD COLUMN held_until      timestamptz,
    ADD COLUMN disrupted_at    timestamptz,
    ADD COLUMN silent_since    timestamptz,
    ADD COLUMN stepped_at      timestamptz,
    ADD COLUMN stepped_ms      bigint,
    ADD COLUMN brake           text,
    ADD COLUMN brake_since     timestamptz,
    ADD COLUMN brake_overdue   bigint,
    ADD COLUMN brake_live      bigint,
    ADD COLUMN window_at       timestamptz,
    ADD COLUMN window_live     bigint,
    ADD COLUMN window_reaped   bigint NOT NULL DEFAULT 0,
    ADD COLUMN released_until  timestamptz,
    ADD COLUMN system_id       text,
    ADD COLUMN timeline        text,
    ADD CONSTRAINT cluster_metadata_brake_check CHECK (brake IN ('pace', 'protect'));

COMMENT ON COLUMN cluster_metadata.epoch_number IS 'Number of the current epoch; only grows.';
COMMENT ON COLUMN cluster_metadata.revision IS 'The logical clock: +1 for every durable membership change. Every change of membership updates it first and holds the row lock until after commit, so revisions become visible in commit order and a reader polling "revision > seen" misses nothing. A sequence could not promise that.';
COMMENT ON COLUMN cluster_metadata.history_id IS 'Changes when the history of revisions was broken; readers then reload everything.';
COMMENT ON COLUMN cluster_metadata.purged_revision IS 'The highest revision of a dead row that was purged. A reader that has seen less must reload everything.';
COMMENT ON COLUMN cluster_metadata.hold_until IS 'End of the hold, which is that of an operator (held_until), the time that leases have after a disruption (disrupted_at), or both. Null: no hold.';
COMMENT ON COLUMN cluster_metadata.held_until IS 'No lease expires before this time, because an operator has put expiry on hold.';
COMMENT ON COLUMN cluster_metadata.disrupted_at IS 'End of the latest disruption. Until hold_until, a lease expires no sooner than its own TTL and 5 s after it.';
COMMENT ON COLUMN cluster_metadata.silent_since IS 'Since when more leases have been silent than heard, as the brake sees it. Null: they are not.';
COMMENT ON COLUMN cluster_metadata.stepped_at IS 'When a step of the database clock was last noticed, by the new time.';
COMMENT ON COLUMN cluster_metadata.stepped_ms IS 'How far the clock was stepped then, in milliseconds; negative: back.';
COMMENT ON COLUMN cluster_metadata.hold_reason IS 'Why expiry is on hold.';
COMMENT ON COLUMN cluster_metadata.brake IS 'pace: so many leases are overdue that they expire in portions. protect: more leases are silent than heard, and none expires. Null: no brake.';
COMMENT ON COLUMN cluster_metadata.brake_since IS 'Since when the brake is on.';
COMMENT ON COLUMN cluster_metadata.brake_overdue IS 'How many were overdue when the brake last looked.';
COMMENT ON COLUMN cluster_metadata.brake_live IS 'Of how many living ones.';
COMMENT ON COLUMN cluster_metadata.window_at IS 'When the present window of 15 s began, over which deaths for silence are counted.';
COMMENT ON COLUMN cluster_metadata.window_live IS 'How many were alive when it began.';
COMMENT ON COLUMN cluster_metadata.window_reaped IS 'How many have been declared dead for silence since.';
COMMENT ON COLUMN cluster_metadata.released_until IS 'An operator has released the brake until then.';
COMMENT ON COLUMN cluster_metadata.system_id IS 'Identifies the PostgreSQL cluster that last wrote here. Another one is a restored copy.';
COMMENT ON COLUMN cluster_metadata.timeline IS 'Timeline of the write-ahead log that was last written to. Another one means a failover or a recovery, in which the latest changes may have been lost.';

-- The row is updated by every change: room on its page keeps those updates HOT.
ALTER TABLE cluster_metadata SET (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- registry_epoch: the history of epochs --------------------------------------------------------------------------

CREATE TABLE registry_epoch (
    epoch_number     bigint      PRIMARY KEY,
    cluster_epoch    uuid        NOT NULL UNIQUE,
    started_at       timestamptz NOT NULL,
    started_revision bigint      NOT NULL,
    reason           text        NOT NULL DEFAULT '',
    rotated_by       text        NOT NULL DEFAULT ''
);

COMMENT ON TABLE registry_epoch IS 'Every epoch there ever was. The unique UUID is what forbids going back to an old one.';
COMMENT ON COLUMN registry_epoch.epoch_number IS 'Its number; only grows.';
COMMENT ON COLUMN registry_epoch.cluster_epoch IS 'Its UUID.';
COMMENT ON COLUMN registry_epoch.started_at IS 'When it began.';
COMMENT ON COLUMN registry_epoch.started_revision IS 'The revision at which it began.';
COMMENT ON COLUMN registry_epoch.reason IS 'Why it was begun, in the operator''s words.';
COMMENT ON COLUMN registry_epoch.rotated_by IS 'What began it: the daemon, and for whom where it knows (daemon for identity); sql/role for a direct SQL caller.';

-- registry_instance: the lease ------------------------------------------------------------------------------------

ALTER TABLE registry_instance
    ADD COLUMN lease_id          bigint,
    ADD COLUMN revision          bigint,
    ADD COLUMN epoch_number      bigint,
    ADD COLUMN ttl_ms            integer,
    ADD COLUMN port              integer,
    ADD COLUMN labels            jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN version           text,
    ADD COLUMN replaces_lease_id bigint,
    ADD COLUMN death_reason      text,
    ADD COLUMN death_deadline    timestamptz,
    ADD COLUMN death_decided_by  text,
    ADD COLUMN owner             text,
    ADD CONSTRAINT registry_instance_ttl_check CHECK (ttl_ms BETWEEN 2000 AND 300000),
    ADD CONSTRAINT registry_instance_port_check CHECK (port BETWEEN 1 AND 65535),
    ADD CONSTRAINT registry_instance_labels_check CHECK (jsonb_typeof(labels) = 'object'),
    ADD CONSTRAINT registry_instance_death_reason_check
        CHECK (death_reason IN ('stale', 'old_epoch', 'deregistered', 'replaced', 'operator'));

-- Epochs that rows or the metadata name, in the order in which they were first seen; the current one is the last.
INSERT INTO registry_epoch (epoch_number, cluster_epoch, started_at, started_revision, reason, rotated_by)
SELECT
    row_number() OVER (ORDER BY (seen.cluster_epoch = cluster.current_epoch) NULLS FIRST, seen.first_seen, seen.cluster_epoch),
    seen.cluster_epoch,
    seen.first_seen,
    0,
    'known before epochs were numbered',
    'migration 013'
FROM (
    SELECT epochs.cluster_epoch, min(epochs.first_seen) AS first_seen
    FROM (
        SELECT cluster_epoch, started_at AS first_seen FROM registry_instance
        UNION ALL
        SELECT current_epoch, updated_at FROM cluster_metadata
    ) AS epochs
    GROUP BY epochs.cluster_epoch
) AS seen
LEFT JOIN cluster_metadata AS cluster ON cluster.id = 1;

UPDATE registry_instance AS instance
SET lease_id = numbered.position,
    revision = numbered.position,
    epoch_number = epoch.epoch_number
FROM (
    SELECT instance_id, row_number() OVER (ORDER BY started_at, instance_id) AS position
    FROM registry_instance
) AS numbered, registry_epoch AS epoch
WHERE numbered.instance_id = instance.instance_id
  AND epoch.cluster_epoch = instance.cluster_epoch;

UPDATE cluster_metadata
SET epoch_number = (SELECT max(epoch_number) FROM registry_epoch),
    revision = (SELECT coalesce(max(revision), 0) FROM registry_instance);

ALTER TABLE registry_instance
    ALTER COLUMN lease_id SET NOT NULL,
    ALTER COLUMN revision SET NOT NULL,
    ALTER COLUMN epoch_number SET NOT NULL;

COMMENT ON COLUMN registry_instance.lease_id IS 'The revision at which this lease was registered: lease, generation and fencing token in one number.';
COMMENT ON COLUMN registry_instance.revision IS 'Revision of the latest durable change of this row. Rows with a revision above what a reader has seen are its feed.';
COMMENT ON COLUMN registry_instance.epoch_number IS 'Number of the epoch it registered in.';
COMMENT ON COLUMN registry_instance.ttl_ms IS 'How long the lease lives after a beat, 2,000 to 300,000 ms. Null: none was asked for, and the caller of the expiry names it (15 s by default).';
COMMENT ON COLUMN registry_instance.port IS 'Port it can be reached at.';
COMMENT ON COLUMN registry_instance.labels IS 'Labels: one flat object of strings.';
COMMENT ON COLUMN registry_instance.version IS 'Version of the software it runs.';
COMMENT ON COLUMN registry_instance.replaces_lease_id IS 'The lease of the same instance id that this one took the place of. Its owner is told so at its next beat.';
COMMENT ON COLUMN registry_instance.death_reason IS 'Why the lease ended: stale, old_epoch, deregistered, replaced or operator. Null: alive, or died before reasons were kept.';
COMMENT ON COLUMN registry_instance.death_deadline IS 'When the lease would have ended without another beat.';
COMMENT ON COLUMN registry_instance.death_decided_by IS 'What declared the death: the daemon, and for whom where it knows (daemon for identity); sql/role for a direct SQL caller.';
COMMENT ON COLUMN registry_instance.owner IS 'The identity that registered it: what a daemon with a policy authenticated, or sql/role for a direct SQL caller. Null: registered through a daemon without a policy.';

CREATE UNIQUE INDEX idx_instance_lease_id ON registry_instance (lease_id);
COMMENT ON INDEX idx_instance_lease_id IS 'Beats are saved by lease id.';

-- Not unique: a unique index on a column that every status change updates would make that change take the key lock,
-- and so wait for every transaction that has asserted the lease.
CREATE INDEX idx_instance_revision ON registry_instance (revision);
COMMENT ON INDEX idx_instance_revision IS 'The feed: rows changed after a revision.';

CREATE INDEX idx_instance_live_epoch ON registry_instance (epoch_number) WHERE status <> 'dead';
COMMENT ON INDEX idx_instance_live_epoch IS 'Instances of older epochs that are not yet written down as dead.';

CREATE INDEX idx_instance_dead_revision ON registry_instance (revision) WHERE status = 'dead';
COMMENT ON INDEX idx_instance_dead_revision IS 'Dead rows in the order of their deaths, for the purge.';

-- An index on last_heartbeat would turn every beat from a HOT update into one that writes to every index of the table.
-- The ancestor had one: no beat could be HOT. Nothing needs it: deadlines are found by a scan as rare as deadlines are.
DROP INDEX IF EXISTS idx_instance_status_heartbeat;

-- The longer index (logical_id, status, cluster_epoch) finds names just as well, and each index costs every
-- registration a tenth of its time.
DROP INDEX IF EXISTS idx_instance_logical_id;

-- A flush touches every row of a page at once: half a page free keeps all of those updates HOT.
ALTER TABLE registry_instance SET (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- registry_daemon: who shares the database ------------------------------------------------------------------------

CREATE TABLE registry_daemon (
    daemon_id  uuid        PRIMARY KEY,
    address    text        NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL,
    last_flush timestamptz NOT NULL,
    host       text        NOT NULL DEFAULT '',
    saved_up_to timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE registry_daemon IS 'The daemons that share this database, one row for each run.';
COMMENT ON COLUMN registry_daemon.daemon_id IS 'One run of one daemon.';
COMMENT ON COLUMN registry_daemon.address IS 'gRPC address it is reached at.';
COMMENT ON COLUMN registry_daemon.host IS 'Name of the machine it runs on: with the address it tells a daemon that was started again from another one.';
COMMENT ON COLUMN registry_daemon.saved_up_to IS 'Every beat that it had heard by then and that could matter is saved. No lease with a later deadline expires: the beat that renews it may not be saved yet.';
COMMENT ON COLUMN registry_daemon.version IS 'Version of musterd it runs.';
COMMENT ON COLUMN registry_daemon.started_at IS 'When it started, by the database clock.';
COMMENT ON COLUMN registry_daemon.last_flush IS 'When it last saved beats, or said that it had none. At most about a second ago while it is well.';

ALTER TABLE registry_daemon SET (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
