-- muster_purge_audit: Deletes at most p_limit recorded decisions that are older than p_keep_ms, the earliest first. Never one of
-- the last 7 days, so that a role that may call it cannot remove the trace of what it did; and it leaves a trace itself.

CREATE OR REPLACE FUNCTION muster_purge_audit(p_keep_ms bigint, p_limit integer)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_before timestamptz := muster_now() - greatest(p_keep_ms, 604800000) * interval '1 millisecond';
    v_purged integer;
    v_others integer;
BEGIN
    WITH purged AS (
        DELETE FROM registry_audit
        WHERE id IN (
            SELECT audit.id FROM registry_audit AS audit WHERE audit.at < v_before ORDER BY audit.at LIMIT p_limit
        )
        RETURNING action
    )
    SELECT count(*), count(*) FILTER (WHERE purged.action <> 'purge') INTO v_purged, v_others FROM purged;
    -- Traces of purges alone: no further one, or each would be followed by another for ever.
    IF v_others > 0 THEN
        PERFORM muster_audit_counted(
            'purge', muster_sql_caller(), 'registry_audit', jsonb_build_object('older_than', v_before), v_purged, 3600000);
    END IF;
    RETURN v_purged;
END
$$;

COMMENT ON FUNCTION muster_purge_audit(bigint, integer) IS 'Deletes at most p_limit recorded decisions that are older than p_keep_ms, and than 7 days, the earliest first.';
REVOKE ALL ON FUNCTION muster_purge_audit(bigint, integer) FROM PUBLIC;
