-- 014: the cluster row: its lock, its revision, and the epoch.
--
-- Lock order everywhere: advisory lock (rotation and first epoch only), cluster_metadata, then registry_instance rows
-- by lease id.
--
-- Errors that callers can tell apart by SQLSTATE:
--   MU001 no epoch yet          MU002 epoch fenced           MU003 instance id taken      MU004 unknown instance
--   MU005 lease expired         MU006 invalid transition     MU007 epoch mismatch         MU008 epoch reused
--
-- Oldest head: 019.

-- From here on the functions that change something run with the rights of their owner, and PUBLIC may not call them.
-- Roles that could make SeedCore's functions work until now keep that right.
\ir functions/muster_writers.sql
DO $$
DECLARE
    v_writer   regrole;
    v_function regprocedure;
BEGIN
    FOR v_writer IN SELECT muster_writers() LOOP
        FOR v_function IN
            SELECT proc.oid
            FROM pg_proc AS proc
            WHERE proc.pronamespace = quote_ident(current_schema())::regnamespace
              AND proc.proname IN ('beat', 'expire_old_epoch_instances', 'expire_stale_instances', 'register_instance',
                  'set_current_epoch', 'set_instance_status')
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', v_function, v_writer);
        END LOOP;
    END LOOP;
END
$$;

\ir functions/muster_limits.sql
\ir functions/muster_now.sql
\ir functions/muster_deadline.sql
\ir functions/muster_ms_until.sql
\ir functions/muster_error_code.sql
\ir functions/muster_sql_caller.sql
\ir functions/muster_lock_cluster.sql
\ir functions/muster_advance.sql
\ir functions/muster_rotate_epoch.sql
\ir functions/muster_ensure_epoch.sql
\ir functions/set_current_epoch.sql
