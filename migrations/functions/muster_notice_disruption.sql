-- muster_notice_disruption: Notes a disruption if the clock is not where the caller expects it, or if a daemon has not
-- flushed for evicted_after_ms: the beats it heard are lost, and its clients need time to go elsewhere. The loss is kept
-- for loss_kept_ms in registry_daemon_loss.
--
-- A step of the clock moves an operator's hold along, so that it keeps its length; what holds leases since an earlier
-- disruption begins again at the new time.

CREATE OR REPLACE FUNCTION muster_notice_disruption(p_now timestamptz, p_expected_now timestamptz, p_tolerance_ms bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_limits  record;
    v_evicted interval;
    v_kept    interval;
    v_cluster cluster_metadata;
    v_held    timestamptz;
    v_step_ms bigint := muster_ms_until(p_now, p_expected_now);
BEGIN
    SELECT * INTO v_limits FROM muster_limits();
    v_evicted := v_limits.evicted_after_ms * interval '1 millisecond';
    v_kept := v_limits.loss_kept_ms * interval '1 millisecond';
    -- A disruption that lies ahead was recorded before a step back that no daemon was there to notice.
    IF abs(v_step_ms) > p_tolerance_ms
        OR EXISTS (SELECT FROM cluster_metadata WHERE id = 1 AND disrupted_at > muster_now() + interval '1 second')
    THEN
        v_cluster := muster_lock_cluster();
        -- After a step back, stamps from before it would lie in the future, and their leases could not expire.
        PERFORM FROM registry_instance
        WHERE last_heartbeat > p_now AND status <> 'dead'
        ORDER BY lease_id
        FOR NO KEY UPDATE;
        UPDATE registry_instance SET last_heartbeat = p_now WHERE last_heartbeat > p_now AND status <> 'dead';
        UPDATE registry_daemon SET last_flush = p_now, saved_up_to = p_now;
        UPDATE registry_daemon_loss SET lost_at = p_now WHERE lost_at > p_now;
        -- Every daemon notices the same step, and the hold moves once.
        v_held := v_cluster.held_until;
        IF NOT coalesce(v_cluster.stepped_at BETWEEN p_now - interval '1 minute' AND muster_now()
                        AND abs(v_cluster.stepped_ms - v_step_ms) <= p_tolerance_ms + 1000, false)
        THEN
            v_held := CASE WHEN v_held > p_expected_now THEN v_held + v_step_ms * interval '1 millisecond' END;
        END IF;
        -- An end that is later than any hold can be comes from a clock that was wrong. How much of a release is left is
        -- not known.
        IF v_held > p_now + v_limits.hold_max_ms * interval '1 millisecond' THEN
            v_held := NULL;
        END IF;
        UPDATE cluster_metadata
        SET released_until = NULL, held_until = v_held, hold_until = v_held, stepped_at = p_now, stepped_ms = v_step_ms
        WHERE id = 1;
        PERFORM muster_note_disruption('the database clock was stepped');
    END IF;
    IF EXISTS (SELECT FROM registry_daemon WHERE last_flush < p_now - v_evicted) THEN
        PERFORM muster_lock_cluster();
        -- A concurrent caller finds it gone.
        WITH lost AS (
            DELETE FROM registry_daemon WHERE last_flush < muster_now() - v_evicted
            RETURNING daemon_id, address, version, started_at, last_flush
        )
        INSERT INTO registry_daemon_loss (daemon_id, address, version, started_at, last_flush, lost_at)
        SELECT lost.daemon_id, lost.address, lost.version, lost.started_at, lost.last_flush, muster_now()
        FROM lost
        ON CONFLICT (daemon_id) DO UPDATE SET last_flush = excluded.last_flush, lost_at = excluded.lost_at;
        IF FOUND THEN
            DELETE FROM registry_daemon_loss WHERE lost_at < muster_now() - v_kept;
            PERFORM muster_note_disruption('a daemon was lost');
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION muster_notice_disruption(timestamptz, timestamptz, bigint) IS 'Notes a disruption if the clock is not where the caller expects it, or if a daemon has not flushed for 15 s.';
