-- muster_rotate_epoch: Begins a new epoch. Verdicts: rotated, unchanged (it is current already), epoch_mismatch
-- (p_expected is not current), epoch_reused. Takes the transaction-level advisory lock 42, which vanishes with the
-- transaction whatever happens, then the cluster row. Touches no instance: those of older epochs are dead by
-- definition, and written down later by muster_reap_old_epoch.

CREATE OR REPLACE FUNCTION muster_rotate_epoch(p_new uuid, p_expected uuid, p_reason text, p_rotated_by text)
RETURNS TABLE (
    verdict         text,
    cluster_epoch   uuid,
    epoch_number    bigint,
    revision        bigint,
    previous_epoch  uuid
)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    v_cluster  cluster_metadata;
    v_exists   boolean;
    v_number   bigint;
    v_revision bigint;
    v_now      timestamptz;
BEGIN
    IF p_new IS NULL THEN
        RAISE EXCEPTION 'the new epoch must not be null' USING ERRCODE = muster_error_code('invalid');
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM pg_advisory_xact_lock(42);
    -- FOR UPDATE, unlike any other change: a rotation waits for transactions that have asserted a lease.
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR UPDATE;
    v_exists := FOUND;
    -- As every change: the first one after a failover, or in a restored copy, begins a new history.
    IF v_exists THEN
        v_cluster := muster_lock_cluster();
    END IF;

    IF v_exists AND v_cluster.current_epoch = p_new THEN
        RETURN QUERY SELECT 'unchanged', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid;
        RETURN;
    END IF;
    IF p_expected IS NOT NULL AND v_cluster.current_epoch IS DISTINCT FROM p_expected THEN
        RETURN QUERY
        SELECT 'epoch_mismatch', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid;
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM registry_epoch AS epoch WHERE epoch.cluster_epoch = p_new) THEN
        RETURN QUERY
        SELECT 'epoch_reused', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid;
        RETURN;
    END IF;

    SELECT coalesce(max(epoch.epoch_number), 0) + 1 INTO v_number FROM registry_epoch AS epoch;
    v_now := muster_now();
    -- Without a cluster row there may be instances even so, in a database that was filled before it had an epoch.
    v_revision := 1 + coalesce(v_cluster.revision, (SELECT max(instance.revision) FROM registry_instance AS instance), 0);
    -- First the history: the triggers of 016 take a cluster row whose epoch is not in it for one changed by hand.
    INSERT INTO registry_epoch (epoch_number, cluster_epoch, started_at, started_revision, reason, rotated_by)
    VALUES (v_number, p_new, v_now, v_revision, coalesce(p_reason, ''), coalesce(p_rotated_by, muster_sql_caller()));
    IF v_exists THEN
        UPDATE cluster_metadata
        SET current_epoch = p_new, epoch_number = v_number, updated_at = v_now
        WHERE id = 1;
    ELSE
        INSERT INTO cluster_metadata (id, current_epoch, epoch_number, revision, updated_at)
        VALUES (1, p_new, v_number, v_revision - 1, v_now);
    END IF;
    PERFORM muster_advance(v_revision);
    RETURN QUERY SELECT 'rotated', p_new, v_number, v_revision, v_cluster.current_epoch;
END
$$;

COMMENT ON FUNCTION muster_rotate_epoch(uuid, uuid, text, text) IS 'Begins a new epoch.';
REVOKE ALL ON FUNCTION muster_rotate_epoch(uuid, uuid, text, text) FROM PUBLIC;
