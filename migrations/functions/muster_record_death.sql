-- muster_record_death: Records the end of a lease, in the transaction in which it ends. Without a hook it is released at once:
-- a hook sees the deaths from when it is set.
--
-- A lease of an older epoch may be replaced by a registration before its death is written down; it ended with its epoch.

CREATE OR REPLACE FUNCTION muster_record_death()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF NEW.lease_id <> OLD.lease_id THEN
        NEW.death_reason := 'old_epoch';
        NEW.death_decided_by := NULL;
        NEW.stopped_at := coalesce(
            (SELECT epoch.started_at FROM registry_epoch AS epoch WHERE epoch.epoch_number = OLD.epoch_number + 1),
            NEW.started_at);
    END IF;
    -- A death must not fail because of its record, whatever was written there by hand.
    INSERT INTO registry_death (
        lease_id, revision, instance_id, logical_id, actor_name, node_id, epoch_number, started_at, died_at, reason,
        decided_by, owner, released_at
    )
    SELECT
        OLD.lease_id, NEW.revision, OLD.instance_id, OLD.logical_id, OLD.actor_name, OLD.node_id, OLD.epoch_number,
        OLD.started_at, coalesce(NEW.stopped_at, muster_now()), coalesce(NEW.death_reason, 'operator'),
        NEW.death_decided_by, OLD.owner, CASE WHEN NOT EXISTS (SELECT FROM registry_hook) THEN muster_now() END
    ON CONFLICT (lease_id) DO NOTHING;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION muster_record_death() IS 'Records the end of a lease, in the transaction in which it ends.';
REVOKE ALL ON FUNCTION muster_record_death() FROM PUBLIC;
