-- muster_release_deaths: Runs the hooks for at most p_limit deaths that are not released yet. Returns how many are released
-- with it; 0 if nothing is due, or if a hook failed (registry_death.last_error). Daemons call it; without a daemon, call it
-- each second, in a transaction of its own.

CREATE OR REPLACE FUNCTION muster_release_deaths(p_limit integer DEFAULT 1000)
RETURNS integer
LANGUAGE sql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    SELECT coalesce(sum(released), 0)::integer FROM muster_release_batch(p_limit);
$$;

COMMENT ON FUNCTION muster_release_deaths(integer) IS 'Runs the hooks for at most p_limit deaths that are not released yet, and returns how many are released with it.';
REVOKE ALL ON FUNCTION muster_release_deaths(integer) FROM PUBLIC;
