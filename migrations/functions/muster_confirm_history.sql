-- muster_confirm_history: Called by a daemon on every new connection of its feed, with the revision it has seen:
-- begins a new history if this database is not the one that was written last, or has lost revisions.

CREATE OR REPLACE FUNCTION muster_confirm_history(p_seen_revision bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF (v_cluster.timeline IS NOT NULL OR muster_timeline() IS NULL)
        AND muster_same_database(v_cluster)
        AND v_cluster.revision >= p_seen_revision
    THEN
        RETURN;
    END IF;
    -- Notices another database by itself, or finds that another daemon was faster.
    v_cluster := muster_lock_cluster();
    UPDATE cluster_metadata
    SET system_id = muster_system_id(), timeline = muster_timeline()
    WHERE id = 1 AND timeline IS NULL;
    IF v_cluster.revision < p_seen_revision THEN
        PERFORM muster_new_history(v_cluster, p_seen_revision, 'the database has lost revisions');
    END IF;
END
$$;

COMMENT ON FUNCTION muster_confirm_history(bigint) IS 'Called by a daemon on every new connection of its feed, with the revision it has seen.';
REVOKE ALL ON FUNCTION muster_confirm_history(bigint) FROM PUBLIC;
