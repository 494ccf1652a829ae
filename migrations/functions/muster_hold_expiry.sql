-- muster_hold_expiry: As muster_hold_expiry_for, for a direct SQL caller, and for daemons that do not know the other one.

CREATE OR REPLACE FUNCTION muster_hold_expiry(p_reason text, p_for_ms bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE sql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    SELECT muster_hold_expiry_for(p_reason, p_for_ms, muster_sql_caller());
$$;

COMMENT ON FUNCTION muster_hold_expiry(text, bigint) IS 'Puts expiry on hold for p_for_ms, or for the longest TTL of a live lease and 5 s, for an operator: no lease expires meanwhile.';
REVOKE ALL ON FUNCTION muster_hold_expiry(text, bigint) FROM PUBLIC;
