-- muster_hold_expiry: Suspends expiry for p_for_ms, or for the longest TTL of a live lease plus 5 s, so that each of
-- them can be renewed first.
--
-- Returns for how many milliseconds; 0 if no lease is alive and no duration was given. A hold that ends later already
-- stays.

CREATE OR REPLACE FUNCTION muster_hold_expiry(p_reason text, p_for_ms bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_for_ms  bigint := p_for_ms;
    v_until   timestamptz;
BEGIN
    v_cluster := muster_lock_cluster();
    IF v_for_ms IS NULL THEN
        SELECT max(coalesce(instance.ttl_ms, 15000)) + 5000 INTO v_for_ms
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch;
    END IF;
    IF v_for_ms IS NULL THEN
        RETURN 0;
    END IF;
    v_until := muster_now() + v_for_ms * interval '1 millisecond';
    -- An end that is absurdly late comes from a clock that was wrong; an operator's longest hold is an hour.
    IF coalesce(v_cluster.hold_until < v_until OR v_cluster.hold_until > muster_now() + interval '1 hour', true) THEN
        -- While nobody is judged there is no brake. After the hold it looks anew, with all of its minutes.
        UPDATE cluster_metadata
        SET hold_until = v_until, hold_reason = p_reason,
            brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL
        WHERE id = 1;
    END IF;
    RETURN v_for_ms;
END
$$;

COMMENT ON FUNCTION muster_hold_expiry(text, bigint) IS 'Suspends expiry for p_for_ms, or for the longest TTL of a live lease plus 5 s, so that each of them can be renewed first.';
REVOKE ALL ON FUNCTION muster_hold_expiry(text, bigint) FROM PUBLIC;
