-- 020: deaths release what the dead held: a record of each ended lease, and functions of the application that free its rows.
--
-- The record is written in the transaction of the death. Freeing is a matter of the application's tables, whose locks must
-- not delay the registry, so that it runs afterwards (muster_release_deaths), or in that transaction only if it is short.
--
-- Oldest head: 019.

CREATE TABLE registry_death (
    lease_id        bigint      PRIMARY KEY,
    revision        bigint      NOT NULL,
    instance_id     uuid        NOT NULL,
    logical_id      text        NOT NULL,
    actor_name      text,
    node_id         text,
    epoch_number    bigint      NOT NULL,
    started_at      timestamptz NOT NULL,
    died_at         timestamptz NOT NULL,
    reason          text        NOT NULL,
    decided_by      text,
    owner           text,
    released_at     timestamptz,
    freed           bigint,
    hooks_done      text[]      NOT NULL DEFAULT '{}',
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error      text
);

COMMENT ON TABLE registry_death IS 'One row for each lease that has ended: the history of leases, and what hooks still have to free.';
COMMENT ON COLUMN registry_death.lease_id IS 'The lease.';
COMMENT ON COLUMN registry_death.revision IS 'The revision at which it ended.';
COMMENT ON COLUMN registry_death.instance_id IS 'The instance that held it.';
COMMENT ON COLUMN registry_death.logical_id IS 'Its logical id.';
COMMENT ON COLUMN registry_death.actor_name IS 'Its actor name. A successor may carry the same one.';
COMMENT ON COLUMN registry_death.node_id IS 'The node that it ran on.';
COMMENT ON COLUMN registry_death.epoch_number IS 'Number of the epoch that it was registered in.';
COMMENT ON COLUMN registry_death.started_at IS 'When the lease was registered.';
COMMENT ON COLUMN registry_death.died_at IS 'When it ended.';
COMMENT ON COLUMN registry_death.reason IS 'Why: stale, old_epoch, deregistered, replaced or operator.';
COMMENT ON COLUMN registry_death.decided_by IS 'What declared it: the daemon, and the identity that asked it, if one did; sql/role for a direct SQL caller. Null: a registration took the place of a lease of an older epoch.';
COMMENT ON COLUMN registry_death.owner IS 'The identity that registered it. Null: registered through a daemon without a policy.';
COMMENT ON COLUMN registry_death.released_at IS 'When all hooks had run; without a hook, when it died. Null: a hook has not succeeded yet.';
COMMENT ON COLUMN registry_death.freed IS 'Rows that hooks have freed for the batch that this death was in, counted at its first lease. Null: no hook has run.';
COMMENT ON COLUMN registry_death.hooks_done IS 'The hooks that have succeeded.';
COMMENT ON COLUMN registry_death.attempts IS 'How many runs of hooks have failed.';
COMMENT ON COLUMN registry_death.next_attempt_at IS 'No hook runs for it before. Null: at once.';
COMMENT ON COLUMN registry_death.last_error IS 'Which hook failed last, and why.';

CREATE INDEX idx_death_unreleased ON registry_death (attempts, lease_id) WHERE released_at IS NULL;
COMMENT ON INDEX idx_death_unreleased IS 'Deaths that hooks have to run for, those that have not failed yet first.';

CREATE INDEX idx_death_instance ON registry_death (instance_id);
COMMENT ON INDEX idx_death_instance IS 'The earlier leases of an instance.';

CREATE INDEX idx_death_logical_id ON registry_death (logical_id, died_at);
COMMENT ON INDEX idx_death_logical_id IS 'The ended leases of a logical id, by time.';

CREATE INDEX idx_death_died_at ON registry_death (died_at);
COMMENT ON INDEX idx_death_died_at IS 'For the purge.';

ALTER TABLE registry_death SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

CREATE TABLE registry_hook (
    name            text        PRIMARY KEY,
    function        text        NOT NULL,
    mode            text        NOT NULL DEFAULT 'after',
    lock_timeout_ms integer     NOT NULL DEFAULT 100,
    enabled         boolean     NOT NULL DEFAULT true,
    system_id       text,
    set_at          timestamptz NOT NULL,
    set_by          text        NOT NULL,
    CONSTRAINT registry_hook_mode_check CHECK (mode IN ('after', 'commit')),
    CONSTRAINT registry_hook_lock_timeout_check CHECK (lock_timeout_ms BETWEEN 1 AND 10000)
);

COMMENT ON TABLE registry_hook IS 'Functions of the application that free what ended leases held. Set by muster_hook_set, which checks them.';
COMMENT ON COLUMN registry_hook.name IS 'Its name.';
-- Text: a column of type regprocedure would keep pg_upgrade from upgrading the database.
COMMENT ON COLUMN registry_hook.function IS 'The function, with its schema: f(lease_ids bigint[]) returns bigint, the number of rows freed.';
COMMENT ON COLUMN registry_hook.mode IS 'after: in a transaction of its own, right after the death. commit: in the transaction of the death, if that has a statement_timeout of at most 1 s; otherwise, and if it fails, after.';
COMMENT ON COLUMN registry_hook.lock_timeout_ms IS 'How long the function may wait for a lock.';
COMMENT ON COLUMN registry_hook.enabled IS 'False: deaths wait for it.';
COMMENT ON COLUMN registry_hook.system_id IS 'The PostgreSQL cluster in which it was set. In another one, a restored copy, deaths wait until muster_hook_set is called again.';
COMMENT ON COLUMN registry_hook.set_at IS 'When it was set.';
COMMENT ON COLUMN registry_hook.set_by IS 'By which role.';

\ir functions/muster_record_death.sql

-- On the row, because a statement-level trigger with transition tables would collect every beat as well.
CREATE TRIGGER registry_instance_died
AFTER UPDATE OF status, lease_id ON registry_instance
FOR EACH ROW
WHEN (OLD.status <> 'dead' AND (NEW.status = 'dead' OR NEW.lease_id <> OLD.lease_id))
EXECUTE FUNCTION muster_record_death();

COMMENT ON TRIGGER registry_instance_died ON registry_instance IS 'Every death is recorded, whatever declared it.';

\ir functions/muster_note_deletion.sql
\ir functions/muster_dead_leases.sql
\ir functions/muster_hook_refusal.sql
\ir functions/muster_session_traces.sql
\ir functions/muster_run_hook.sql
\ir functions/muster_run_hooks.sql
\ir functions/muster_release_batch.sql
\ir functions/muster_release_deaths.sql
\ir functions/muster_release_at_commit.sql

CREATE TRIGGER registry_instance_died_commit
AFTER UPDATE OF status ON registry_instance
FOR EACH STATEMENT
EXECUTE FUNCTION muster_release_at_commit();

COMMENT ON TRIGGER registry_instance_died_commit ON registry_instance IS 'Runs the hooks of mode commit for the deaths of the statement.';

\ir functions/muster_release_state.sql
\ir functions/muster_hook_set.sql
\ir functions/muster_hook_remove.sql
\ir functions/muster_purge_deaths.sql
\ir functions/alive_at.sql
