-- 019: who may change what.
--
-- Up to here every function runs with the rights of its caller. A daemon then needs to update and delete any row of any
-- table, and whoever gets hold of its password can empty the registry. From here on the functions that change something
-- run with the rights of their owner (SECURITY DEFINER), so that the right to call one is all that a daemon, a SQL caller
-- or an application needs, and all that it can do is what the function does. deploy/roles.sql hands those rights out.
--
-- Such a function must not be led astray by its caller. Each has its search path pinned to this schema with pg_temp last,
-- and none can be called by just anybody: PostgreSQL lets everybody call a new function, which is taken back here.

DO $$
DECLARE
    -- What daemons call.
    v_daemon constant text[] := ARRAY[
        'muster_apply', 'muster_confirm_history', 'muster_daemon_started', 'muster_daemon_stopped', 'muster_ensure_epoch',
        'muster_exchange_suspicions', 'muster_flush_beats', 'muster_hold_expiry', 'muster_purge_dead',
        'muster_reap_old_epoch', 'muster_reap_stale', 'muster_release_expiry', 'muster_rotate_epoch'];
    -- What others call with SQL.
    v_callers constant text[] := ARRAY[
        'assert_lease', 'beat', 'expire_old_epoch_instances', 'expire_stale_instances', 'register_instance',
        'set_current_epoch', 'set_instance_status'];
    -- What the triggers run, on behalf of whoever writes to the tables by hand.
    v_triggers constant text[] := ARRAY[
        'muster_break_history', 'muster_note_deletion', 'muster_stamp_epoch', 'muster_stamp_row'];
    v_function record;
    v_writer   regrole;
BEGIN
    FOR v_function IN
        SELECT proc.oid::regprocedure AS signature, proc.proname = ANY (v_callers) AS is_for_callers
        FROM pg_proc AS proc
        WHERE proc.pronamespace = quote_ident(current_schema())::regnamespace
          AND proc.proname = ANY (v_daemon || v_callers || v_triggers)
    LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER', v_function.signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function.signature);
        -- Whoever could write to the table could make the functions work until now, and still can.
        FOR v_writer IN
            SELECT DISTINCT acl.grantee::regrole
            FROM pg_class AS class
            CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
            WHERE v_function.is_for_callers
              AND class.oid = 'registry_instance'::regclass
              AND acl.privilege_type = 'UPDATE'
              AND acl.grantee NOT IN (0, class.relowner)
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', v_function.signature, v_writer);
        END LOOP;
    END LOOP;
END
$$;
