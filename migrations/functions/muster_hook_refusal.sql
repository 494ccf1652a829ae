-- muster_hook_refusal: Why a function cannot be a hook, with what to do; null if it can.
--
-- A hook is called with the rights of the registry's owner, so whatever may replace it would have them: it must run with the
-- rights of its own owner (SECURITY DEFINER), which is neither that role nor a superuser, and find its objects by a search
-- path of its own. Up to PostgreSQL 17 a deferred trigger runs at commit, with the rights of the session: no table that the
-- owner of the hook may write may have one.

CREATE OR REPLACE FUNCTION muster_hook_refusal(p_function text)
RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_proc     pg_proc;
    v_registry oid := (SELECT relowner FROM pg_class WHERE oid = 'registry_death'::regclass);
    v_path     text;
    v_deferred text;
BEGIN
    SELECT proc.* INTO v_proc FROM pg_proc AS proc WHERE proc.oid = to_regprocedure(p_function || '(bigint[])');
    IF NOT FOUND THEN
        RETURN format('function %s(bigint[]) does not exist; create it, and name it with its schema', p_function);
    ELSIF v_proc.prokind <> 'f' OR v_proc.proretset OR v_proc.prorettype <> 'bigint'::regtype THEN
        RETURN format('function %s does not return bigint; return the number of rows freed', p_function);
    ELSIF NOT v_proc.prosecdef THEN
        RETURN format('function %s is not SECURITY DEFINER; ALTER FUNCTION %1$s(bigint[]) SECURITY DEFINER', p_function);
    ELSIF pg_has_role(v_proc.proowner, v_registry, 'MEMBER') THEN
        RETURN format('function %s belongs to %s, which has the rights of the owner of the registry; give it to a role of the application',
            p_function, v_proc.proowner::regrole);
    ELSIF NOT has_function_privilege(v_registry, v_proc.oid, 'EXECUTE')
        OR NOT has_schema_privilege(v_registry, v_proc.pronamespace, 'USAGE')
    THEN
        RETURN format('%s may not call function %s; GRANT EXECUTE on it, and USAGE on its schema', v_registry::regrole, p_function);
    END IF;
    SELECT substr(setting, length('search_path=') + 1) INTO v_path
    FROM unnest(v_proc.proconfig) AS setting
    WHERE setting LIKE 'search\_path=%';
    IF v_path IS NULL OR v_path !~ '(^|, ?)("pg_temp"|pg_temp)$' OR v_path ~ '\$user' THEN
        RETURN format('function %s has no fixed search path that ends with pg_temp; ALTER FUNCTION %1$s(bigint[]) SET search_path = ..., pg_temp',
            p_function);
    END IF;
    IF current_setting('server_version_num')::integer < 180000 THEN
        SELECT format('%s on %s', trg.tgname, trg.tgrelid::regclass) INTO v_deferred
        FROM pg_trigger AS trg
        WHERE trg.tgdeferrable AND NOT trg.tgisinternal
          AND has_table_privilege(v_proc.proowner, trg.tgrelid, 'INSERT, UPDATE, DELETE')
        LIMIT 1;
        IF v_deferred IS NOT NULL THEN
            RETURN format('the owner of function %s may write to a table with the deferrable trigger %s, which would run with other rights; make the trigger NOT DEFERRABLE, or take the right away',
                p_function, v_deferred);
        END IF;
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION muster_hook_refusal(text) IS 'Why a function cannot be a hook, with what to do; null if it can.';
