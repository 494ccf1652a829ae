-- muster_note_deletion: Keeps readers from missing rows that are deleted, by the purge or by hand. A dead row was its
-- own tombstone: readers that have not seen it must load everything anew. A live row leaves none, so everybody must;
-- likewise after a dead one that others before it outlast, or that should have been purged before, because readers
-- take the purge to be complete up to its revision.

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
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION muster_note_deletion() IS 'Keeps readers from missing rows that are deleted, by the purge or by hand.';
REVOKE ALL ON FUNCTION muster_note_deletion() FROM PUBLIC;
