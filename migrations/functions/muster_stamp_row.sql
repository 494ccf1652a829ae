-- muster_stamp_row: Gives a row that was inserted or changed by hand the revision that makes readers notice it. The
-- functions set it themselves, and their updates do not call this. What follows from other columns cannot be set by hand:
-- the lease id is a fencing token, and the epoch number belongs to the epoch. A changed instance id leaves no tombstone
-- under the former one, so that every reader loads everything again.
--
-- SeedCore's deployments restore its own expire_stale_instances(), which ignores TTL, hold and brake. A death that has it in its
-- call stack is a death for silence: muster_may_expire decides, and a row that may not die is passed over, so that the caller
-- does not count it.

CREATE OR REPLACE FUNCTION muster_stamp_row()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_stack   text;
    v_silent  boolean := false;
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
        IF NEW.status = 'dead' AND OLD.status <> 'dead' THEN
            GET DIAGNOSTICS v_stack = PG_CONTEXT;
            -- The name alone: the text around it is in the language of the server's messages.
            v_silent := v_stack ~ '\mexpire_stale_instances\M';
            IF v_silent THEN
                -- Without the lock: the loop of SeedCore looks at all silent rows again and again.
                SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
                IF NOT muster_may_expire(OLD, v_cluster, muster_now()) THEN
                    RETURN NULL;
                END IF;
            END IF;
        END IF;
    END IF;
    v_cluster := muster_lock_cluster();
    IF v_silent AND NOT muster_may_expire(OLD, v_cluster, muster_now()) THEN
        RETURN NULL;
    END IF;
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
        NEW.death_reason := CASE
            WHEN NOT v_silent THEN 'operator'
            WHEN NEW.cluster_epoch <> v_cluster.current_epoch THEN 'old_epoch'
            ELSE 'stale'
        END;
        IF v_silent THEN
            NEW.death_deadline := muster_deadline(OLD.last_heartbeat, OLD.ttl_ms);
        END IF;
        NEW.death_decided_by := muster_sql_caller();
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.status_since := coalesce(NEW.status_since, muster_now());
    ELSIF NEW.status <> OLD.status AND NEW.status_since IS NOT DISTINCT FROM OLD.status_since THEN
        NEW.status_since := muster_now();
        NEW.status_reason := nullif(NEW.status_reason, OLD.status_reason);
    END IF;
    NEW.revision := v_cluster.revision + 1;
    PERFORM muster_advance(NEW.revision);
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION muster_stamp_row() IS 'Gives a row that was inserted or changed by hand the revision it needs to be noticed.';
REVOKE ALL ON FUNCTION muster_stamp_row() FROM PUBLIC;
