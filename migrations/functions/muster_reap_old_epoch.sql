-- muster_reap_old_epoch: Writes down, for at most p_limit instances of older epochs, the death they died when the
-- epoch was rotated.

CREATE OR REPLACE FUNCTION muster_reap_old_epoch(p_limit integer, p_decided_by text)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_reaped  integer;
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    IF NOT EXISTS (
        SELECT FROM registry_instance WHERE status <> 'dead' AND epoch_number < v_cluster.epoch_number
    ) THEN
        RETURN 0;
    END IF;
    v_cluster := muster_lock_cluster();
    WITH older AS MATERIALIZED (
        SELECT instance.instance_id, instance.lease_id, instance.epoch_number
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.epoch_number < v_cluster.epoch_number
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), numbered AS (
        SELECT
            older.instance_id,
            v_cluster.revision + row_number() OVER (ORDER BY older.lease_id) AS revision,
            coalesce(epoch.started_at, muster_now()) AS ended_at
        FROM older
        LEFT JOIN registry_epoch AS epoch ON epoch.epoch_number = older.epoch_number + 1
    )
    UPDATE registry_instance AS instance
    SET status = 'dead',
        stopped_at = numbered.ended_at,
        status_reason = NULL,
        status_since = numbered.ended_at,
        revision = numbered.revision,
        death_reason = 'old_epoch',
        death_deadline = muster_deadline(instance.last_heartbeat, instance.ttl_ms),
        death_decided_by = p_decided_by
    FROM numbered
    WHERE instance.instance_id = numbered.instance_id;
    GET DIAGNOSTICS v_reaped = ROW_COUNT;
    PERFORM muster_advance(v_cluster.revision + v_reaped);
    RETURN v_reaped;
END
$$;

COMMENT ON FUNCTION muster_reap_old_epoch(integer, text) IS 'Writes down, for at most p_limit instances of older epochs, the death they died when the epoch was rotated.';
REVOKE ALL ON FUNCTION muster_reap_old_epoch(integer, text) FROM PUBLIC;
