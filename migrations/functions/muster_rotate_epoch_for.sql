-- muster_rotate_epoch_for: Begins a new epoch. Verdicts: rotated, unchanged (it is current already), epoch_mismatch
-- (p_expected is not current), epoch_reused, and too_soon: unless p_force is set, daemons rotate at most once in 10 s, and
-- retry_ms tells when again. Takes the transaction-level advisory lock 42, which vanishes with the transaction whatever
-- happens, then the cluster row. Touches no instance: those of older epochs are dead by definition, and written down later by
-- muster_reap_old_epoch.
--
-- Rotations of direct SQL callers do not count: SeedCore's start rotates, and an operator must be able to correct that. Neither
-- does the first epoch, nor one that lies in the future: the clock was set back, and that must not hold rotations up.

CREATE OR REPLACE FUNCTION muster_rotate_epoch_for(
    p_new        uuid,
    p_expected   uuid,
    p_reason     text,
    p_rotated_by text,
    p_force      boolean
)
RETURNS TABLE (
    verdict         text,
    cluster_epoch   uuid,
    epoch_number    bigint,
    revision        bigint,
    previous_epoch  uuid,
    retry_ms        bigint
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
    v_last     registry_epoch;
    v_retry_ms bigint := 0;
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
        RETURN QUERY SELECT 'unchanged', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, 0::bigint;
        RETURN;
    END IF;
    IF p_expected IS NOT NULL AND v_cluster.current_epoch IS DISTINCT FROM p_expected THEN
        RETURN QUERY
        SELECT 'epoch_mismatch', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, 0::bigint;
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM registry_epoch AS epoch WHERE epoch.cluster_epoch = p_new) THEN
        RETURN QUERY
        SELECT 'epoch_reused', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, 0::bigint;
        RETURN;
    END IF;

    v_now := muster_now();
    SELECT epoch.* INTO v_last FROM registry_epoch AS epoch ORDER BY epoch.epoch_number DESC LIMIT 1;
    v_number := coalesce(v_last.epoch_number, 0) + 1;
    IF v_last.epoch_number > 1 AND v_last.rotated_by !~ '^sql/' AND v_last.started_at <= v_now THEN
        v_retry_ms := greatest(10000 - floor(extract(epoch FROM v_now - v_last.started_at) * 1000)::bigint, 0);
    END IF;
    IF v_retry_ms > 0 AND p_force IS NOT TRUE THEN
        RETURN QUERY
        SELECT 'too_soon', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, v_retry_ms;
        RETURN;
    END IF;
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
    -- The first epoch is no decision: each registry begins with one.
    IF v_number > 1 THEN
        PERFORM muster_audit(
            'rotate', coalesce(p_rotated_by, muster_sql_caller()), 'epoch ' || v_number,
            jsonb_build_object(
                'epoch', p_new, 'previous', v_cluster.current_epoch, 'reason', nullif(p_reason, ''),
                'too_soon_by_ms', nullif(v_retry_ms, 0)),
            v_revision);
    END IF;
    RETURN QUERY SELECT 'rotated', p_new, v_number, v_revision, v_cluster.current_epoch, 0::bigint;
END
$$;

COMMENT ON FUNCTION muster_rotate_epoch_for(uuid, uuid, text, text, boolean) IS 'Begins a new epoch, at most once in 10 s unless it is forced.';
REVOKE ALL ON FUNCTION muster_rotate_epoch_for(uuid, uuid, text, text, boolean) FROM PUBLIC;
