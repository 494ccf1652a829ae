-- muster_release_expiry_for: Ends a hold and lifts the rate limit for p_for_ms, for an operator. p_by is what asked, as
-- muster_audit takes it.
--
-- A disruption of the registry that follows holds expiry again.

CREATE OR REPLACE FUNCTION muster_release_expiry_for(p_for_ms bigint, p_by text)
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
    PERFORM muster_audit('release', p_by, 'expiry', jsonb_build_object('for_ms', p_for_ms), NULL);
END
$$;

COMMENT ON FUNCTION muster_release_expiry_for(bigint, text) IS 'Ends a hold and lifts the rate limit for p_for_ms, for an operator.';
REVOKE ALL ON FUNCTION muster_release_expiry_for(bigint, text) FROM PUBLIC;
