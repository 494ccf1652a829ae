-- muster_rotate_epoch: As muster_rotate_epoch_for, however soon after the last rotation: for set_current_epoch, for the first
-- epoch, and for daemons that do not know the other one.

CREATE OR REPLACE FUNCTION muster_rotate_epoch(p_new uuid, p_expected uuid, p_reason text, p_rotated_by text)
RETURNS TABLE (
    verdict         text,
    cluster_epoch   uuid,
    epoch_number    bigint,
    revision        bigint,
    previous_epoch  uuid
)
LANGUAGE sql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    SELECT rotation.verdict, rotation.cluster_epoch, rotation.epoch_number, rotation.revision, rotation.previous_epoch
    FROM muster_rotate_epoch_for(p_new, p_expected, p_reason, p_rotated_by, true) AS rotation;
$$;

COMMENT ON FUNCTION muster_rotate_epoch(uuid, uuid, text, text) IS 'Begins a new epoch.';
REVOKE ALL ON FUNCTION muster_rotate_epoch(uuid, uuid, text, text) FROM PUBLIC;
