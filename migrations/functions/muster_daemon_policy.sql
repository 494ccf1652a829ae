-- muster_daemon_policy: Puts on the list of daemons which policy and tokens a daemon has in use.
--
-- p_policy is the fingerprint that the daemon makes of them. A daemon that is not on the list changes nothing: it enters
-- again, and calls this function once it is on the list.

CREATE OR REPLACE FUNCTION muster_daemon_policy(p_daemon_id uuid, p_policy text)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    -- A commit that waits for a standby would keep the row that every flush of beats updates. What a crash loses is written again.
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE registry_daemon SET policy = left(p_policy, 64)
    WHERE daemon_id = p_daemon_id AND policy IS DISTINCT FROM left(p_policy, 64);
END
$$;

COMMENT ON FUNCTION muster_daemon_policy(uuid, text) IS 'Puts on the list of daemons which policy and tokens a daemon has in use.';
REVOKE ALL ON FUNCTION muster_daemon_policy(uuid, text) FROM PUBLIC;
