-- muster_brake: Returns how many of p_overdue leases may be declared dead now.
--
-- Window of 15 s: at most max(10, 15 % of the live leases). A call with fewer overdue leases is not limited; with more,
-- deaths are paced. If more than half of the live leases, and more than 10, are overdue, none may die until the share
-- falls, an operator releases expiry, or 10 minutes have passed. The caller holds the cluster row.

CREATE OR REPLACE FUNCTION muster_brake(p_cluster cluster_metadata, p_now timestamptz, p_live bigint, p_overdue bigint)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_brake   text;
    v_most    boolean := p_overdue * 2 > p_live AND p_overdue > 10;
    v_before  boolean := coalesce(p_cluster.brake_overdue * 2 > p_cluster.brake_live AND p_cluster.brake_overdue > 10, false);
    -- The minutes of protection count from when it was needed: deaths may have been paced for long before.
    v_since   timestamptz := CASE WHEN v_most AND NOT v_before THEN p_now ELSE least(p_cluster.brake_since, p_now) END;
    v_new     boolean := coalesce(p_cluster.window_at < p_now - interval '15 seconds' OR p_cluster.window_at > p_now, true);
    v_live    bigint := CASE WHEN v_new THEN p_live ELSE p_cluster.window_live END;
    v_reaped  bigint := CASE WHEN v_new THEN 0 ELSE p_cluster.window_reaped END;
    v_allowed bigint := greatest(greatest(10, ceil(v_live * 0.15)) - v_reaped, 0);
BEGIN
    -- Where no daemon ever ran, or an operator has released it, there is none.
    IF p_cluster.released_until > p_now OR NOT EXISTS (SELECT FROM registry_daemon) THEN
        v_allowed := 2147483647;
    ELSIF p_overdue > v_allowed THEN
        v_brake := 'pace';
        IF v_most AND v_since > p_now - interval '10 minutes' THEN
            v_brake := 'protect';
            v_allowed := 0;
        END IF;
    END IF;
    UPDATE cluster_metadata
    SET brake = v_brake,
        brake_since = CASE WHEN v_brake IS NOT NULL THEN v_since END,
        brake_overdue = CASE WHEN v_brake IS NOT NULL THEN p_overdue END,
        brake_live = CASE WHEN v_brake IS NOT NULL THEN p_live END,
        window_at = CASE WHEN v_new THEN p_now ELSE window_at END,
        window_live = v_live,
        window_reaped = v_reaped
    WHERE id = 1;
    RETURN v_allowed;
END
$$;

COMMENT ON FUNCTION muster_brake(cluster_metadata, timestamptz, bigint, bigint) IS 'Returns how many of p_overdue leases may be declared dead now.';
