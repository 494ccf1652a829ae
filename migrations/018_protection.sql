-- 018: when leases must not expire, and what else has to be noticed: hold, brake, daemons, failover; and what other
-- programs can rely on: asserted leases, and the instances that were alive at a time.
--
-- An outage of the registry must not expire instances. Expiry is on *hold* while beats may not have arrived, and limited
-- by the *brake* when so many leases are silent at once that a network fault is more likely than as many crashes.
--
-- Oldest head: 019.

-- Lost daemons ---------------------------------------------------------------------------------------------------

CREATE TABLE registry_daemon_loss (
    daemon_id  uuid        PRIMARY KEY,
    address    text        NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL,
    last_flush timestamptz NOT NULL,
    lost_at    timestamptz NOT NULL
);

COMMENT ON TABLE registry_daemon_loss IS 'Daemons that were evicted because they had not saved beats for 15 s, for an hour: every daemon reports the loss, after a restart too.';
COMMENT ON COLUMN registry_daemon_loss.daemon_id IS 'The run of the daemon.';
COMMENT ON COLUMN registry_daemon_loss.address IS 'gRPC address it was reached at. The loss is forgotten when another daemon serves it.';
COMMENT ON COLUMN registry_daemon_loss.version IS 'Version of musterd it ran.';
COMMENT ON COLUMN registry_daemon_loss.started_at IS 'When it had started, by the database clock.';
COMMENT ON COLUMN registry_daemon_loss.last_flush IS 'When it last saved beats.';
COMMENT ON COLUMN registry_daemon_loss.lost_at IS 'When it was evicted.';

-- Hold -----------------------------------------------------------------------------------------------------------

\ir functions/muster_hold_expiry.sql
\ir functions/muster_note_disruption.sql
\ir functions/muster_release_expiry.sql
\ir functions/muster_notice_disruption.sql

-- Brake ----------------------------------------------------------------------------------------------------------

\ir functions/muster_window_allowance.sql
\ir functions/muster_brake_mode.sql
\ir functions/muster_brake.sql

-- Daemons --------------------------------------------------------------------------------------------------------

\ir functions/muster_daemon_started.sql
\ir functions/muster_daemon_stopped.sql

-- Failover and restored copies -----------------------------------------------------------------------------------

-- An engine without these functions has no history to tell apart this way: there they answer null, which equals
-- nothing and differs from nothing.
DO $$
BEGIN
    PERFORM pg_walfile_name(pg_current_wal_lsn()), system_identifier FROM pg_control_system();
    EXECUTE $definition$
        CREATE FUNCTION muster_timeline() RETURNS text LANGUAGE sql VOLATILE
        AS 'SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)';
        CREATE FUNCTION muster_system_id() RETURNS text LANGUAGE sql VOLATILE
        AS 'SELECT system_identifier::text FROM pg_control_system()';
    $definition$;
EXCEPTION WHEN undefined_function OR insufficient_privilege OR feature_not_supported THEN
    EXECUTE $definition$
        CREATE FUNCTION muster_timeline() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT NULL::text';
        CREATE FUNCTION muster_system_id() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT NULL::text';
    $definition$;
END
$$;

COMMENT ON FUNCTION muster_timeline() IS 'Timeline of the write-ahead log: changes with every failover and recovery. Null where the engine does not tell.';
COMMENT ON FUNCTION muster_system_id() IS 'Identifies the PostgreSQL cluster: differs in a copy restored from a dump. Null where the engine does not tell.';

\ir functions/muster_same_database.sql
\ir functions/muster_new_history.sql
\ir functions/muster_confirm_history.sql

-- What others can rely on ----------------------------------------------------------------------------------------

\ir functions/assert_lease.sql
\ir functions/alive_at.sql
