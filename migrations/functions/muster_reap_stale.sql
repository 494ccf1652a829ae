-- muster_reap_stale: Declares leases dead that were silent for longer than their TTL.
--
-- Limits: p_limit leases, the number that muster_brake allows, deadlines up to which every daemon has saved its beats,
-- and no hold. A row without a TTL of its own has p_default_ttl_ms. p_expected_now is what the caller expects the
-- database clock to show. Returns the number of deaths; the milliseconds until the earliest deadline (negative:
-- overdue; null: no lease is alive); for how long and why expiry is held; the brake; and the database clock. Takes no
-- lock if no lease is overdue.

CREATE OR REPLACE FUNCTION muster_reap_stale(
    p_default_ttl_ms bigint,
    p_limit          integer,
    p_decided_by     text,
    p_expected_now   timestamptz DEFAULT NULL,
    p_tolerance_ms   bigint DEFAULT 1000
)
RETURNS TABLE (
    reaped      integer,
    next_in_ms  bigint,
    held_for_ms bigint,
    hold_reason text,
    brake       text,
    read_at     timestamptz
)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    v_cluster cluster_metadata;
    v_now     timestamptz := muster_now();
    v_next    timestamptz;
    v_live    bigint;
    v_overdue bigint;
    v_window  timestamptz;
    v_before  bigint;
    v_died    bigint;
    v_horizon timestamptz;
    v_future  bigint;
    v_stalled timestamptz;
    v_budget  integer;
BEGIN
    reaped := 0;
    PERFORM muster_notice_disruption(v_now, p_expected_now, p_tolerance_ms);
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    v_horizon := muster_saved_horizon(v_now);
    -- One statement, one moment: the window of the brake as it is in what is counted.
    SELECT min(deadline), count(*), count(*) FILTER (WHERE deadline < v_horizon), count(*) FILTER (WHERE is_future),
           (SELECT window_at FROM cluster_metadata WHERE id = 1),
           (SELECT window_reaped FROM cluster_metadata WHERE id = 1)
    INTO v_next, v_live, v_overdue, v_future, v_window, v_before
    FROM (
        SELECT muster_deadline(instance.last_heartbeat, coalesce(instance.ttl_ms, p_default_ttl_ms)) AS deadline,
               instance.last_heartbeat > v_now + interval '1 minute' AS is_future
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch
    ) AS deadlines;

    -- No clock has stamped such a beat, and its lease would never end: it counts as a beat of now.
    IF v_future > 0 THEN
        UPDATE registry_instance SET last_heartbeat = v_now
        WHERE instance_id IN (
            SELECT instance_id FROM registry_instance
            WHERE status <> 'dead' AND last_heartbeat > v_now + interval '1 minute'
            ORDER BY lease_id
            LIMIT p_limit
            FOR NO KEY UPDATE SKIP LOCKED
        );
    END IF;

    -- A daemon that has not said for 3 s that it is well may have beats on the way. After 15 s it is given up.
    SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - interval '3 seconds';

    -- The brake comes off even if nobody is left who is overdue.
    IF v_overdue > 0 OR v_cluster.brake IS NOT NULL THEN
        -- Under the lock, because a hold or a rotation may have come in between.
        v_cluster := muster_lock_cluster();
        v_now := muster_now();
        SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - interval '3 seconds';
        v_horizon := muster_saved_horizon(v_now);
        IF v_stalled IS NULL AND coalesce(v_cluster.hold_until, v_now) <= v_now THEN
            -- Whom another daemon has declared dead since they were counted is overdue no more, and must not be held
            -- against the window twice.
            v_died := v_cluster.window_reaped - CASE WHEN v_cluster.window_at = v_window THEN v_before ELSE 0 END;
            v_budget := muster_brake(v_cluster, v_now, v_live - v_died, greatest(v_overdue - v_died, 0));
            reaped := muster_reap_rows(v_cluster, v_now, v_horizon, p_default_ttl_ms, least(p_limit, v_budget), p_decided_by);
            UPDATE cluster_metadata SET window_reaped = window_reaped + reaped WHERE id = 1
            RETURNING * INTO v_cluster;
        END IF;
    END IF;

    IF v_stalled IS NOT NULL AND coalesce(v_cluster.hold_until, v_now) <= v_now THEN
        v_cluster.hold_until := greatest(v_stalled + interval '15 seconds', v_now + interval '100 milliseconds');
        v_cluster.hold_reason := 'a daemon has stopped saving beats';
    END IF;
    next_in_ms := muster_ms_until(v_next, v_now);
    IF v_cluster.hold_until > v_now THEN
        held_for_ms := greatest(muster_ms_until(v_cluster.hold_until, v_now), 1);
        hold_reason := v_cluster.hold_reason;
    END IF;
    brake := v_cluster.brake;
    read_at := v_now;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION muster_reap_stale(bigint, integer, text, timestamptz, bigint) IS 'Declares leases dead that were silent for longer than their TTL.';
REVOKE ALL ON FUNCTION muster_reap_stale(bigint, integer, text, timestamptz, bigint) FROM PUBLIC;
