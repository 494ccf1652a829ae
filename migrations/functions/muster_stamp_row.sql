-- muster_stamp_row: Gives a row that was inserted or changed by hand the revision it needs to be noticed. The
-- functions give it themselves and never come here.

CREATE OR REPLACE FUNCTION muster_stamp_row()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    v_cluster := muster_lock_cluster();
    IF TG_OP = 'INSERT' THEN
        NEW.lease_id := v_cluster.revision + 1;
        NEW.epoch_number := coalesce(
            (SELECT epoch.epoch_number FROM registry_epoch AS epoch WHERE epoch.cluster_epoch = NEW.cluster_epoch), 0);
    ELSIF OLD.status = 'dead' AND NEW.status <> 'dead' THEN
        RAISE EXCEPTION 'instance % is dead', OLD.instance_id
            USING ERRCODE = muster_error_code('expired'), HINT = 'Dead is final: call register_instance().';
    END IF;
    IF NEW.status = 'dead' AND NEW.death_reason IS NULL THEN
        NEW.stopped_at := coalesce(NEW.stopped_at, muster_now());
        NEW.death_reason := 'operator';
        NEW.death_decided_by := 'sql';
    END IF;
    NEW.revision := v_cluster.revision + 1;
    PERFORM muster_advance(NEW.revision);
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION muster_stamp_row() IS 'Gives a row that was inserted or changed by hand the revision it needs to be noticed.';
REVOKE ALL ON FUNCTION muster_stamp_row() FROM PUBLIC;
