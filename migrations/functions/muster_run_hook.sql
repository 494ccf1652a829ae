-- muster_run_hook: Runs one hook for leases, in a subtransaction. Returns the number of rows that it freed; or why it failed,
-- in which case nothing of what it did remains.
--
-- A statement_timeout of the caller ends the hook, not the caller's transaction.

CREATE OR REPLACE FUNCTION muster_run_hook(p_hook registry_hook, p_lease_ids bigint[], OUT freed bigint, OUT failure text)
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_path    text := current_setting('search_path');
    v_wait    text := current_setting('lock_timeout');
    v_call    text;
    v_version text;
    v_traces  text;
    v_state   text;
BEGIN
    failure := muster_hook_refusal(p_hook.function);
    IF failure IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT format('SELECT %s.%I($1)', proc.pronamespace::regnamespace, proc.proname), format('%s %s', proc.oid, proc.xmin)
    INTO v_call, v_version
    FROM pg_proc AS proc
    WHERE proc.oid = to_regprocedure(p_hook.function || '(bigint[])');
    BEGIN
        PERFORM set_config('lock_timeout', p_hook.lock_timeout_ms || 'ms', true);
        v_traces := muster_session_traces();
        EXECUTE v_call INTO freed USING p_lease_ids;
        -- Qualified, because nothing else is found by name until this is known.
        IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.<>) v_path THEN
            RAISE EXCEPTION 'the function has changed the search path of the session'
                USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        IF muster_session_traces() <> v_traces THEN
            RAISE EXCEPTION 'the function has left settings, statements, cursors, channels or temporary objects in the session'
                USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        -- It may have been replaced between the check and the call.
        IF v_version IS DISTINCT FROM (
            SELECT format('%s %s', proc.oid, proc.xmin)
            FROM pg_proc AS proc
            WHERE proc.oid = to_regprocedure(p_hook.function || '(bigint[])')
        ) THEN
            RAISE EXCEPTION 'the function was replaced while it ran' USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        failure := muster_hook_refusal(p_hook.function);
        IF failure IS NOT NULL THEN
            RAISE EXCEPTION '%', failure USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        IF freed IS NULL OR freed < 0 THEN
            RAISE EXCEPTION 'the function has returned % instead of the number of rows freed', coalesce(freed::text, 'null')
                USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        PERFORM set_config('lock_timeout', v_wait, true);
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        GET STACKED DIAGNOSTICS failure = MESSAGE_TEXT, v_state = RETURNED_SQLSTATE;
        failure := format('%s (%s)', failure, v_state);
        freed := NULL;
    END;
END
$$;

COMMENT ON FUNCTION muster_run_hook(registry_hook, bigint[]) IS 'Runs one hook for leases, in a subtransaction, and returns the number of rows that it freed, or why it failed.';
REVOKE ALL ON FUNCTION muster_run_hook(registry_hook, bigint[]) FROM PUBLIC;
