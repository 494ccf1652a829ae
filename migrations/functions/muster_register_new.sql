-- muster_register_new: Registers a group of instances of which none is on record, with one statement: several times as
-- fast as one by one. Returns their rows. The caller holds the cluster row, and has made sure of what it says here.

CREATE OR REPLACE FUNCTION muster_register_new(p_ops muster_operation[], p_cluster cluster_metadata)
RETURNS SETOF registry_instance
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_now timestamptz := muster_now();
BEGIN
    RETURN QUERY
    INSERT INTO registry_instance (
        instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
        started_at, last_heartbeat, lease_id, revision, epoch_number, ttl_ms, port, labels, version,
        owner, status_since
    )
    SELECT
        op.instance_id, op.logical_id, p_cluster.current_epoch, coalesce(op.status, 'starting'), op.actor_name,
        op.serve_route, op.node_id, op.ip_address, op.pid, v_now, v_now, p_cluster.revision + op.ordinality,
        p_cluster.revision + op.ordinality, p_cluster.epoch_number, op.ttl_ms, op.port, coalesce(op.labels, '{}'),
        op.version, muster_owner_of(op.identity), v_now
    FROM unnest(p_ops) WITH ORDINALITY AS op
    RETURNING *;
END
$$;

COMMENT ON FUNCTION muster_register_new(muster_operation[], cluster_metadata) IS 'Registers a group of instances of which none is on record, with one statement.';
