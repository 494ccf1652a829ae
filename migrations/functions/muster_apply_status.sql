-- muster_apply_status: Applies one change of status at p_revision. Allowed: starting to alive, alive to draining and
-- back, anything to dead; the present status is accepted and changes nothing, but for another reason, at most every 10 s:
-- each change is a revision that all watchers receive. The caller holds the cluster row and the instance row.
--
-- An instance of another owner than the identity that asks is unknown, unless the operation says as_operator. A daemon has
-- decided by what it knew; the row may have changed its owner since. What is changed as_operator is recorded as a decision.

CREATE OR REPLACE FUNCTION muster_apply_status(
    p_op         muster_operation,
    p_cluster    cluster_metadata,
    p_revision   bigint,
    p_decided_by text
)
RETURNS muster_outcome
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_row registry_instance;
    v_old boolean;
    v_set muster_outcome;
    v_now timestamptz := muster_now();
BEGIN
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_op.instance_id;
    IF NOT FOUND OR p_op.lease_id > v_row.lease_id
        OR (p_op.identity IS NOT NULL AND p_op.as_operator IS NOT TRUE AND v_row.owner IS DISTINCT FROM p_op.identity)
    THEN
        RETURN ('unknown', false, p_op.instance_id, p_op.lease_id, NULL, NULL, NULL)::muster_outcome;
    END IF;
    v_old := v_row.cluster_epoch <> p_cluster.current_epoch;
    v_set := ('set', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms);

    IF p_op.lease_id < v_row.lease_id THEN
        -- That lease has ended; to end it again is no error, and must not touch the one that took its place.
        v_set.lease_id := p_op.lease_id;
        v_set.status := 'dead';
        v_set.verdict := CASE WHEN p_op.status = 'dead' THEN 'set' ELSE 'lease_replaced' END;
    ELSIF p_op.status = v_row.status AND (p_op.status = 'dead' OR NOT v_old) THEN
        IF p_op.status <> 'dead' AND p_op.status_reason <> coalesce(v_row.status_reason, '')
            AND coalesce(v_row.status_since, v_row.started_at) <= v_now - interval '10 seconds'
        THEN
            UPDATE registry_instance
            SET status_reason = p_op.status_reason, status_since = v_now, revision = p_revision
            WHERE instance_id = v_row.instance_id;
            v_set.changed := true;
        END IF;
    ELSIF v_row.status = 'dead' THEN
        v_set.verdict := 'expired';
    ELSIF p_op.status = 'dead' THEN
        UPDATE registry_instance
        SET status = 'dead', stopped_at = v_now, revision = p_revision, status_reason = p_op.status_reason, status_since = v_now,
            death_reason = CASE WHEN v_old THEN 'old_epoch' ELSE coalesce(p_op.reason, 'deregistered') END,
            death_deadline = muster_deadline(last_heartbeat, ttl_ms),
            death_decided_by = p_decided_by || coalesce(' for ' || p_op.identity, '')
        WHERE instance_id = v_row.instance_id;
        v_set.changed := true;
    ELSIF v_old THEN
        v_set.verdict := 'epoch_fenced';
    ELSIF (v_row.status, p_op.status) IN (('starting', 'alive'), ('alive', 'draining'), ('draining', 'alive')) THEN
        UPDATE registry_instance
        SET status = p_op.status, revision = p_revision, status_reason = p_op.status_reason, status_since = v_now
        WHERE instance_id = v_row.instance_id;
        v_set.changed := true;
    ELSE
        v_set.verdict := 'invalid_transition';
    END IF;

    IF v_set.changed THEN
        v_set.revision := p_revision;
        v_set.status := p_op.status;
    END IF;
    IF v_set.changed AND p_op.as_operator THEN
        PERFORM muster_audit(
            CASE WHEN p_op.status <> 'dead' THEN 'set_status' WHEN p_op.reason = 'operator' THEN 'expire' ELSE 'deregister' END,
            p_decided_by || coalesce(' for ' || p_op.identity, ''), 'instance ' || v_row.instance_id,
            jsonb_build_object(
                'logical_id', v_row.logical_id, 'lease_id', v_row.lease_id, 'owner', v_row.owner,
                'status', p_op.status, 'reason', nullif(p_op.status_reason, '')),
            p_revision);
    END IF;
    RETURN v_set;
END
$$;

COMMENT ON FUNCTION muster_apply_status(muster_operation, cluster_metadata, bigint, text) IS 'Applies one change of status at p_revision.';
