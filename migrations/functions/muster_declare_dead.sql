-- muster_declare_dead: The deaths of a sweep, with their records, by one statement: of the instances whose rows the caller has
-- locked, in this order. The caller holds the cluster row.
--
-- One call of muster_record_death for each row costs as much as the rest of the sweep together. The setting tells the trigger
-- registry_instance_died that the record is written here, for the depth of triggers of this statement alone: what hooks
-- and triggers of others do meanwhile is at a greater depth, and is recorded as ever.

CREATE OR REPLACE FUNCTION muster_declare_dead(
    p_instance_ids   uuid[],
    p_ended_at       timestamptz[],
    p_revision       bigint,
    p_reason         text,
    p_default_ttl_ms bigint,
    p_decided_by     text
)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
-- The rows by their ids, as muster_flush_beats finds them: without statistics, or with many ids, a join reads the whole table.
-- registry_hook is read whole even so, at a cost for which the server would compile the statement first.
SET jit = off
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
AS $$
DECLARE
    v_died integer;
BEGIN
    PERFORM set_config('muster.deaths_recorded', pg_trigger_depth()::text, true);
    WITH died AS (
        UPDATE registry_instance AS instance
        SET status = 'dead',
            stopped_at = one.ended_at,
            status_reason = NULL,
            status_since = one.ended_at,
            revision = p_revision + one.number,
            death_reason = p_reason,
            death_deadline = muster_deadline(instance.last_heartbeat, coalesce(instance.ttl_ms, p_default_ttl_ms)),
            death_decided_by = p_decided_by
        FROM unnest(p_instance_ids, p_ended_at) WITH ORDINALITY AS one (instance_id, ended_at, number)
        WHERE instance.instance_id = one.instance_id
        RETURNING
            instance.lease_id, instance.revision, instance.instance_id, instance.logical_id, instance.actor_name,
            instance.node_id, instance.epoch_number, instance.started_at, instance.stopped_at, instance.death_reason,
            instance.death_decided_by, instance.owner
    ), recorded AS (
        -- A death must not fail because of its record, whatever was written there by hand.
        INSERT INTO registry_death (
            lease_id, revision, instance_id, logical_id, actor_name, node_id, epoch_number, started_at, died_at, reason,
            decided_by, owner, released_at
        )
        SELECT died.*, CASE WHEN NOT EXISTS (SELECT FROM registry_hook) THEN muster_now() END
        FROM died
        ON CONFLICT (lease_id) DO NOTHING
    )
    SELECT count(*) INTO v_died FROM died;
    PERFORM set_config('muster.deaths_recorded', '', true);
    PERFORM muster_advance(p_revision + v_died);
    RETURN v_died;
END
$$;

COMMENT ON FUNCTION muster_declare_dead(uuid[], timestamptz[], bigint, text, bigint, text) IS 'The deaths of a sweep, with their records.';
REVOKE ALL ON FUNCTION muster_declare_dead(uuid[], timestamptz[], bigint, text, bigint, text) FROM PUBLIC;
