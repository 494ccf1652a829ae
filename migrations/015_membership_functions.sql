-- 015: membership changes: register, change status, deregister.
--
-- There is one way to change membership, muster_apply, for daemons and for SQL callers alike. It takes a group of
-- operations, so that a daemon can make many of them durable with one commit, and answers each with a verdict instead
-- of an error, so that one refused operation does not undo the others of its group.

CREATE TYPE muster_operation AS (
    op            text,
    instance_id   uuid,
    lease_id      bigint,
    logical_id    text,
    cluster_epoch uuid,
    status        InstanceStatus,
    actor_name    text,
    serve_route   text,
    node_id       text,
    ip_address    inet,
    port          integer,
    pid           integer,
    version       text,
    labels        jsonb,
    ttl_ms        integer,
    reason        text
);

COMMENT ON TYPE muster_operation IS 'One change asked for. op: register, or status (with the new status; dead ends the lease, for the reason given).';

CREATE TYPE muster_outcome AS (
    verdict     text,
    changed     boolean,
    instance_id uuid,
    lease_id    bigint,
    revision    bigint,
    status      InstanceStatus,
    ttl_ms      integer,
    detail      jsonb
);

COMMENT ON TYPE muster_outcome IS 'What became of it. verdict: created, renewed, replaced (a registration); set (a status); or the refusals epoch_fenced, taken, unknown, expired, lease_replaced, invalid_transition, invalid. changed: whether a revision was used.';

CREATE FUNCTION muster_same_owner(p_row registry_instance, p_op muster_operation)
RETURNS boolean
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT p_row.logical_id = p_op.logical_id
       AND p_row.node_id IS NOT DISTINCT FROM p_op.node_id
       AND p_row.pid IS NOT DISTINCT FROM p_op.pid
       AND (
           (p_row.node_id IS NOT NULL AND p_row.pid IS NOT NULL)
           OR (p_row.ip_address IS NOT DISTINCT FROM p_op.ip_address AND p_row.port IS NOT DISTINCT FROM p_op.port)
       );
$$;

COMMENT ON FUNCTION muster_same_owner(registry_instance, muster_operation) IS 'Whether a registration comes from the process that holds the row: logical id, node and pid agree; where node or pid is unknown, address and port must agree as well.';

CREATE FUNCTION muster_apply_register(p_op muster_operation, p_cluster cluster_metadata, p_revision bigint)
RETURNS muster_outcome
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_now    timestamptz := muster_now();
    v_row    registry_instance;
    v_status InstanceStatus := coalesce(p_op.status, 'starting');
    v_new    registry_instance;
BEGIN
    IF coalesce(p_op.cluster_epoch, p_cluster.current_epoch) <> p_cluster.current_epoch THEN
        RETURN ('epoch_fenced', false, p_op.instance_id, NULL, NULL, NULL, NULL, NULL)::muster_outcome;
    END IF;
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_op.instance_id;

    IF v_row.instance_id IS NOT NULL AND v_row.status <> 'dead' AND v_row.cluster_epoch = p_cluster.current_epoch THEN
        IF NOT muster_same_owner(v_row, p_op) THEN
            RETURN ('taken', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms,
                    jsonb_build_object('node_id', v_row.node_id, 'ip_address', host(v_row.ip_address), 'pid', v_row.pid))::muster_outcome;
        END IF;
        RETURN muster_renew_registration(v_row, p_op, v_now, p_revision);
    END IF;

    IF v_row.instance_id IS NOT NULL THEN
        -- Its place can be taken once nobody relies on the ended lease any more (assert_lease). To wait for that would
        -- make everybody wait, who needs the cluster row.
        PERFORM FROM registry_instance WHERE instance_id = p_op.instance_id FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN ('taken', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms,
                    jsonb_build_object('node_id', v_row.node_id, 'ip_address', host(v_row.ip_address), 'pid', v_row.pid))::muster_outcome;
        END IF;
    END IF;

    INSERT INTO registry_instance AS instance (
        instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
        started_at, stopped_at, last_heartbeat, lease_id, revision, epoch_number, ttl_ms, port, labels, version,
        replaces_lease_id, death_reason, death_deadline, death_decided_by
    )
    VALUES (
        p_op.instance_id, p_op.logical_id, p_cluster.current_epoch, v_status, p_op.actor_name, p_op.serve_route,
        p_op.node_id, p_op.ip_address, p_op.pid, v_now, NULL, v_now, p_revision, p_revision, p_cluster.epoch_number,
        p_op.ttl_ms, p_op.port, coalesce(p_op.labels, '{}'), p_op.version, v_row.lease_id, NULL, NULL, NULL
    )
    ON CONFLICT (instance_id) DO UPDATE SET
        logical_id = excluded.logical_id, cluster_epoch = excluded.cluster_epoch, status = excluded.status,
        actor_name = excluded.actor_name, serve_route = excluded.serve_route, node_id = excluded.node_id,
        ip_address = excluded.ip_address, pid = excluded.pid, started_at = excluded.started_at, stopped_at = NULL,
        last_heartbeat = excluded.last_heartbeat, lease_id = excluded.lease_id, revision = excluded.revision,
        epoch_number = excluded.epoch_number, ttl_ms = excluded.ttl_ms, port = excluded.port,
        labels = excluded.labels, version = excluded.version, replaces_lease_id = excluded.replaces_lease_id,
        death_reason = NULL, death_deadline = NULL, death_decided_by = NULL;
    RETURN (CASE WHEN v_row.instance_id IS NULL THEN 'created' ELSE 'replaced' END, true, p_op.instance_id, p_revision,
            p_revision, v_status, p_op.ttl_ms, NULL)::muster_outcome;
END
$$;

COMMENT ON FUNCTION muster_apply_register(muster_operation, cluster_metadata, bigint) IS 'Applies one registration at p_revision: a new lease; or, for the same owner of a live one, the lease it has with its attributes brought up to date. The caller holds the cluster row and the instance row.';

CREATE FUNCTION muster_renew_registration(
    p_row      registry_instance,
    p_op       muster_operation,
    p_now      timestamptz,
    p_revision bigint
)
RETURNS muster_outcome
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_status  InstanceStatus := p_row.status;
    v_changed boolean;
BEGIN
    -- A repeated call must not move the instance back: of the statuses it may ask for only alive leads forward.
    IF p_row.status = 'starting' AND p_op.status = 'alive' THEN
        v_status := 'alive';
    END IF;
    v_changed := (v_status, p_op.actor_name, p_op.serve_route, p_op.ip_address, p_op.port, p_op.ttl_ms, p_op.version,
                  coalesce(p_op.labels, '{}'))
        IS DISTINCT FROM
        (p_row.status, p_row.actor_name, p_row.serve_route, p_row.ip_address, p_row.port, p_row.ttl_ms, p_row.version,
         p_row.labels);
    IF v_changed THEN
        UPDATE registry_instance
        SET status = v_status, actor_name = p_op.actor_name, serve_route = p_op.serve_route,
            ip_address = p_op.ip_address, port = p_op.port, ttl_ms = p_op.ttl_ms, version = p_op.version,
            labels = coalesce(p_op.labels, '{}'), revision = p_revision,
            last_heartbeat = greatest(last_heartbeat, p_now)
        WHERE instance_id = p_row.instance_id;
    ELSE
        -- A write even so: on a synchronous standby the repeated call is confirmed only once the first one is there.
        UPDATE registry_instance
        SET last_heartbeat = greatest(last_heartbeat, p_now)
        WHERE instance_id = p_row.instance_id;
    END IF;
    RETURN ('renewed', v_changed, p_row.instance_id, p_row.lease_id,
            CASE WHEN v_changed THEN p_revision ELSE p_row.revision END, v_status, p_op.ttl_ms, NULL)::muster_outcome;
END
$$;

COMMENT ON FUNCTION muster_renew_registration(registry_instance, muster_operation, timestamptz, bigint) IS 'A registration repeated by the owner of a live lease: same lease, attributes as now given.';

CREATE FUNCTION muster_apply_status(
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
BEGIN
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_op.instance_id;
    IF NOT FOUND OR p_op.lease_id > v_row.lease_id THEN
        RETURN ('unknown', false, p_op.instance_id, p_op.lease_id, NULL, NULL, NULL, NULL)::muster_outcome;
    END IF;
    v_old := v_row.cluster_epoch <> p_cluster.current_epoch;
    v_set := ('set', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms, NULL);

    IF p_op.lease_id < v_row.lease_id THEN
        -- That lease has ended; to end it again is no error, and must not touch the one that took its place.
        v_set.lease_id := p_op.lease_id;
        v_set.status := 'dead';
        v_set.verdict := CASE WHEN p_op.status = 'dead' THEN 'set' ELSE 'lease_replaced' END;
    ELSIF p_op.status = v_row.status AND (p_op.status = 'dead' OR NOT v_old) THEN
        NULL;
    ELSIF v_row.status = 'dead' THEN
        v_set.verdict := 'expired';
    ELSIF p_op.status = 'dead' THEN
        UPDATE registry_instance
        SET status = 'dead', stopped_at = muster_now(), revision = p_revision,
            death_reason = CASE WHEN v_old THEN 'old_epoch' ELSE coalesce(p_op.reason, 'deregistered') END,
            death_deadline = last_heartbeat + make_interval(secs => coalesce(ttl_ms, 15000) / 1000.0),
            death_decided_by = p_decided_by
        WHERE instance_id = v_row.instance_id;
        v_set.changed := true;
    ELSIF v_old THEN
        v_set.verdict := 'epoch_fenced';
    ELSIF (v_row.status, p_op.status) IN (('starting', 'alive'), ('alive', 'draining'), ('draining', 'alive')) THEN
        UPDATE registry_instance
        SET status = p_op.status, revision = p_revision
        WHERE instance_id = v_row.instance_id;
        v_set.changed := true;
    ELSE
        v_set.verdict := 'invalid_transition';
    END IF;

    IF v_set.changed THEN
        v_set.revision := p_revision;
        v_set.status := p_op.status;
    END IF;
    RETURN v_set;
END
$$;

COMMENT ON FUNCTION muster_apply_status(muster_operation, cluster_metadata, bigint, text) IS 'Applies one change of status at p_revision. Allowed: starting to alive, alive to draining and back, anything to dead; the present status is accepted and changes nothing. The caller holds the cluster row and the instance row.';

CREATE FUNCTION muster_register_new(p_ops muster_operation[], p_cluster cluster_metadata)
RETURNS SETOF registry_instance
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_now timestamptz := muster_now();
BEGIN
    RETURN QUERY
    INSERT INTO registry_instance (
        instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
        started_at, last_heartbeat, lease_id, revision, epoch_number, ttl_ms, port, labels, version
    )
    SELECT
        op.instance_id, op.logical_id, p_cluster.current_epoch, coalesce(op.status, 'starting'), op.actor_name,
        op.serve_route, op.node_id, op.ip_address, op.pid, v_now, v_now, p_cluster.revision + op.ordinality,
        p_cluster.revision + op.ordinality, p_cluster.epoch_number, op.ttl_ms, op.port, coalesce(op.labels, '{}'),
        op.version
    FROM unnest(p_ops) WITH ORDINALITY AS op
    RETURNING *;
END
$$;

COMMENT ON FUNCTION muster_register_new(muster_operation[], cluster_metadata) IS 'Registers a group of instances of which none is on record, with one statement: several times as fast as one by one. Returns their rows. The caller holds the cluster row, and has made sure of what it says here.';

CREATE FUNCTION muster_apply(p_operations jsonb, p_decided_by text, p_until timestamptz DEFAULT NULL)
RETURNS TABLE (
    verdict       text,
    changed       boolean,
    instance_id   uuid,
    lease_id      bigint,
    revision      bigint,
    status        InstanceStatus,
    ttl_ms        integer,
    detail        jsonb,
    cluster_epoch uuid,
    epoch_number  bigint
)
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
-- Rows are found by their ids. A plan made while the table was new, or never analysed, would read all of it for each group
-- of a fleet that registers.
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_cluster  cluster_metadata;
    v_ops      muster_operation[];
    v_op       muster_operation;
    v_outcome  muster_outcome;
    v_known    bigint[];
    v_revision bigint;
BEGIN
    -- Read once, and before anybody has to wait for it.
    v_ops := ARRAY(SELECT ROW(op.*)::muster_operation FROM jsonb_populate_recordset(NULL::muster_operation, p_operations) AS op);
    v_cluster := muster_lock_cluster();
    IF muster_now() > p_until THEN
        RAISE EXCEPTION 'the change arrived too late' USING ERRCODE = 'query_canceled';
    END IF;
    v_revision := v_cluster.revision;

    -- All rows of the group at once, in the order in which flushes lock theirs. The leases first, one by one, because that
    -- order must not make anybody walk through all leases; none can change while the cluster row is held.
    v_known := ARRAY(
        SELECT (SELECT instance.lease_id FROM registry_instance AS instance WHERE instance.instance_id = op.instance_id)
        FROM unnest(v_ops) AS op
    );
    PERFORM FROM registry_instance AS instance
    WHERE instance.lease_id = ANY (v_known)
    ORDER BY instance.lease_id
    FOR NO KEY UPDATE;

    -- What a fleet does when it starts: new instances alone.
    IF NOT FOUND AND (
        SELECT count(*) = count(DISTINCT op.instance_id)
           AND bool_and(op.op = 'register' AND coalesce(op.cluster_epoch, v_cluster.current_epoch) = v_cluster.current_epoch)
        FROM unnest(v_ops) AS op
    ) THEN
        RETURN QUERY
        SELECT 'created', true, instance.instance_id, instance.lease_id, instance.revision, instance.status,
               instance.ttl_ms, NULL::jsonb, instance.cluster_epoch, instance.epoch_number
        FROM muster_register_new(v_ops, v_cluster) AS instance
        ORDER BY instance.lease_id;
        PERFORM muster_advance(v_revision + cardinality(v_ops));
        RETURN;
    END IF;

    FOREACH v_op IN ARRAY v_ops
    LOOP
        CASE v_op.op
            WHEN 'register' THEN
                v_outcome := muster_apply_register(v_op, v_cluster, v_revision + 1);
            WHEN 'status' THEN
                v_outcome := muster_apply_status(v_op, v_cluster, v_revision + 1, p_decided_by);
        END CASE;
        IF v_outcome.changed THEN
            v_revision := v_revision + 1;
        END IF;
        RETURN QUERY
        SELECT v_outcome.verdict, v_outcome.changed, v_outcome.instance_id, v_outcome.lease_id, v_outcome.revision,
               v_outcome.status, v_outcome.ttl_ms, v_outcome.detail, v_cluster.current_epoch, v_cluster.epoch_number;
    END LOOP;
    PERFORM muster_advance(v_revision);
END
$$;

COMMENT ON FUNCTION muster_apply(jsonb, text, timestamptz) IS 'Applies a group of membership changes (an array of muster_operation objects) in order, in one transaction, and returns one outcome for each, in the same order. Each change gets a revision of its own. Locks the cluster row, then the instance rows by lease id. After p_until it changes nothing: whoever asked has given up by then, and may have asked for something else since.';

CREATE FUNCTION muster_apply_one(p_operation muster_operation)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_verdict text;
BEGIN
    SELECT applied.verdict INTO STRICT v_verdict
    FROM muster_apply(jsonb_build_array(to_jsonb(p_operation)), 'sql') AS applied;
    CASE v_verdict
        WHEN 'epoch_fenced' THEN
            RAISE EXCEPTION 'instance % belongs to an epoch that is not current', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Read cluster_metadata.current_epoch and register in it.';
        WHEN 'taken' THEN
            RAISE EXCEPTION 'instance id % is held by a live instance of another owner', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Register under a fresh instance id.';
        WHEN 'unknown' THEN
            RAISE EXCEPTION 'instance % is not on record', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Register it first.';
        WHEN 'expired' THEN
            RAISE EXCEPTION 'instance % is dead', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Dead is final: register anew.';
        WHEN 'invalid_transition' THEN
            RAISE EXCEPTION 'instance % cannot become %', p_operation.instance_id, p_operation.status
                USING ERRCODE = muster_error_code(v_verdict),
                      HINT = 'Allowed: starting to alive, alive to draining and back, anything to dead.';
        ELSE
            NULL;
    END CASE;
END
$$;

COMMENT ON FUNCTION muster_apply_one(muster_operation) IS 'Applies one change for a direct SQL caller, to whom a refusal is an error.';
