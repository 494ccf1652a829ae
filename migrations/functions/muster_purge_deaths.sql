-- muster_purge_deaths: Deletes at most p_limit records of deaths that are older than p_keep_ms, the earliest first. A death that
-- is not released yet is kept, whatever its age. Recorded as a decision, counted by the hour.

CREATE OR REPLACE FUNCTION muster_purge_deaths(p_keep_ms bigint, p_limit integer)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_purged integer;
BEGIN
    DELETE FROM registry_death
    WHERE lease_id IN (
        SELECT death.lease_id
        FROM registry_death AS death
        WHERE death.died_at < muster_now() - p_keep_ms * interval '1 millisecond' AND death.released_at IS NOT NULL
        ORDER BY death.died_at
        LIMIT p_limit
    );
    GET DIAGNOSTICS v_purged = ROW_COUNT;
    IF v_purged > 0 THEN
        PERFORM muster_audit_counted(
            'purge', muster_sql_caller(), 'registry_death', jsonb_build_object('older_than', muster_now() - p_keep_ms * interval '1 millisecond'), v_purged, 3600000);
    END IF;
    RETURN v_purged;
END
$$;

COMMENT ON FUNCTION muster_purge_deaths(bigint, integer) IS 'Deletes at most p_limit records of released deaths that are older than p_keep_ms, the earliest first.';
REVOKE ALL ON FUNCTION muster_purge_deaths(bigint, integer) FROM PUBLIC;
