-- muster_note_disruption: Records the end of a disruption: from now on a lease expires no sooner than its own TTL and
-- grace_ms, so that each can be renewed first. The rate limit is taken off; after the hold it is decided again.
--
-- Returns for how many milliseconds the lease with the longest TTL is held; 0 if no lease is alive. An operator's hold
-- that ends later stays what is shown.

CREATE OR REPLACE FUNCTION muster_note_disruption(p_reason text)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_limits  record;
    v_for_ms  bigint;
    v_now     timestamptz;
    v_until   timestamptz;
BEGIN
    v_cluster := muster_lock_cluster();
    SELECT * INTO v_limits FROM muster_limits();
    SELECT max(coalesce(instance.ttl_ms, v_limits.ttl_default_ms)) + v_limits.grace_ms INTO v_for_ms
    FROM registry_instance AS instance
    WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch;
    IF v_for_ms IS NULL THEN
        RETURN 0;
    END IF;
    v_now := muster_now();
    v_until := v_now + v_for_ms * interval '1 millisecond';
    UPDATE cluster_metadata
    SET disrupted_at = v_now,
        hold_until = greatest(v_until, held_until),
        hold_reason = CASE WHEN held_until > v_until AND hold_reason IS NOT NULL THEN hold_reason ELSE p_reason END,
        silent_since = NULL, brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL
    WHERE id = 1;
    RETURN v_for_ms;
END
$$;

COMMENT ON FUNCTION muster_note_disruption(text) IS 'Records the end of a disruption: from now on a lease expires no sooner than its own TTL and 5 s.';
REVOKE ALL ON FUNCTION muster_note_disruption(text) FROM PUBLIC;
