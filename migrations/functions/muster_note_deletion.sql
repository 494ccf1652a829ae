-- muster_note_deletion: Keeps readers from missing rows that are deleted, by the purge or by hand.
--
-- A dead row is its own tombstone: a reader that has not seen it must reload the registry. A live row leaves no
-- tombstone, so every reader must reload. The same holds for a dead row that was deleted out of order, because readers
-- take the purge to be complete up to its revision.
--
-- The lease of a live row ends with its deletion: it is recorded as a death.

CREATE OR REPLACE FUNCTION muster_note_deletion()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    UPDATE cluster_metadata
    SET purged_revision = greatest(purged_revision, (SELECT max(gone.revision) FROM gone WHERE gone.status = 'dead')),
        history_id = CASE
            WHEN EXISTS (SELECT FROM gone WHERE gone.status <> 'dead')
                OR (SELECT min(gone.revision) FROM gone WHERE gone.status = 'dead') <= purged_revision
                OR EXISTS (
                    SELECT FROM registry_instance AS kept
                    WHERE kept.status = 'dead'
                      AND kept.revision < (SELECT max(gone.revision) FROM gone WHERE gone.status = 'dead')
                )
            THEN gen_random_uuid()
            ELSE history_id
        END
    WHERE id = 1 AND EXISTS (SELECT FROM gone);
    INSERT INTO registry_death (
        lease_id, revision, instance_id, logical_id, actor_name, node_id, epoch_number, started_at, died_at, reason,
        decided_by, owner, released_at
    )
    SELECT
        gone.lease_id, gone.revision, gone.instance_id, gone.logical_id, gone.actor_name, gone.node_id, gone.epoch_number,
        gone.started_at, muster_now(), 'operator', muster_sql_caller(), gone.owner,
        CASE WHEN NOT EXISTS (SELECT FROM registry_hook) THEN muster_now() END
    FROM gone
    WHERE gone.status <> 'dead'
    ON CONFLICT (lease_id) DO NOTHING;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION muster_note_deletion() IS 'Keeps readers from missing rows that are deleted, by the purge or by hand.';
REVOKE ALL ON FUNCTION muster_note_deletion() FROM PUBLIC;
