-- muster_exchange_suspicions: Notes leases that the calling daemon has lost contact with, last heard of p_ages_ms ago;
-- withdraws those that it has heard of since (p_heard), that have ended, or of which a later beat is saved; and
-- returns the ones that stand, each with its age in milliseconds. At most suspicions_max stand at a time: of more, the other
-- daemons learn when the TTL has passed.

CREATE OR REPLACE FUNCTION muster_exchange_suspicions(p_lost bigint[], p_ages_ms bigint[], p_heard bigint[])
RETURNS TABLE (
    lease_id bigint,
    age_ms   bigint
)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := muster_now();
BEGIN
    -- A hint that a crash takes is told again, or no longer true.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- By lease id, so that daemons never wait for each other in a circle; the deletion below waits for no lock. Here and
    -- there a subquery for each row, because a plan for a table that was never analysed might read all instances instead.
    IF cardinality(p_lost) > 0 THEN
        INSERT INTO registry_suspicion AS suspicion (lease_id, suspected_at)
        SELECT lost.lease_id, v_now - lost.age_ms * interval '1 millisecond'
        FROM unnest(p_lost, p_ages_ms) AS lost (lease_id, age_ms)
        WHERE (
            SELECT instance.status <> 'dead'
            FROM registry_instance AS instance
            WHERE instance.lease_id = lost.lease_id
        )
        ORDER BY lost.lease_id
        LIMIT greatest((SELECT suspicions_max FROM muster_limits()) - (SELECT count(*) FROM registry_suspicion), 0)
        ON CONFLICT (lease_id) DO UPDATE SET suspected_at = excluded.suspected_at;
    END IF;
    -- A second more: what is saved of a beat is later by the time that takes.
    DELETE FROM registry_suspicion
    WHERE lease_id IN (
        SELECT suspicion.lease_id
        FROM registry_suspicion AS suspicion
        WHERE suspicion.lease_id = ANY (p_heard)
           OR coalesce((
                  SELECT instance.last_heartbeat > least(suspicion.suspected_at, timestamptz '9999-12-31 00:00:00+00') + interval '1 second'
                  FROM registry_instance AS instance
                  WHERE instance.lease_id = suspicion.lease_id AND instance.status <> 'dead'
              ), true)
        ORDER BY suspicion.lease_id
        FOR UPDATE SKIP LOCKED
    );
    RETURN QUERY
    SELECT suspicion.lease_id, greatest(-muster_ms_until(suspicion.suspected_at, v_now), 0)
    FROM registry_suspicion AS suspicion;
END
$$;

COMMENT ON FUNCTION muster_exchange_suspicions(bigint[], bigint[], bigint[]) IS 'Notes leases that the calling daemon has lost contact with, last heard of p_ages_ms ago.';
REVOKE ALL ON FUNCTION muster_exchange_suspicions(bigint[], bigint[], bigint[]) FROM PUBLIC;
