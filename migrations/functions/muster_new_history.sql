-- muster_new_history: Begins a new history history_gap revisions on, so that no lost revision is used again with another
-- meaning.
--
-- Readers reload the registry, and expiry is held. The caller holds the cluster row.

CREATE OR REPLACE FUNCTION muster_new_history(p_cluster cluster_metadata, p_seen_revision bigint, p_reason text)
RETURNS cluster_metadata
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_cluster  cluster_metadata;
    v_revision bigint := greatest(p_cluster.revision, p_seen_revision)
        + (SELECT history_gap FROM muster_limits());
BEGIN
    UPDATE cluster_metadata
    SET history_id = gen_random_uuid(),
        revision = v_revision,
        timeline = muster_timeline(),
        system_id = muster_system_id()
    WHERE id = 1;
    PERFORM pg_notify('muster', v_revision::text);
    PERFORM muster_note_disruption(p_reason);
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    RETURN v_cluster;
END
$$;

COMMENT ON FUNCTION muster_new_history(cluster_metadata, bigint, text) IS 'Begins a new history history_gap revisions on, so that no lost revision is used again with another meaning.';
