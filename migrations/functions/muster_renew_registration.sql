-- muster_renew_registration: A registration repeated by the owner of a live lease: same lease, attributes as now
-- given. The first identity that asks becomes the owner of a row that has none.

CREATE OR REPLACE FUNCTION muster_renew_registration(
    p_row      registry_instance,
    p_op       muster_operation,
    p_now      timestamptz,
    p_revision bigint
)
RETURNS muster_outcome
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_status  InstanceStatus := p_row.status;
    v_owner   text := coalesce(muster_owner_of(p_op.identity), p_row.owner);
    v_changed boolean;
BEGIN
    -- A repeated call must not move the instance back: of the statuses it may ask for only alive leads forward.
    IF p_row.status = 'starting' AND p_op.status = 'alive' THEN
        v_status := 'alive';
    END IF;
    v_changed := (v_status, p_op.actor_name, p_op.serve_route, p_op.ip_address, p_op.port, p_op.ttl_ms, p_op.version,
                  coalesce(p_op.labels, '{}'), v_owner)
        IS DISTINCT FROM
        (p_row.status, p_row.actor_name, p_row.serve_route, p_row.ip_address, p_row.port, p_row.ttl_ms, p_row.version,
         p_row.labels, p_row.owner);
    IF v_changed THEN
        UPDATE registry_instance
        SET status = v_status, actor_name = p_op.actor_name, serve_route = p_op.serve_route,
            ip_address = p_op.ip_address, port = p_op.port, ttl_ms = p_op.ttl_ms, version = p_op.version,
            labels = coalesce(p_op.labels, '{}'), owner = v_owner, revision = p_revision,
            last_heartbeat = p_now,
            status_reason = CASE WHEN v_status = p_row.status THEN status_reason END,
            status_since = CASE WHEN v_status = p_row.status THEN status_since ELSE p_now END
        WHERE instance_id = p_row.instance_id;
    ELSE
        -- A write even so: on a synchronous standby the repeated call is confirmed only once the first one is there.
        UPDATE registry_instance
        SET last_heartbeat = p_now
        WHERE instance_id = p_row.instance_id;
    END IF;
    RETURN ('renewed', v_changed, p_row.instance_id, p_row.lease_id,
            CASE WHEN v_changed THEN p_revision ELSE p_row.revision END, v_status, p_op.ttl_ms)::muster_outcome;
END
$$;

COMMENT ON FUNCTION muster_renew_registration(registry_instance, muster_operation, timestamptz, bigint) IS 'A registration repeated by the owner of a live lease.';
