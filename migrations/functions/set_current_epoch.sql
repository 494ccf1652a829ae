-- set_current_epoch: Begins the epoch new_epoch; does nothing if it is current already. Instances of other epochs are
-- dead from then on.

CREATE OR REPLACE FUNCTION set_current_epoch(new_epoch uuid)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_verdict text;
BEGIN
    SELECT verdict INTO v_verdict FROM muster_rotate_epoch(new_epoch, NULL, 'set_current_epoch', muster_sql_caller());
    IF v_verdict = 'epoch_reused' THEN
        RAISE EXCEPTION 'epoch % was in use before', new_epoch
            USING ERRCODE = muster_error_code(v_verdict),
                  HINT = 'Epochs are never reused; take a fresh UUID.';
    END IF;
END
$$;

COMMENT ON FUNCTION set_current_epoch(uuid) IS 'Begins the epoch new_epoch.';
REVOKE ALL ON FUNCTION set_current_epoch(uuid) FROM PUBLIC;
