-- alive_at: Returns the instances that were alive at a time, as far as they are on record.
--
-- Dead rows are kept for 24 h by default, and of an instance id only the latest lease. An instance of an older epoch
-- ended with its epoch.

CREATE OR REPLACE FUNCTION alive_at(p_at timestamptz)
RETURNS SETOF registry_instance
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
    SELECT instance.*
    FROM registry_instance AS instance
    LEFT JOIN registry_epoch AS following ON following.epoch_number - 1 = instance.epoch_number
    WHERE instance.started_at <= p_at
      AND coalesce(least(instance.stopped_at, following.started_at), 'infinity') > p_at
    ORDER BY instance.logical_id, instance.started_at, instance.instance_id;
$$;

COMMENT ON FUNCTION alive_at(timestamptz) IS 'Returns the instances that were alive at a time, as far as they are on record.';
