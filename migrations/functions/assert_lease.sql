-- assert_lease: Raises unless the lease is alive in the current epoch. Called inside an application's own transaction
-- it also keeps it so until the end of that transaction: expiry passes the instance over and a rotation waits
-- meanwhile, while beats and registrations pass. Keep such transactions short: a rotation gives up after its
-- lock_timeout (2 s from a daemon). The instance's own deregistration does not wait. Errors: MU002 epoch not current,
-- MU004 unknown, MU005 ended.

CREATE OR REPLACE FUNCTION assert_lease(p_lease_id bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_row     registry_instance;
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR KEY SHARE;
    SELECT * INTO v_row FROM registry_instance WHERE lease_id = p_lease_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'lease % is not on record', p_lease_id
            USING ERRCODE = muster_error_code('unknown'), HINT = 'It has ended, or was replaced: stop, and register again.';
    ELSIF v_row.cluster_epoch <> v_cluster.current_epoch THEN
        RAISE EXCEPTION 'lease % belongs to an epoch that is not current', p_lease_id
            USING ERRCODE = muster_error_code('epoch_fenced'), HINT = 'Stop, and register again in the current epoch.';
    ELSIF v_row.status = 'dead' THEN
        RAISE EXCEPTION 'lease % has ended (%)', p_lease_id, coalesce(v_row.death_reason, 'no reason kept')
            USING ERRCODE = muster_error_code('expired'), HINT = 'Stop, and register again.';
    END IF;
END
$$;

COMMENT ON FUNCTION assert_lease(bigint) IS 'Raises unless the lease is alive in the current epoch.';
REVOKE ALL ON FUNCTION assert_lease(bigint) FROM PUBLIC;
