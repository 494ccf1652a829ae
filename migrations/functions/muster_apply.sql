-- muster_apply: Applies a group of membership changes in one transaction and returns one outcome for each, in the same
-- order, and the rows that changed.
--
-- p_operations is an array of muster_operation objects. Each change gets a revision of its own. Locks: the cluster row,
-- then instance rows by lease id. After p_until it changes nothing: the caller has given up by then, and may have asked
-- for something else since. p_seen is the revision that the caller has seen: a database that has lost it begins a new
-- history above it first, so that no lease id is granted twice.
--
-- With p_after, the answer also has all that a reader of revision p_after does not know yet, changes of others included, so
-- that a daemon reads its own change without a second query. A row of the answer has one or more of these parts:
--   verdict, not null       an outcome; these rows are in the order of the operations
--   instance_row, not null  an instance with a revision above p_after; these rows are in the order of their revisions
--   cluster_row, not null   the cluster row after the group: in the last row, and only if the instances are complete
-- The instances are incomplete if there are p_limit of them or more; the reader then has to ask for them.

CREATE OR REPLACE FUNCTION muster_apply(
    p_operations jsonb,
    p_decided_by text,
    p_until      timestamptz DEFAULT NULL,
    p_seen       bigint DEFAULT 0,
    p_after      bigint DEFAULT NULL,
    p_limit      integer DEFAULT 1000
)
RETURNS TABLE (
    verdict       text,
    changed       boolean,
    instance_id   uuid,
    lease_id      bigint,
    revision      bigint,
    status        InstanceStatus,
    ttl_ms        integer,
    cluster_epoch uuid,
    epoch_number  bigint,
    instance_row  registry_instance,
    cluster_row   cluster_metadata
)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
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
    v_new      boolean;
    v_read     integer := 0;
BEGIN
    -- Read once, and before anybody has to wait for it.
    v_ops := ARRAY(SELECT ROW(op.*)::muster_operation FROM jsonb_populate_recordset(NULL::muster_operation, p_operations) AS op);
    v_cluster := muster_lock_cluster();
    IF muster_now() > p_until THEN
        RAISE EXCEPTION 'the change arrived too late' USING ERRCODE = 'query_canceled';
    END IF;
    IF v_cluster.revision < p_seen THEN
        v_cluster := muster_new_history(v_cluster, p_seen, 'the database has lost revisions');
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
    v_new := NOT FOUND AND (
        SELECT count(*) = count(DISTINCT op.instance_id)
           AND bool_and(op.op = 'register' AND coalesce(op.cluster_epoch, v_cluster.current_epoch) = v_cluster.current_epoch)
        FROM unnest(v_ops) AS op
    );
    IF v_new THEN
        -- A reader that knows all before this group needs these rows alone.
        RETURN QUERY
        SELECT 'created', true, instance.instance_id, instance.lease_id, instance.revision, instance.status,
               instance.ttl_ms, instance.cluster_epoch, instance.epoch_number,
               CASE WHEN p_after = v_cluster.revision THEN instance END, NULL::cluster_metadata
        FROM muster_register_new(v_ops, v_cluster) AS instance
        ORDER BY instance.lease_id;
        v_revision := v_revision + cardinality(v_ops);
    ELSE
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
                   v_outcome.status, v_outcome.ttl_ms, v_cluster.current_epoch, v_cluster.epoch_number,
                   NULL::registry_instance, NULL::cluster_metadata;
        END LOOP;
    END IF;
    PERFORM muster_advance(v_revision);

    IF p_after IS NULL THEN
        RETURN;
    END IF;
    IF NOT v_new OR p_after <> v_cluster.revision THEN
        RETURN QUERY
        SELECT NULL::text, NULL::boolean, NULL::uuid, NULL::bigint, NULL::bigint, NULL::InstanceStatus, NULL::integer,
               NULL::uuid, NULL::bigint, instance, NULL::cluster_metadata
        FROM registry_instance AS instance
        WHERE instance.revision > p_after
        ORDER BY instance.revision
        LIMIT p_limit;
        GET DIAGNOSTICS v_read = ROW_COUNT;
    END IF;
    IF v_read < p_limit THEN
        RETURN QUERY
        SELECT NULL::text, NULL::boolean, NULL::uuid, NULL::bigint, NULL::bigint, NULL::InstanceStatus, NULL::integer,
               NULL::uuid, NULL::bigint, NULL::registry_instance, cluster
        FROM cluster_metadata AS cluster
        WHERE cluster.id = 1;
    END IF;
END
$$;

COMMENT ON FUNCTION muster_apply(jsonb, text, timestamptz, bigint, bigint, integer) IS 'Applies a group of membership changes in one transaction and returns one outcome for each, in the same order; with p_after, also the rows that changed since.';
REVOKE ALL ON FUNCTION muster_apply(jsonb, text, timestamptz, bigint, bigint, integer) FROM PUBLIC;
