-- muster_release_at_commit: Runs the hooks of mode commit in the transaction of the death, if its statement_timeout ends them
-- within 1 s: the cluster row is locked meanwhile, and every registration waits for it. In any other transaction, and if a
-- hook fails, the death is as good as with mode after.

CREATE OR REPLACE FUNCTION muster_release_at_commit()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF EXISTS (SELECT FROM registry_hook WHERE mode = 'commit' AND enabled)
        AND (SELECT setting::integer BETWEEN 1 AND 1000 FROM pg_settings WHERE name = 'statement_timeout')
    THEN
        PERFORM muster_run_hooks(
            ARRAY(
                SELECT one
                FROM registry_hook AS one
                WHERE one.mode = 'commit' AND one.enabled AND one.system_id IS NOT DISTINCT FROM muster_system_id()
                ORDER BY one.name
            ),
            1000
        );
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION muster_release_at_commit() IS 'Runs the hooks of mode commit in the transaction of the death, if its statement_timeout ends them within 1 s.';
REVOKE ALL ON FUNCTION muster_release_at_commit() FROM PUBLIC;
