-- 014: the cluster row: its lock, its revision, and the epoch.
--
-- Lock order everywhere: advisory lock (rotation and first epoch only), cluster_metadata, then registry_instance rows
-- by lease id.
--
-- Errors that callers can tell apart by SQLSTATE:
--   MU001 no epoch yet          MU002 epoch fenced           MU003 instance id taken      MU004 unknown instance
--   MU005 lease expired         MU006 invalid transition     MU007 epoch mismatch         MU008 epoch reused

CREATE FUNCTION muster_now()
RETURNS timestamptz
LANGUAGE sql
VOLATILE
AS $$
    SELECT clock_timestamp();
$$;

COMMENT ON FUNCTION muster_now() IS 'The clock that stamps and judges everything here: the time of the call, not of the transaction''s start, so that waiting for a lock ages nobody. One function, so that a test can replace it.';

CREATE FUNCTION muster_error_code(p_verdict text)
RETURNS text
LANGUAGE sql
IMMUTABLE STRICT
AS $$
    SELECT CASE p_verdict
        WHEN 'no_epoch' THEN 'MU001'
        WHEN 'epoch_fenced' THEN 'MU002'
        WHEN 'taken' THEN 'MU003'
        WHEN 'unknown' THEN 'MU004'
        WHEN 'expired' THEN 'MU005'
        WHEN 'lease_replaced' THEN 'MU005'
        WHEN 'invalid_transition' THEN 'MU006'
        WHEN 'epoch_mismatch' THEN 'MU007'
        WHEN 'epoch_reused' THEN 'MU008'
        WHEN 'invalid' THEN '22023'
    END;
$$;

COMMENT ON FUNCTION muster_error_code(text) IS 'The SQLSTATE with which a direct SQL caller learns of a verdict.';

CREATE FUNCTION muster_lock_cluster()
RETURNS cluster_metadata
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    -- An acknowledged change must survive a crash, whatever the session's default.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the cluster has no epoch yet'
            USING ERRCODE = muster_error_code('no_epoch'),
                  HINT = 'Begin one with SELECT set_current_epoch(gen_random_uuid()).';
    END IF;
    -- After a failover, and in a restored copy, the latest changes may be lost. Before anything is written, what was seen
    -- of them must become recognisably another history, so that no revision is used twice with different meanings.
    IF NOT muster_same_database(v_cluster) THEN
        v_cluster := muster_new_history(v_cluster, 0, CASE
            WHEN v_cluster.system_id <> muster_system_id() THEN 'the database was restored from a copy'
            ELSE 'the database has failed over'
        END);
    END IF;
    RETURN v_cluster;
END
$$;

COMMENT ON FUNCTION muster_lock_cluster() IS 'Locks the cluster row, which orders all membership changes, and returns it. First step of every change; held until after commit.';

CREATE FUNCTION muster_advance(p_revision bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
AS $$
BEGIN
    UPDATE cluster_metadata SET revision = p_revision WHERE id = 1 AND revision < p_revision;
    IF FOUND THEN
        -- A doorbell only: readers poll the revision itself, once a second at the latest.
        PERFORM pg_notify('muster', p_revision::text);
    END IF;
END
$$;

COMMENT ON FUNCTION muster_advance(bigint) IS 'Moves the revision on and rings the doorbell (channel muster, payload the revision). The caller holds the cluster row.';

CREATE FUNCTION muster_rotate_epoch(p_new uuid, p_expected uuid, p_reason text, p_rotated_by text)
RETURNS TABLE (
    verdict         text,
    cluster_epoch   uuid,
    epoch_number    bigint,
    revision        bigint,
    previous_epoch  uuid
)
LANGUAGE plpgsql
VOLATILE
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
    VALUES (v_number, p_new, v_now, v_revision, coalesce(p_reason, ''), coalesce(p_rotated_by, 'sql'));
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

COMMENT ON FUNCTION muster_rotate_epoch(uuid, uuid, text, text) IS 'Begins a new epoch. Verdicts: rotated, unchanged (it is current already), epoch_mismatch (p_expected is not current), epoch_reused. Takes the transaction-level advisory lock 42, which vanishes with the transaction whatever happens, then the cluster row. Touches no instance: those of older epochs are dead by definition, and written down later by muster_reap_old_epoch.';

CREATE FUNCTION muster_ensure_epoch(p_by text)
RETURNS uuid
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_epoch uuid;
BEGIN
    SELECT current_epoch INTO v_epoch FROM cluster_metadata WHERE id = 1;
    IF FOUND THEN
        RETURN v_epoch;
    END IF;
    -- Two daemons may meet here on an empty database: the second sees the first one's epoch once it has the lock.
    PERFORM pg_advisory_xact_lock(42);
    SELECT current_epoch INTO v_epoch FROM cluster_metadata WHERE id = 1;
    IF NOT FOUND THEN
        SELECT cluster_epoch INTO v_epoch FROM muster_rotate_epoch(gen_random_uuid(), NULL, 'first epoch', p_by);
    END IF;
    RETURN v_epoch;
END
$$;

COMMENT ON FUNCTION muster_ensure_epoch(text) IS 'Returns the current epoch, beginning the first one if there is none.';

CREATE OR REPLACE FUNCTION set_current_epoch(new_epoch uuid)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_verdict text;
BEGIN
    SELECT verdict INTO v_verdict FROM muster_rotate_epoch(new_epoch, NULL, 'set_current_epoch', 'sql');
    IF v_verdict = 'epoch_reused' THEN
        RAISE EXCEPTION 'epoch % was in use before', new_epoch
            USING ERRCODE = muster_error_code(v_verdict),
                  HINT = 'Epochs are never reused; take a fresh UUID.';
    END IF;
END
$$;

COMMENT ON FUNCTION set_current_epoch(uuid) IS 'Begins the epoch new_epoch; does nothing if it is current already. Instances of other epochs are dead from then on.';
