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
    v_cluster  cluster_metadata;
    v_ids      uuid[];
    v_ended_at timestamptz[];
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    IF NOT EXISTS (
        SELECT FROM registry_instance WHERE status <> 'dead' AND epoch_number < v_cluster.epoch_number
    ) THEN
        RETURN 0;
    END IF;
    v_cluster := muster_lock_cluster();
    SELECT
        coalesce(array_agg(older.instance_id ORDER BY older.lease_id), '{}'),
        coalesce(array_agg(coalesce(epoch.started_at, muster_now()) ORDER BY older.lease_id), '{}')
    INTO v_ids, v_ended_at
    FROM (
        SELECT instance.instance_id, instance.lease_id, instance.epoch_number
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.epoch_number < v_cluster.epoch_number
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) AS older
    LEFT JOIN registry_epoch AS epoch ON epoch.epoch_number = older.epoch_number + 1;
    RETURN muster_declare_dead(v_ids, v_ended_at, v_cluster.revision, 'old_epoch', NULL, p_decided_by);
END
$$;

COMMENT ON FUNCTION muster_reap_old_epoch(integer, text) IS 'Writes down, for at most p_limit instances of older epochs, the death they died when the epoch was rotated.';
REVOKE ALL ON FUNCTION muster_reap_old_epoch(integer, text) FROM PUBLIC;
