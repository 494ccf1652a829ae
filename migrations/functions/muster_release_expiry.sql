-- muster_release_expiry: As muster_release_expiry_for, for a direct SQL caller, and for daemons that do not know the other one.

CREATE OR REPLACE FUNCTION muster_release_expiry(p_for_ms bigint)
RETURNS void
LANGUAGE sql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    SELECT muster_release_expiry_for(p_for_ms, muster_sql_caller());
$$;

COMMENT ON FUNCTION muster_release_expiry(bigint) IS 'Ends a hold and lifts the rate limit for p_for_ms, for an operator.';
REVOKE ALL ON FUNCTION muster_release_expiry(bigint) FROM PUBLIC;
