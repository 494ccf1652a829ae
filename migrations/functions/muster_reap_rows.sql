-- muster_reap_rows: The deaths of muster_reap_stale: deadlines before p_horizon, where each
-- lease counts as heard as of p_heard_as_of (muster_heard_as_of). The caller holds the cluster row.

CREATE OR REPLACE FUNCTION muster_reap_rows(
    p_cluster        cluster_metadata,
    p_now            timestamptz,
    p_horizon        timestamptz,
    p_heard_as_of    timestamptz,
    p_default_ttl_ms bigint,
    p_limit          integer,
    p_decided_by     text
)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_reaped integer;
BEGIN
    -- FOR UPDATE re-checks the deadline on the row as it is once locked: a beat saved meanwhile keeps it alive. Rows
    -- that a flush holds right now are skipped: they have just been heard.
    WITH overdue AS MATERIALIZED (
        SELECT instance.instance_id, instance.lease_id
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead'
          AND instance.cluster_epoch = p_cluster.current_epoch
          AND muster_deadline(greatest(instance.last_heartbeat, p_heard_as_of), coalesce(instance.ttl_ms, p_default_ttl_ms))
              < p_horizon
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), numbered AS (
        SELECT overdue.instance_id, p_cluster.revision + row_number() OVER (ORDER BY overdue.lease_id) AS revision
        FROM overdue
    )
    UPDATE registry_instance AS instance
    SET status = 'dead',
        stopped_at = p_now,
        status_reason = NULL,
        status_since = p_now,
        revision = numbered.revision,
        death_reason = 'stale',
        death_deadline = muster_deadline(instance.last_heartbeat, coalesce(instance.ttl_ms, p_default_ttl_ms)),
        death_decided_by = p_decided_by
    FROM numbered
    WHERE instance.instance_id = numbered.instance_id;
    GET DIAGNOSTICS v_reaped = ROW_COUNT;
    PERFORM muster_advance(p_cluster.revision + v_reaped);
    RETURN v_reaped;
END
$$;

COMMENT ON FUNCTION muster_reap_rows(cluster_metadata, timestamptz, timestamptz, timestamptz, bigint, integer, text) IS 'The deaths of muster_reap_stale.';
