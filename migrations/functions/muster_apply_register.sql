-- muster_apply_register: Applies one registration at p_revision: a new lease; or, for the same owner of a live one,
-- the lease it has with its attributes brought up to date. The caller holds the cluster row and the instance row.

CREATE OR REPLACE FUNCTION muster_apply_register(p_op muster_operation, p_cluster cluster_metadata, p_revision bigint)
RETURNS muster_outcome
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_now    timestamptz := muster_now();
    v_row    registry_instance;
    v_status InstanceStatus := coalesce(p_op.status, 'starting');
    v_new    registry_instance;
BEGIN
    IF coalesce(p_op.cluster_epoch, p_cluster.current_epoch) <> p_cluster.current_epoch THEN
        RETURN ('epoch_fenced', false, p_op.instance_id, NULL, NULL, NULL, NULL)::muster_outcome;
    END IF;
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_op.instance_id;

    IF v_row.instance_id IS NOT NULL AND v_row.status <> 'dead' AND v_row.cluster_epoch = p_cluster.current_epoch THEN
        IF NOT muster_same_owner(v_row, p_op) OR muster_moves(v_row, p_op) THEN
            RETURN ('taken', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms)::muster_outcome;
        END IF;
        RETURN muster_renew_registration(v_row, p_op, v_now, p_revision);
    END IF;

    IF v_row.instance_id IS NOT NULL THEN
        -- Its place can be taken once no transaction relies on the ended lease any more (assert_lease). To wait for that
        -- would block every writer on the cluster row.
        PERFORM FROM registry_instance WHERE instance_id = p_op.instance_id FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN ('taken', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms)::muster_outcome;
        END IF;
    END IF;

    INSERT INTO registry_instance AS instance (
        instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
        started_at, stopped_at, last_heartbeat, lease_id, revision, epoch_number, ttl_ms, port, labels, version,
        replaces_lease_id, death_reason, death_deadline, death_decided_by, owner, status_since
    )
    VALUES (
        p_op.instance_id, p_op.logical_id, p_cluster.current_epoch, v_status, p_op.actor_name, p_op.serve_route,
        p_op.node_id, p_op.ip_address, p_op.pid, v_now, NULL, v_now, p_revision, p_revision, p_cluster.epoch_number,
        p_op.ttl_ms, p_op.port, coalesce(p_op.labels, '{}'), p_op.version, v_row.lease_id, NULL, NULL, NULL,
        muster_owner_of(p_op.identity), v_now
    )
    ON CONFLICT (instance_id) DO UPDATE SET
        logical_id = excluded.logical_id, cluster_epoch = excluded.cluster_epoch, status = excluded.status,
        actor_name = excluded.actor_name, serve_route = excluded.serve_route, node_id = excluded.node_id,
        ip_address = excluded.ip_address, pid = excluded.pid, started_at = excluded.started_at, stopped_at = NULL,
        last_heartbeat = excluded.last_heartbeat, lease_id = excluded.lease_id, revision = excluded.revision,
        epoch_number = excluded.epoch_number, ttl_ms = excluded.ttl_ms, port = excluded.port,
        labels = excluded.labels, version = excluded.version, replaces_lease_id = excluded.replaces_lease_id,
        death_reason = NULL, death_deadline = NULL, death_decided_by = NULL, owner = excluded.owner,
        status_reason = NULL, status_since = excluded.status_since;
    RETURN (CASE WHEN v_row.instance_id IS NULL THEN 'created' ELSE 'replaced' END, true, p_op.instance_id, p_revision,
            p_revision, v_status, p_op.ttl_ms)::muster_outcome;
END
$$;

COMMENT ON FUNCTION muster_apply_register(muster_operation, cluster_metadata, bigint) IS 'Applies one registration at p_revision.';
