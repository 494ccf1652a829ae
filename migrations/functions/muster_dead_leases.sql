-- muster_dead_leases: For a hook: what is known of the ended leases that it is called with, and successor_started_at, from when
-- rows under the same actor name or instance id belong to another lease. Null: none has been registered since.
--
-- Returns leases that are not released alone, so that the right to call it, which muster_hook_set gives to the owner of the
-- hook, shows no other row of the registry.

CREATE OR REPLACE FUNCTION muster_dead_leases(p_lease_ids bigint[])
RETURNS TABLE (
    lease_id             bigint,
    instance_id          uuid,
    logical_id           text,
    actor_name           text,
    node_id              text,
    started_at           timestamptz,
    died_at              timestamptz,
    reason               text,
    successor_started_at timestamptz
)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    WITH dead AS MATERIALIZED (
        SELECT death.* FROM registry_death AS death WHERE death.lease_id = ANY (p_lease_ids) AND death.released_at IS NULL
    ), later AS (
        -- One pass over the instances for the whole batch: an index on the actor name would slow down every registration.
        SELECT dead.lease_id, instance.started_at
        FROM dead
        JOIN registry_instance AS instance ON instance.actor_name = dead.actor_name
        WHERE instance.lease_id > dead.lease_id
        UNION ALL
        SELECT dead.lease_id, instance.started_at
        FROM dead
        JOIN registry_instance AS instance ON instance.instance_id = dead.instance_id
        WHERE instance.lease_id > dead.lease_id
    )
    SELECT
        dead.lease_id, dead.instance_id, dead.logical_id, dead.actor_name, dead.node_id, dead.started_at, dead.died_at,
        dead.reason, (SELECT min(later.started_at) FROM later WHERE later.lease_id = dead.lease_id)
    FROM dead
    ORDER BY dead.lease_id;
$$;

COMMENT ON FUNCTION muster_dead_leases(bigint[]) IS 'For a hook: what is known of the ended leases that it is called with, and from when a successor holds the same actor name or instance id.';
REVOKE ALL ON FUNCTION muster_dead_leases(bigint[]) FROM PUBLIC;
