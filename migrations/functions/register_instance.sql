-- register_instance: Registers an instance as starting in the current epoch, with the default TTL of 15 s. Repeated by
-- the same owner it keeps the lease and takes over what changed; a dead instance gets a new lease. Errors: MU001 no
-- epoch yet, MU002 epoch not current, MU003 id held by another owner, 22023 bad input.

CREATE OR REPLACE FUNCTION register_instance(
    p_instance_id   uuid,
    p_logical_id    text,
    p_cluster_epoch uuid,
    p_actor_name    text,
    p_serve_route   text,
    p_node_id       text,
    p_ip            inet,
    p_pid           integer
)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_op muster_operation;
BEGIN
    IF p_instance_id IS NULL OR coalesce(p_logical_id, '') = '' OR p_cluster_epoch IS NULL THEN
        RAISE EXCEPTION 'p_instance_id, p_logical_id and p_cluster_epoch are required'
            USING ERRCODE = muster_error_code('invalid');
    END IF;
    IF p_pid < 0 THEN
        RAISE EXCEPTION 'p_pid is %, it must not be negative', p_pid USING ERRCODE = muster_error_code('invalid');
    END IF;
    PERFORM muster_check_text('p_logical_id', p_logical_id, 253);
    PERFORM muster_check_text('p_actor_name', p_actor_name, 253);
    PERFORM muster_check_text('p_serve_route', p_serve_route, 1024);
    PERFORM muster_check_text('p_node_id', p_node_id, 253);
    v_op.op := 'register';
    v_op.instance_id := p_instance_id;
    v_op.logical_id := p_logical_id;
    v_op.cluster_epoch := p_cluster_epoch;
    v_op.status := 'starting';
    v_op.actor_name := nullif(p_actor_name, '');
    v_op.serve_route := nullif(p_serve_route, '');
    v_op.node_id := nullif(p_node_id, '');
    v_op.ip_address := p_ip;
    v_op.pid := nullif(p_pid, 0);
    -- An upsert, as in SeedCore: PostgreSQL's grants say who may call this.
    v_op.may_move := true;
    PERFORM muster_apply_one(v_op);
END
$$;

COMMENT ON FUNCTION register_instance(uuid, text, uuid, text, text, text, inet, integer) IS 'Registers an instance as starting in the current epoch, with the default TTL of 15 s.';
REVOKE ALL ON FUNCTION register_instance(uuid, text, uuid, text, text, text, inet, integer) FROM PUBLIC;
