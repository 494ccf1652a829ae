-- expire_stale_instances: Declares leases dead that were silent for longer than their TTL, or than p_timeout_seconds
-- where they have none.
--
-- At most 1,000 a call; none while expiry is on hold. Returns the number of deaths.

CREATE OR REPLACE FUNCTION expire_stale_instances(p_timeout_seconds integer DEFAULT 15)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF coalesce(p_timeout_seconds, -1) < 0 THEN
        RAISE EXCEPTION 'p_timeout_seconds is %, it must be 0 or more', p_timeout_seconds
            USING ERRCODE = muster_error_code('invalid');
    END IF;
    RETURN (SELECT reaped FROM muster_reap_stale(p_timeout_seconds * 1000::bigint, 1000, muster_sql_caller()));
END
$$;

COMMENT ON FUNCTION expire_stale_instances(integer) IS 'Declares leases dead that were silent for longer than their TTL, or than p_timeout_seconds where they have none.';
REVOKE ALL ON FUNCTION expire_stale_instances(integer) FROM PUBLIC;
