-- muster_release_expiry: Ends a hold and lifts the rate limit for p_for_ms, for an operator.
--
-- A disruption of the registry that follows holds expiry again.

CREATE OR REPLACE FUNCTION muster_release_expiry(p_for_ms bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM muster_lock_cluster();
    UPDATE cluster_metadata
    SET hold_until = NULL, held_until = NULL, hold_reason = NULL, disrupted_at = NULL, silent_since = NULL,
        brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL,
        released_until = muster_now() + p_for_ms * interval '1 millisecond'
    WHERE id = 1;
END
$$;

COMMENT ON FUNCTION muster_release_expiry(bigint) IS 'Ends a hold and lifts the rate limit for p_for_ms, for an operator.';
REVOKE ALL ON FUNCTION muster_release_expiry(bigint) FROM PUBLIC;
