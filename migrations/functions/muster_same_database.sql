-- muster_same_database: Whether this is the database that was written last, as far as the engine tells: neither one
-- that took over nor a restored copy.

CREATE OR REPLACE FUNCTION muster_same_database(p_cluster cluster_metadata)
RETURNS boolean
LANGUAGE sql
VOLATILE
AS $$
    SELECT coalesce(p_cluster.timeline = muster_timeline(), true) AND coalesce(p_cluster.system_id = muster_system_id(), true);
$$;

COMMENT ON FUNCTION muster_same_database(cluster_metadata) IS 'Whether this is the database that was written last, as far as the engine tells.';
