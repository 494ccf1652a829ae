-- muster_flush_beats: Saves beats that a daemon received: leases, and how many milliseconds ago each beat arrived.
--
-- The call also reports that the daemon is well, so it is made with empty arrays too. p_saved_up_to is a database time
-- that the daemon read before it gathered the beats: with this call, every beat that arrived before it is saved. Rows
-- are locked by lease id, so that flushes never deadlock, and every update is HOT. Returns how many leases were saved
-- (dead ones are passed over), whether the daemon is on the list (if not, it was evicted and must rejoin), and the
-- database clock.

CREATE OR REPLACE FUNCTION muster_flush_beats(
    p_daemon_id   uuid,
    p_lease_ids   bigint[],
    p_ages_ms     bigint[],
    p_saved_up_to timestamptz DEFAULT NULL
)
RETURNS TABLE (
    saved   integer,
    entered boolean,
    read_at timestamptz
)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
-- Rows are found by their leases, whatever a plan made while the table was new would say: it would read all of it.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
AS $$
BEGIN
    -- A crash of PostgreSQL may lose the last moments of beats: the hold that follows an outage makes up for it.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- The dead as well: a condition on live rows would suggest the index of all of them.
    PERFORM FROM registry_instance AS instance
    WHERE instance.lease_id = ANY (p_lease_ids)
    ORDER BY instance.lease_id
    FOR NO KEY UPDATE;
    read_at := muster_now();
    -- A stamp from the future was made before the clock was stepped back.
    UPDATE registry_instance AS instance
    SET last_heartbeat = greatest(least(instance.last_heartbeat, read_at), read_at - beat.age_ms * interval '1 millisecond')
    FROM unnest(p_lease_ids, p_ages_ms) AS beat (lease_id, age_ms)
    WHERE instance.lease_id = beat.lease_id AND instance.status <> 'dead';
    GET DIAGNOSTICS saved = ROW_COUNT;
    UPDATE registry_daemon
    SET last_flush = read_at,
        saved_up_to = greatest(least(saved_up_to, read_at), p_saved_up_to)
    WHERE daemon_id = p_daemon_id;
    entered := FOUND;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION muster_flush_beats(uuid, bigint[], bigint[], timestamptz) IS 'Saves beats that a daemon received: leases, and how many milliseconds ago each beat arrived.';
REVOKE ALL ON FUNCTION muster_flush_beats(uuid, bigint[], bigint[], timestamptz) FROM PUBLIC;
