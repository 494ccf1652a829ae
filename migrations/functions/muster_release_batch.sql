-- muster_release_batch: What muster_release_deaths does, told hook by hook: its name, for how many deaths it ran, how many of
-- them are released with it, how many rows it freed, how long it took, and why it failed, if it did. No row: nothing is due.
--
-- Call it in a transaction of its own, under a statement_timeout: a hook that takes longer has failed, and is repeated.

CREATE OR REPLACE FUNCTION muster_release_batch(p_limit integer DEFAULT 1000)
RETURNS TABLE (
    hook       text,
    deaths     integer,
    released   integer,
    freed      bigint,
    elapsed_ms double precision,
    failure    text
)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    RETURN QUERY
    SELECT ran.*
    FROM muster_run_hooks(
        ARRAY(
            SELECT one
            FROM registry_hook AS one
            WHERE one.enabled AND one.system_id IS NOT DISTINCT FROM muster_system_id()
            ORDER BY one.name
        ),
        p_limit
    ) AS ran;
END
$$;

COMMENT ON FUNCTION muster_release_batch(integer) IS 'Runs the hooks for at most p_limit deaths, and returns what each hook did.';
REVOKE ALL ON FUNCTION muster_release_batch(integer) FROM PUBLIC;
