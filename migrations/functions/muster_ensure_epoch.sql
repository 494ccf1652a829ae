-- muster_ensure_epoch: Returns the current epoch, beginning the first one if there is none.

CREATE OR REPLACE FUNCTION muster_ensure_epoch(p_by text)
RETURNS uuid
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_epoch uuid;
BEGIN
    SELECT current_epoch INTO v_epoch FROM cluster_metadata WHERE id = 1;
    IF FOUND THEN
        RETURN v_epoch;
    END IF;
    -- Two daemons may meet here on an empty database: the second sees the first one's epoch once it has the lock.
    PERFORM pg_advisory_xact_lock(42);
    SELECT current_epoch INTO v_epoch FROM cluster_metadata WHERE id = 1;
    IF NOT FOUND THEN
        SELECT cluster_epoch INTO v_epoch FROM muster_rotate_epoch(gen_random_uuid(), NULL, 'first epoch', p_by);
    END IF;
    RETURN v_epoch;
END
$$;

COMMENT ON FUNCTION muster_ensure_epoch(text) IS 'Returns the current epoch, beginning the first one if there is none.';
REVOKE ALL ON FUNCTION muster_ensure_epoch(text) FROM PUBLIC;
