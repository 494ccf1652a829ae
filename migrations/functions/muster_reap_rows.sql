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
    v_ids uuid[];
BEGIN
    -- FOR UPDATE re-checks the deadline on the row as it is once locked: a beat saved meanwhile keeps it alive. Rows
    -- that a flush holds right now are skipped: they have just been heard.
    v_ids := ARRAY(
        SELECT instance.instance_id
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead'
          AND instance.cluster_epoch = p_cluster.current_epoch
          AND muster_deadline(greatest(instance.last_heartbeat, p_heard_as_of), coalesce(instance.ttl_ms, p_default_ttl_ms))
              < p_horizon
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    );
    RETURN muster_declare_dead(
        v_ids, array_fill(p_now, ARRAY[cardinality(v_ids)]), p_cluster.revision, 'stale', p_default_ttl_ms, p_decided_by);
END
$$;

COMMENT ON FUNCTION muster_reap_rows(cluster_metadata, timestamptz, timestamptz, timestamptz, bigint, integer, text) IS 'The deaths of muster_reap_stale.';
