-- muster_stamp_epoch: Gives an epoch that was written by hand its number, its revision and its place in the history.
-- muster_rotate_epoch does so itself and never comes here for an update.
--
-- An epoch written by hand. SeedCore does so as well: each of its deployments puts back its own
-- set_current_epoch, and its hard start calls it, before a daemon is there to repair that.

CREATE OR REPLACE FUNCTION muster_stamp_epoch()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_number   bigint;
    v_revision bigint;
BEGIN
    IF TG_OP = 'INSERT'
        AND EXISTS (SELECT FROM registry_epoch WHERE cluster_epoch = NEW.current_epoch AND epoch_number = NEW.epoch_number)
    THEN
        RETURN NEW;
    ELSIF EXISTS (SELECT FROM registry_epoch WHERE cluster_epoch = NEW.current_epoch) THEN
        RAISE EXCEPTION 'epoch % was in use before', NEW.current_epoch
            USING ERRCODE = muster_error_code('epoch_reused'), HINT = 'Epochs are never reused; take a fresh UUID.';
    END IF;
    SELECT coalesce(max(epoch_number), 0) + 1 INTO v_number FROM registry_epoch;
    SELECT greatest(NEW.revision, max(revision)) + 1 INTO v_revision FROM registry_instance;
    INSERT INTO registry_epoch (epoch_number, cluster_epoch, started_at, started_revision, reason, rotated_by)
    VALUES (v_number, NEW.current_epoch, muster_now(), v_revision, 'written by hand', muster_sql_caller());
    IF v_number > 1 THEN
        PERFORM muster_audit(
            'rotate', muster_sql_caller(), 'epoch ' || v_number,
            jsonb_build_object('epoch', NEW.current_epoch, 'reason', 'written by hand'), v_revision);
    END IF;
    IF TG_OP = 'INSERT' THEN
        UPDATE cluster_metadata SET epoch_number = v_number WHERE id = 1;
        PERFORM muster_advance(v_revision);
    ELSE
        NEW.epoch_number := v_number;
        NEW.revision := v_revision;
        PERFORM pg_notify('muster', v_revision::text);
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION muster_stamp_epoch() IS 'Gives an epoch that was written by hand its number, its revision and its place in the history.';
REVOKE ALL ON FUNCTION muster_stamp_epoch() FROM PUBLIC;
