-- 022: the record of decisions: what operators, migrations and refusals did, which no other table keeps.
--
-- A decision is recorded in the transaction of the act. A refusal has none of its own, so that daemons write it apart, and
-- counted. Registrations and beats are not decisions: registry_death and the revisions hold those.
--
-- Oldest head: 019.

CREATE TABLE registry_audit (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL,
    action   text        NOT NULL,
    by_role  text        NOT NULL,
    by       text        NOT NULL,
    object   text        NOT NULL,
    detail   jsonb       NOT NULL,
    revision bigint,
    period   timestamptz
);

COMMENT ON TABLE registry_audit IS 'Decisions, a row each. Written by functions alone; kept for --keep-audit.';
COMMENT ON COLUMN registry_audit.id IS 'In the order of recording.';
COMMENT ON COLUMN registry_audit.at IS 'When, by the database clock. Of a row that counts: the first time.';
COMMENT ON COLUMN registry_audit.action IS 'What: rotate, hold, release, expire, deregister, set_status, purge, hook_set, hook_remove, migrate_up, migrate_adopt, migrate_eject, migrate_return, migrate_repair, reload or denied.';
COMMENT ON COLUMN registry_audit.by_role IS 'The role of the session.';
COMMENT ON COLUMN registry_audit.by IS 'The identity that asked a daemon; without a policy the daemon; sql/ROLE for a direct SQL caller. Empty: a caller that is not known.';
COMMENT ON COLUMN registry_audit.object IS 'Of what: an epoch, an instance, a hook, a migration, a table, a set of files, or the method that was denied.';
COMMENT ON COLUMN registry_audit.detail IS 'What else is known. daemon: through which daemon. count: how often in the period, of a row that counts.';
COMMENT ON COLUMN registry_audit.revision IS 'The revision that it made. Null: it made none.';
COMMENT ON COLUMN registry_audit.period IS 'Of a row that counts: the minute or the hour for which it does. Null: the row stands for one decision.';

CREATE UNIQUE INDEX idx_audit_period ON registry_audit (period, action, by, object, by_role) WHERE period IS NOT NULL;
COMMENT ON INDEX idx_audit_period IS 'One row for each period, identity and object, however many daemons count.';

CREATE INDEX idx_audit_at ON registry_audit (at);
COMMENT ON INDEX idx_audit_at IS 'For the purge.';

\ir functions/muster_audit.sql
\ir functions/muster_audit_counted.sql
\ir functions/muster_audit_note.sql
\ir functions/muster_purge_audit.sql

\ir functions/muster_rotate_epoch_for.sql
\ir functions/muster_rotate_epoch.sql
\ir functions/muster_stamp_epoch.sql
\ir functions/muster_hold_expiry_for.sql
\ir functions/muster_hold_expiry.sql
\ir functions/muster_release_expiry_for.sql
\ir functions/muster_release_expiry.sql
\ir functions/muster_apply_status.sql
\ir functions/muster_purge_dead.sql
\ir functions/muster_purge_deaths.sql
\ir functions/muster_hook_set.sql
\ir functions/muster_hook_remove.sql
