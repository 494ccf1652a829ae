-- muster_brake: Returns how many leases may expire now, and records how expiry is limited.
--
-- The counts are those of muster_count_leases; muster_brake_mode and muster_window_allowance decide. When protection
-- ends because leases are heard again, that is the end of a disruption: the others have their TTL and grace_ms to follow.
-- The caller holds the cluster row.

CREATE OR REPLACE FUNCTION muster_brake(
    p_cluster cluster_metadata,
    p_now     timestamptz,
    p_live    bigint,
    p_overdue bigint,
    p_settled bigint,
    p_silent  bigint,
    p_heard   bigint
)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_limits    record;
    v_most      boolean := p_overdue > 0 AND p_silent > 1 AND p_silent > p_heard;
    v_silent    timestamptz := CASE WHEN v_most THEN coalesce(least(p_cluster.silent_since, p_now), p_now) END;
    v_new       boolean;
    v_live      bigint;
    v_reaped    bigint;
    v_allowed   bigint;
    v_mode      text;
BEGIN
    SELECT * INTO v_limits FROM muster_limits();
    v_new := coalesce(
        p_cluster.window_at < p_now - v_limits.window_ms * interval '1 millisecond' OR p_cluster.window_at > p_now, true);
    v_live := CASE WHEN v_new THEN p_live ELSE p_cluster.window_live END;
    v_reaped := CASE WHEN v_new THEN 0 ELSE p_cluster.window_reaped END;
    v_allowed := muster_window_allowance(v_live, v_reaped);
    -- Where no daemon ever ran, or an operator has released it, there is none.
    IF p_cluster.released_until > p_now OR NOT EXISTS (SELECT FROM registry_daemon) THEN
        v_silent := NULL;
        v_allowed := 2147483647;
    ELSE
        v_mode := muster_brake_mode(p_live, p_overdue, p_settled, p_silent, p_heard, v_allowed,
                                    coalesce(-muster_ms_until(v_silent, p_now), 0));
        IF p_cluster.brake = 'protect' AND NOT v_most THEN
            PERFORM muster_note_disruption('most instances were silent at once');
            RETURN 0;
        END IF;
        IF v_mode IN ('wait', 'protect') THEN
            v_allowed := 0;
        END IF;
        v_mode := nullif(v_mode, 'wait');
    END IF;
    UPDATE cluster_metadata
    SET brake = v_mode,
        brake_since = CASE
            WHEN v_mode = 'protect' THEN v_silent
            WHEN v_mode IS NOT NULL THEN coalesce(least(brake_since, p_now), p_now)
        END,
        brake_overdue = CASE WHEN v_mode IS NOT NULL THEN p_overdue END,
        brake_live = CASE WHEN v_mode IS NOT NULL THEN p_live END,
        silent_since = v_silent,
        window_at = CASE WHEN v_new THEN p_now ELSE window_at END,
        window_live = v_live,
        window_reaped = v_reaped
    WHERE id = 1;
    RETURN v_allowed;
END
$$;

COMMENT ON FUNCTION muster_brake(cluster_metadata, timestamptz, bigint, bigint, bigint, bigint, bigint) IS 'Returns how many leases may expire now, and records how expiry is limited.';
