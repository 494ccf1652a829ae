-- muster_daemon_stopped: Removes a daemon that has saved all its beats and leaves.

CREATE OR REPLACE FUNCTION muster_daemon_stopped(p_daemon_id uuid)
RETURNS void
LANGUAGE sql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    DELETE FROM registry_daemon WHERE daemon_id = p_daemon_id;
$$;

COMMENT ON FUNCTION muster_daemon_stopped(uuid) IS 'Removes a daemon that has saved all its beats and leaves.';
REVOKE ALL ON FUNCTION muster_daemon_stopped(uuid) FROM PUBLIC;
