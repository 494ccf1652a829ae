-- muster_release_state: How the release of deaths gets on, for daemons and musterd check: deaths that are not released (at most
-- 100,000 are counted), how long ago the first of them died, the latest failure of one that has failed, hooks that wait for an
-- operator, and whether hooks are to run in the transaction of a death.

CREATE OR REPLACE FUNCTION muster_release_state()
RETURNS TABLE (
    unreleased    bigint,
    oldest_ms     bigint,
    failure       text,
    waiting       text[],
    has_hooks     boolean,
    has_at_commit boolean
)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    SELECT
        (SELECT count(*) FROM (SELECT FROM registry_death WHERE released_at IS NULL LIMIT 100000) AS pending),
        (SELECT -muster_ms_until(min(pending.died_at), muster_now())
         FROM (SELECT died_at FROM registry_death WHERE released_at IS NULL LIMIT 100000) AS pending),
        (SELECT last_error FROM registry_death
         WHERE released_at IS NULL AND attempts > 0
         ORDER BY attempts DESC, lease_id DESC
         LIMIT 1),
        ARRAY(
            SELECT name || CASE WHEN enabled THEN ' (set in another PostgreSQL cluster)' ELSE ' (disabled)' END
            FROM registry_hook
            WHERE NOT enabled OR system_id IS DISTINCT FROM muster_system_id()
            ORDER BY name
        ),
        EXISTS (SELECT FROM registry_hook),
        EXISTS (SELECT FROM registry_hook WHERE mode = 'commit' AND enabled);
$$;

COMMENT ON FUNCTION muster_release_state() IS 'How the release of deaths gets on, for daemons and musterd check.';
REVOKE ALL ON FUNCTION muster_release_state() FROM PUBLIC;
