-- muster_apply_one: Applies one change for a direct SQL caller; a refusal is raised as an error.
-- What it registers is owned by the role of the caller (muster_sql_caller); what it may change is a matter of PostgreSQL's
-- grants alone, so that the operation names no identity otherwise.

CREATE OR REPLACE FUNCTION muster_apply_one(p_operation muster_operation)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_caller  text := muster_sql_caller();
    v_verdict text;
BEGIN
    IF p_operation.op = 'register' THEN
        p_operation.identity := v_caller;
    END IF;
    SELECT applied.verdict INTO STRICT v_verdict
    FROM muster_apply(jsonb_build_array(to_jsonb(p_operation)), v_caller) AS applied;
    CASE v_verdict
        WHEN 'epoch_fenced' THEN
            RAISE EXCEPTION 'instance % belongs to an epoch that is not current', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Read cluster_metadata.current_epoch and register in it.';
        WHEN 'taken' THEN
            RAISE EXCEPTION 'instance id % has a live lease of another owner', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict),
                      HINT = 'End that lease first (set_instance_status(..., ''dead'')), or register under a fresh instance id.';
        WHEN 'unknown' THEN
            RAISE EXCEPTION 'instance % is not on record', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Register it first.';
        WHEN 'expired' THEN
            RAISE EXCEPTION 'instance % is dead', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Dead is final: register again.';
        WHEN 'invalid_transition' THEN
            RAISE EXCEPTION 'instance % cannot become %', p_operation.instance_id, p_operation.status
                USING ERRCODE = muster_error_code(v_verdict),
                      HINT = 'Allowed: starting to alive, alive to draining and back, anything to dead.';
        ELSE
            NULL;
    END CASE;
END
$$;

COMMENT ON FUNCTION muster_apply_one(muster_operation) IS 'Applies one change for a direct SQL caller; a refusal is raised as an error.';
