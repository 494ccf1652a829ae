-- set_instance_health: As set_instance_status, with the reason for the status, at most 256 bytes. Repeated with the present
-- status and another reason it changes the reason, at most every 10 s. A name of its own: a third parameter with a default
-- would make the call with two ambiguous.

CREATE OR REPLACE FUNCTION set_instance_health(p_instance_id uuid, p_status InstanceStatus, p_reason text)
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
    PERFORM muster_check_text('p_reason', p_reason, 256);
    v_op.op := 'status';
    v_op.instance_id := p_instance_id;
    v_op.status := p_status;
    v_op.status_reason := nullif(p_reason, '');
    PERFORM muster_apply_one(v_op);
END
$$;

COMMENT ON FUNCTION set_instance_health(uuid, InstanceStatus, text) IS 'Changes the status, with the reason for it.';
REVOKE ALL ON FUNCTION set_instance_health(uuid, InstanceStatus, text) FROM PUBLIC;
