-- muster_purge_dead: Deletes at most p_limit dead rows that have been dead for longer than p_keep_ms, the earliest
-- deaths first. A trigger remembers up to which revision. Recorded as a decision, counted
-- by the hour.

CREATE OR REPLACE FUNCTION muster_purge_dead(p_keep_ms bigint, p_limit integer)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_now    timestamptz := muster_now();
    v_before timestamptz := v_now - p_keep_ms * interval '1 millisecond';
    -- A death later than this was not stamped by any clock: the row would stay for ever, and as rows are purged in the
    -- order of their revisions, each purge behind it would make every reader reload everything.
    v_odd    timestamptz := v_now + p_keep_ms * interval '1 millisecond';
    v_purged integer;
BEGIN
    IF NOT EXISTS (
        SELECT FROM registry_instance
        WHERE status = 'dead'
          AND (coalesce(stopped_at, started_at) < v_before OR coalesce(stopped_at, started_at) > v_odd)
    ) THEN
        RETURN 0;
    END IF;
    PERFORM muster_lock_cluster();
    DELETE FROM registry_instance
    WHERE instance_id IN (
        SELECT instance.instance_id
        FROM registry_instance AS instance
        WHERE instance.status = 'dead'
          AND (coalesce(instance.stopped_at, instance.started_at) < v_before
              OR coalesce(instance.stopped_at, instance.started_at) > v_odd)
        ORDER BY instance.revision
        LIMIT p_limit
    );
    GET DIAGNOSTICS v_purged = ROW_COUNT;
    IF v_purged > 0 THEN
        PERFORM muster_audit_counted(
            'purge', muster_sql_caller(), 'registry_instance', jsonb_build_object('older_than', v_before), v_purged, 3600000);
    END IF;
    RETURN v_purged;
END
$$;

COMMENT ON FUNCTION muster_purge_dead(bigint, integer) IS 'Deletes at most p_limit dead rows that have been dead for longer than p_keep_ms, the earliest deaths first.';
REVOKE ALL ON FUNCTION muster_purge_dead(bigint, integer) FROM PUBLIC;
