-- 019: the right to call what only callers of the application need.
--
-- Each function that changes something runs with the rights of its owner (SECURITY DEFINER), so that the right to call it
-- is all that a daemon, a SQL caller or an application needs. Its file pins its search path, with pg_temp last, and takes
-- the right to call it from PUBLIC. deploy/roles.sql hands those rights out; existing writers receive them here and in 014.
--
-- Oldest head: 019.

DO $$
DECLARE
    v_writer regrole;
BEGIN
    FOR v_writer IN SELECT muster_writers() LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION assert_lease(bigint) TO %s', v_writer);
    END LOOP;
END
$$;
