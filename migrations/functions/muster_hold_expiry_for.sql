-- muster_hold_expiry_for: Puts expiry on hold for p_for_ms, or for the longest TTL of a live lease and grace_ms, for an
-- operator: no lease expires meanwhile. p_by is what asked, as muster_audit takes it.
--
-- Returns for how many milliseconds; 0 if no lease is alive and no duration was given. A hold that ends later already
-- stays.

CREATE OR REPLACE FUNCTION muster_hold_expiry_for(p_reason text, p_for_ms bigint, p_by text)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_limits  record;
    v_for_ms  bigint := p_for_ms;
    v_now     timestamptz;
    v_until   timestamptz;
BEGIN
    v_cluster := muster_lock_cluster();
    SELECT * INTO v_limits FROM muster_limits();
    IF v_for_ms IS NULL THEN
        SELECT max(coalesce(instance.ttl_ms, v_limits.ttl_default_ms)) + v_limits.grace_ms INTO v_for_ms
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch;
    END IF;
    IF v_for_ms IS NULL THEN
        RETURN 0;
    END IF;
    v_now := muster_now();
    v_until := v_now + v_for_ms * interval '1 millisecond';
    -- An end that is later than any hold can be comes from a clock that was wrong.
    IF v_cluster.hold_until > v_now + v_limits.hold_max_ms * interval '1 millisecond' THEN
        v_cluster.hold_until := NULL;
        v_cluster.held_until := NULL;
    END IF;
    UPDATE cluster_metadata
    SET held_until = greatest(v_cluster.held_until, v_until),
        hold_until = greatest(v_cluster.hold_until, v_until),
        hold_reason = CASE WHEN v_cluster.hold_until >= v_until THEN hold_reason ELSE p_reason END,
        silent_since = NULL, brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL
    WHERE id = 1;
    PERFORM muster_audit('hold', p_by, 'expiry', jsonb_build_object('for_ms', v_for_ms, 'reason', nullif(p_reason, '')), NULL);
    RETURN v_for_ms;
END
$$;

COMMENT ON FUNCTION muster_hold_expiry_for(text, bigint, text) IS 'Puts expiry on hold for p_for_ms, or for the longest TTL of a live lease and 5 s, for an operator: no lease expires meanwhile.';
REVOKE ALL ON FUNCTION muster_hold_expiry_for(text, bigint, text) FROM PUBLIC;
