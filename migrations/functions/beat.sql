-- beat: Renews the lease of a live instance of the current epoch. A HOT update of one row: no revision, no
-- notification, no lock but the row's. Errors: MU002 epoch not current, MU004 unknown, MU005 dead.

CREATE OR REPLACE FUNCTION beat(p_instance_id uuid)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_row registry_instance;
BEGIN
    UPDATE registry_instance AS instance
    SET last_heartbeat = muster_now()
    FROM cluster_metadata AS cluster
    WHERE instance.instance_id = p_instance_id
      AND instance.status <> 'dead'
      AND cluster.current_epoch = instance.cluster_epoch;
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_instance_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'instance % is not on record', p_instance_id
            USING ERRCODE = muster_error_code('unknown'), HINT = 'Register it.';
    ELSIF v_row.status = 'dead' THEN
        RAISE EXCEPTION 'instance % is dead (%)', p_instance_id, coalesce(v_row.death_reason, 'no reason kept')
            USING ERRCODE = muster_error_code('expired'), HINT = 'Dead is final: register again.';
    ELSE
        RAISE EXCEPTION 'instance % belongs to an epoch that is not current', p_instance_id
            USING ERRCODE = muster_error_code('epoch_fenced'), HINT = 'Register again in the current epoch.';
    END IF;
END
$$;

COMMENT ON FUNCTION beat(uuid) IS 'Renews the lease of a live instance of the current epoch.';
REVOKE ALL ON FUNCTION beat(uuid) FROM PUBLIC;
