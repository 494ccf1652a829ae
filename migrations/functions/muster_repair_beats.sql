-- muster_repair_beats: Takes at most p_limit beats that lie further than future_ms after p_now as beats of p_now. No
-- clock has stamped them, and their leases would never end.

CREATE OR REPLACE FUNCTION muster_repair_beats(p_now timestamptz, p_limit integer)
RETURNS void
LANGUAGE sql
VOLATILE
AS $$
    UPDATE registry_instance SET last_heartbeat = p_now
    WHERE instance_id IN (
        SELECT instance_id FROM registry_instance
        WHERE status <> 'dead'
          AND last_heartbeat > p_now + (SELECT future_ms FROM muster_limits()) * interval '1 millisecond'
        ORDER BY lease_id
        LIMIT p_limit
        FOR NO KEY UPDATE SKIP LOCKED
    );
$$;

COMMENT ON FUNCTION muster_repair_beats(timestamptz, integer) IS 'Takes at most p_limit beats that lie further than future_ms after p_now as beats of p_now.';
