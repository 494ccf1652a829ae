-- muster_notice_disruption: Puts expiry on hold if the clock is not where the caller expects it, or if a daemon has
-- not said for 15 s that it is well: the beats it heard are lost, and its clients need time to go elsewhere. The loss is kept for
-- an hour in registry_daemon_loss.

CREATE OR REPLACE FUNCTION muster_notice_disruption(p_now timestamptz, p_expected_now timestamptz, p_tolerance_ms bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
AS $$
BEGIN
    IF abs(extract(epoch FROM p_now - p_expected_now)) * 1000 > p_tolerance_ms THEN
        PERFORM muster_lock_cluster();
        -- After a step back, stamps from before it would lie in the future, and their owners could not die.
        PERFORM FROM registry_instance
        WHERE last_heartbeat > p_now AND status <> 'dead'
        ORDER BY lease_id
        FOR NO KEY UPDATE;
        UPDATE registry_instance SET last_heartbeat = p_now WHERE last_heartbeat > p_now AND status <> 'dead';
        UPDATE registry_daemon SET last_flush = p_now, saved_up_to = p_now;
        UPDATE registry_daemon_loss SET lost_at = p_now WHERE lost_at > p_now;
        -- Nobody can say how much of a release is left.
        UPDATE cluster_metadata
        SET released_until = NULL,
            hold_until = CASE WHEN hold_until <= p_now + interval '1 hour' THEN hold_until END
        WHERE id = 1;
        PERFORM muster_hold_expiry('the database clock was stepped');
    END IF;
    IF EXISTS (SELECT FROM registry_daemon WHERE last_flush < p_now - interval '15 seconds') THEN
        PERFORM muster_lock_cluster();
        -- A concurrent caller finds it gone. The loss is kept for an hour, for every daemon to report.
        WITH lost AS (
            DELETE FROM registry_daemon WHERE last_flush < muster_now() - interval '15 seconds'
            RETURNING daemon_id, address, version, started_at, last_flush
        )
        INSERT INTO registry_daemon_loss (daemon_id, address, version, started_at, last_flush, lost_at)
        SELECT lost.daemon_id, lost.address, lost.version, lost.started_at, lost.last_flush, muster_now()
        FROM lost
        ON CONFLICT (daemon_id) DO UPDATE SET last_flush = excluded.last_flush, lost_at = excluded.lost_at;
        IF FOUND THEN
            DELETE FROM registry_daemon_loss WHERE lost_at < muster_now() - interval '1 hour';
            PERFORM muster_hold_expiry('a daemon was lost');
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION muster_notice_disruption(timestamptz, timestamptz, bigint) IS 'Puts expiry on hold if the clock is not where the caller expects it, or if a daemon has not said for 15 s that it is well.';
