-- 017: saving beats, expiry, purge: what daemons call in the background. What holds expiry back stands in 018.
--
-- Any number of daemons may call these at the same time. Each decides by the database clock, works on a bounded batch,
-- and re-checks on the row it locks what it read before.
--
-- Oldest head: 019.

\ir functions/muster_flush_beats.sql

CREATE TABLE registry_suspicion (
    lease_id     bigint      PRIMARY KEY,
    suspected_at timestamptz NOT NULL
);

COMMENT ON TABLE registry_suspicion IS 'Leases that a daemon has lost contact with: its hint to the others, which would not notice before the TTL has passed. No lease expires because of it.';
COMMENT ON COLUMN registry_suspicion.lease_id IS 'The lease.';
COMMENT ON COLUMN registry_suspicion.suspected_at IS 'When the daemon that lost contact had last heard of it.';

ALTER TABLE registry_suspicion SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

\ir functions/muster_exchange_suspicions.sql
\ir functions/muster_saved_horizon.sql
\ir functions/muster_heard_as_of.sql
\ir functions/muster_may_expire.sql
\ir functions/muster_count_leases.sql
\ir functions/muster_repair_beats.sql
\ir functions/muster_expiry_report.sql
\ir functions/muster_reap_stale.sql
\ir functions/muster_reap_rows.sql
\ir functions/muster_reap_old_epoch.sql
\ir functions/muster_purge_dead.sql

-- The callers of these two share the rule, the hold and the bound of the daemons.

\ir functions/expire_stale_instances.sql
\ir functions/expire_old_epoch_instances.sql
