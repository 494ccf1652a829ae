-- set_instance_status: Changes the status: starting to alive, alive to draining and back, anything to dead. Errors:
-- MU002 epoch not current, MU004 unknown, MU005 dead (final), MU006 not allowed.

CREATE OR REPLACE FUNCTION set_instance_status(p_instance_id uuid, p_status InstanceStatus)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_op muster_operation;
BEGIN
    IF p_instance_id IS NULL OR p_status IS NULL THEN
        RAISE EXCEPTION 'p_instance_id and p_status are required' USING ERRCODE = muster_error_code('invalid');
    END IF;
    v_op.op := 'status';
    v_op.instance_id := p_instance_id;
    v_op.status := p_status;
    PERFORM muster_apply_one(v_op);
END
$$;

COMMENT ON FUNCTION set_instance_status(uuid, InstanceStatus) IS 'Changes the status.';
REVOKE ALL ON FUNCTION set_instance_status(uuid, InstanceStatus) FROM PUBLIC;
