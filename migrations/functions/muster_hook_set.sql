-- muster_hook_set: Makes a function of the application a hook, or changes the hook of this name: from now on it runs for each
-- death. p_function is its name with its schema, f(lease_ids bigint[]) returns bigint. Its owner may call muster_dead_leases.
--
-- With the rights of the caller: only the owner of the registry may write registry_hook. Also what an operator calls after a
-- repair, because deaths that have failed are due at once, and in a restored copy of the database.

CREATE OR REPLACE FUNCTION muster_hook_set(
    p_name            text,
    p_function        text,
    p_mode            text DEFAULT 'after',
    p_lock_timeout_ms integer DEFAULT 100
)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal text;
    v_proc    pg_proc;
BEGIN
    IF p_name IS NULL OR p_name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
        RAISE EXCEPTION 'the name of a hook is %', coalesce(quote_literal(p_name), 'null')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Use 1 to 63 letters, digits, "_", "-" and ".".';
    ELSIF p_mode IS NULL OR p_mode NOT IN ('after', 'commit') THEN
        RAISE EXCEPTION 'the mode of hook % is %', p_name, coalesce(quote_literal(p_mode), 'null')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Use ''after'' or ''commit''.';
    ELSIF p_lock_timeout_ms IS NULL OR p_lock_timeout_ms NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'the lock timeout of hook % is % ms', p_name, coalesce(p_lock_timeout_ms::text, 'null')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Use 1 to 10000.';
    END IF;
    v_refusal := muster_hook_refusal(p_function);
    IF v_refusal IS NOT NULL THEN
        RAISE EXCEPTION 'hook %: %', p_name, split_part(v_refusal, '; ', 1)
            USING ERRCODE = muster_error_code('invalid'), HINT = substr(v_refusal, strpos(v_refusal, '; ') + 2);
    END IF;
    SELECT proc.* INTO v_proc FROM pg_proc AS proc WHERE proc.oid = to_regprocedure(p_function || '(bigint[])');
    INSERT INTO registry_hook AS hook (name, function, mode, lock_timeout_ms, enabled, system_id, set_at, set_by)
    VALUES (
        p_name, format('%s.%I', v_proc.pronamespace::regnamespace, v_proc.proname), p_mode, p_lock_timeout_ms, true,
        muster_system_id(), muster_now(), muster_sql_caller()
    )
    ON CONFLICT (name) DO UPDATE SET
        function = excluded.function, mode = excluded.mode, lock_timeout_ms = excluded.lock_timeout_ms, enabled = true,
        system_id = excluded.system_id, set_at = excluded.set_at, set_by = excluded.set_by;
    EXECUTE format('GRANT EXECUTE ON FUNCTION muster_dead_leases(bigint[]) TO %s', v_proc.proowner::regrole);
    UPDATE registry_death SET attempts = 0, next_attempt_at = NULL WHERE released_at IS NULL AND attempts > 0;
    PERFORM muster_audit(
        'hook_set', muster_sql_caller(), p_name,
        jsonb_build_object('function', p_function, 'mode', p_mode, 'lock_timeout_ms', p_lock_timeout_ms), NULL);
END
$$;

COMMENT ON FUNCTION muster_hook_set(text, text, text, integer) IS 'Makes a function of the application a hook, which frees what ended leases held, or changes the hook of this name.';
REVOKE ALL ON FUNCTION muster_hook_set(text, text, text, integer) FROM PUBLIC;
