-- muster_reap_stale: Declares leases dead that were silent for longer than their TTL: counts, asks the brake, reaps,
-- reports.
--
-- Limits: p_limit leases, the number that muster_brake allows, deadlines up to which every daemon has saved its beats,
-- an operator's hold, and the time that each lease has after a disruption (muster_heard_as_of). A row without a TTL of
-- its own has p_default_ttl_ms. p_expected_now is what the caller expects the database clock to show. Returns the number
-- of deaths; the milliseconds until a lease can expire (negative: overdue; null: no lease is alive); for how long and why
-- expiry is on hold; the brake; and the database clock. Takes no lock if no lease is overdue.

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
    v_cluster  cluster_metadata;
    v_count    record;
    v_now      timestamptz := muster_now();
    v_as_of    timestamptz;
    v_stalled  timestamptz;
    v_horizon  timestamptz;
    v_died     bigint;
    v_budget   integer;
    v_after    interval := (SELECT stalled_after_ms FROM muster_limits()) * interval '1 millisecond';
BEGIN
    reaped := 0;
    PERFORM muster_notice_disruption(v_now, p_expected_now, p_tolerance_ms);
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    v_as_of := muster_heard_as_of(v_now, v_cluster.hold_until, v_cluster.disrupted_at);
    SELECT * INTO v_count
    FROM muster_count_leases(v_cluster.current_epoch, v_now, muster_saved_horizon(v_now), v_as_of, p_default_ttl_ms);
    IF v_count.future > 0 THEN
        PERFORM muster_repair_beats(v_now, p_limit);
    END IF;
    SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - v_after;

    -- The brake comes off even if no lease is overdue any more.
    IF v_count.overdue > 0 OR v_cluster.brake IS NOT NULL OR v_cluster.silent_since IS NOT NULL THEN
        -- Under the lock, because a hold or a rotation may have come in between.
        v_cluster := muster_lock_cluster();
        v_now := muster_now();
        SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - v_after;
        v_as_of := muster_heard_as_of(v_now, v_cluster.hold_until, v_cluster.disrupted_at);
        v_horizon := muster_saved_horizon(v_now);
        IF v_stalled IS NULL AND NOT coalesce(v_cluster.held_until > v_now AND v_cluster.hold_until > v_now, false) THEN
            -- Leases that another daemon has declared dead since they were counted are overdue no more, and must not
            -- be held against the window twice.
            v_died := v_cluster.window_reaped
                - CASE WHEN v_cluster.window_at = v_count.window_at THEN v_count.window_reaped ELSE 0 END;
            v_budget := muster_brake(
                v_cluster, v_now, v_count.live - v_died, greatest(v_count.overdue - v_died, 0),
                greatest(v_count.settled - v_died, 0), greatest(v_count.silent - v_died, 0), v_count.heard);
            reaped := muster_reap_rows(
                v_cluster, v_now, v_horizon, v_as_of, p_default_ttl_ms, least(p_limit, v_budget), p_decided_by);
            UPDATE cluster_metadata SET window_reaped = window_reaped + reaped WHERE id = 1
            RETURNING * INTO v_cluster;
        END IF;
    END IF;

    SELECT * INTO next_in_ms, held_for_ms, hold_reason
    FROM muster_expiry_report(
        v_now, v_count.next_deadline, v_cluster.held_until, v_cluster.hold_until, v_cluster.hold_reason, v_stalled);
    brake := v_cluster.brake;
    read_at := v_now;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION muster_reap_stale(bigint, integer, text, timestamptz, bigint) IS 'Declares leases dead that were silent for longer than their TTL.';
REVOKE ALL ON FUNCTION muster_reap_stale(bigint, integer, text, timestamptz, bigint) FROM PUBLIC;
