-- muster_count_leases: Counts the live leases of an epoch, as muster_brake_mode needs them. Changes nothing.
--
-- p_horizon is the time up to which all beats are saved, p_heard_as_of as in muster_heard_as_of. Returns the earliest
-- deadline; how many leases are live, are overdue, have been overdue for settle_ms, are silent (two beats missed, and
-- not heard), are heard (a beat has arrived since each overdue lease should have beaten again), and were stamped in the
-- future; and the window of the brake at the same moment as the overdue. Reads all live leases once, and a second time
-- only if a lease is overdue.

CREATE OR REPLACE FUNCTION muster_count_leases(
    p_epoch          uuid,
    p_now            timestamptz,
    p_horizon        timestamptz,
    p_heard_as_of    timestamptz,
    p_default_ttl_ms bigint
)
RETURNS TABLE (
    next_deadline timestamptz,
    live          bigint,
    overdue       bigint,
    settled       bigint,
    silent        bigint,
    heard         bigint,
    future        bigint,
    window_at     timestamptz,
    window_reaped bigint
)
LANGUAGE plpgsql
VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    v_settle    interval;
    v_tolerance interval;
    v_future    interval;
    v_missed    timestamptz;
BEGIN
    SELECT limits.settle_ms * interval '1 millisecond', limits.tolerance_ms * interval '1 millisecond',
           limits.future_ms * interval '1 millisecond'
    INTO v_settle, v_tolerance, v_future
    FROM muster_limits() AS limits;
    -- A third of the TTL after its last beat, which is two thirds before its deadline, a lease should have beaten again.
    SELECT min(lease.deadline), count(*), count(*) FILTER (WHERE lease.deadline < p_horizon),
           count(*) FILTER (WHERE lease.deadline < p_horizon - v_settle),
           max(lease.deadline - lease.ttl * 2 / 3) FILTER (WHERE lease.deadline < p_horizon),
           count(*) FILTER (WHERE lease.last_heartbeat > p_now + v_future),
           (SELECT cluster.window_at FROM cluster_metadata AS cluster WHERE cluster.id = 1),
           (SELECT cluster.window_reaped FROM cluster_metadata AS cluster WHERE cluster.id = 1)
    INTO next_deadline, live, overdue, settled, v_missed, future, window_at, window_reaped
    FROM (
        SELECT instance.last_heartbeat,
               coalesce(instance.ttl_ms, p_default_ttl_ms) * interval '1 millisecond' AS ttl,
               muster_deadline(greatest(instance.last_heartbeat, p_heard_as_of), coalesce(instance.ttl_ms, p_default_ttl_ms)) AS deadline
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = p_epoch
    ) AS lease;
    silent := 0;
    heard := live;
    IF overdue > 0 THEN
        SELECT count(*) FILTER (WHERE NOT lease.heard
                                  AND lease.deadline - greatest(lease.ttl / 3 - v_tolerance, interval '0') < p_horizon),
               count(*) FILTER (WHERE lease.heard)
        INTO silent, heard
        FROM (
            SELECT found.ttl, found.deadline, found.deadline - found.ttl > v_missed + v_tolerance AS heard
            FROM (
                SELECT coalesce(instance.ttl_ms, p_default_ttl_ms) * interval '1 millisecond' AS ttl,
                       muster_deadline(greatest(instance.last_heartbeat, p_heard_as_of), coalesce(instance.ttl_ms, p_default_ttl_ms)) AS deadline
                FROM registry_instance AS instance
                WHERE instance.status <> 'dead' AND instance.cluster_epoch = p_epoch
            ) AS found
        ) AS lease;
    END IF;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION muster_count_leases(uuid, timestamptz, timestamptz, timestamptz, bigint) IS 'Counts the live leases of an epoch, as muster_brake_mode needs them.';
