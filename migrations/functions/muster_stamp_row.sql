-- muster_stamp_row: Gives a row that was inserted or changed by hand the revision that makes readers notice it. The
-- functions set it themselves, and their updates do not call this. What follows from other columns cannot be set by hand:
-- the lease id is a fencing token, and the epoch number belongs to the epoch. A changed instance id leaves no tombstone
-- under the former one, so that every reader loads everything again.

CREATE OR REPLACE FUNCTION muster_stamp_row()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    -- Before anything waits for the cluster row. A replicated beat comes here too, with every column named.
    IF TG_OP = 'UPDATE' THEN
        IF to_jsonb(NEW) - 'last_heartbeat' = to_jsonb(OLD) - 'last_heartbeat' THEN
            RETURN NEW;
        ELSIF NEW.lease_id <> OLD.lease_id THEN
            RAISE EXCEPTION 'lease_id cannot be changed by hand (instance %, from % to %)',
                OLD.instance_id, OLD.lease_id, NEW.lease_id
                USING ERRCODE = muster_error_code('invalid'),
                      HINT = 'A lease id is a fencing token, granted once: end the lease with set_instance_status(..., ''dead''), then call register_instance().';
        ELSIF NEW.epoch_number <> OLD.epoch_number AND NEW.cluster_epoch = OLD.cluster_epoch THEN
            RAISE EXCEPTION 'epoch_number follows from cluster_epoch and cannot be changed by hand (instance %, from % to %)',
                OLD.instance_id, OLD.epoch_number, NEW.epoch_number
                USING ERRCODE = muster_error_code('invalid'),
                      HINT = 'Change cluster_epoch, or call register_instance() in the current epoch.';
        END IF;
    END IF;
    v_cluster := muster_lock_cluster();
    IF TG_OP = 'UPDATE' AND NEW.instance_id <> OLD.instance_id THEN
        UPDATE cluster_metadata SET history_id = gen_random_uuid() WHERE id = 1;
    END IF;
    IF TG_OP = 'INSERT' OR NEW.cluster_epoch <> OLD.cluster_epoch THEN
        NEW.epoch_number := coalesce(
            (SELECT epoch.epoch_number FROM registry_epoch AS epoch WHERE epoch.cluster_epoch = NEW.cluster_epoch), 0);
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.lease_id := v_cluster.revision + 1;
        NEW.owner := coalesce(NEW.owner, muster_sql_caller());
    ELSIF OLD.status = 'dead' AND NEW.status <> 'dead' THEN
        RAISE EXCEPTION 'instance % is dead', OLD.instance_id
            USING ERRCODE = muster_error_code('expired'), HINT = 'Dead is final: call register_instance().';
    END IF;
    IF NEW.status = 'dead' AND NEW.death_reason IS NULL THEN
        NEW.stopped_at := coalesce(NEW.stopped_at, muster_now());
        NEW.death_reason := 'operator';
        NEW.death_decided_by := muster_sql_caller();
    END IF;
    NEW.revision := v_cluster.revision + 1;
    PERFORM muster_advance(NEW.revision);
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION muster_stamp_row() IS 'Gives a row that was inserted or changed by hand the revision it needs to be noticed.';
REVOKE ALL ON FUNCTION muster_stamp_row() FROM PUBLIC;
