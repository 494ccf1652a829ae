-- muster_lock_cluster: Locks the cluster row, which orders all membership changes, and returns it. First step of every
-- change; held until after commit.

CREATE OR REPLACE FUNCTION muster_lock_cluster()
RETURNS cluster_metadata
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    -- An acknowledged change must survive a crash, whatever the session's default.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the cluster has no epoch yet'
            USING ERRCODE = muster_error_code('no_epoch'),
                  HINT = 'Begin one with SELECT set_current_epoch(gen_random_uuid()).';
    END IF;
    -- After a failover, and in a restored copy, the latest changes may be lost. Before anything is written, what was seen
    -- of them must become recognisably another history, so that no revision is used twice with different meanings.
    IF NOT muster_same_database(v_cluster) THEN
        v_cluster := muster_new_history(v_cluster, 0, CASE
            WHEN v_cluster.system_id <> muster_system_id() THEN 'the database was restored from a copy'
            ELSE 'the database has failed over'
        END);
    END IF;
    RETURN v_cluster;
END
$$;

COMMENT ON FUNCTION muster_lock_cluster() IS 'Locks the cluster row, which orders all membership changes, and returns it.';
