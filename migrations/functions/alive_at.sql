-- alive_at: Returns the instances that were alive at a time, as far as they are on record.
--
-- Dead rows are kept for 24 h by default. Older leases, and those whose instance id was registered again, are known by the
-- record of their death (registry_death), for 7 days by default; of them, columns that it does not hold are null. An
-- instance of an older epoch ended with its epoch.

CREATE OR REPLACE FUNCTION alive_at(p_at timestamptz)
RETURNS SETOF registry_instance
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
    SELECT was_alive.*
    FROM (
        SELECT instance.*
        FROM registry_instance AS instance
        LEFT JOIN registry_epoch AS following ON following.epoch_number - 1 = instance.epoch_number
        WHERE instance.started_at <= p_at
          AND coalesce(least(instance.stopped_at, following.started_at), 'infinity') > p_at
        UNION ALL
        SELECT known.*
        FROM registry_death AS death
        LEFT JOIN registry_epoch AS epoch ON epoch.epoch_number = death.epoch_number
        CROSS JOIN LATERAL jsonb_populate_record(NULL::registry_instance, to_jsonb(death) || jsonb_build_object(
            'cluster_epoch', epoch.cluster_epoch, 'status', 'dead', 'stopped_at', death.died_at,
            'death_reason', death.reason, 'death_decided_by', death.decided_by)) AS known
        WHERE death.started_at <= p_at AND death.died_at > p_at
          AND NOT EXISTS (SELECT FROM registry_instance AS kept WHERE kept.lease_id = death.lease_id)
    ) AS was_alive
    ORDER BY was_alive.logical_id, was_alive.started_at, was_alive.instance_id;
$$;

COMMENT ON FUNCTION alive_at(timestamptz) IS 'Returns the instances that were alive at a time, as far as they are on record.';
