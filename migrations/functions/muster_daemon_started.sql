-- muster_daemon_started: Enters a daemon that starts, and returns for how many milliseconds expiry is put on hold.
--
-- Expiry is held if no other daemon has flushed within stalled_after_ms, because beats had no receiver, or if the former
-- run of this daemon did not leave in order, because its beats are lost. A daemon that dies at this moment holds expiry by
-- its own row until it is evicted.

CREATE OR REPLACE FUNCTION muster_daemon_started(p_daemon_id uuid, p_address text, p_version text, p_host text DEFAULT '')
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_after   interval := (SELECT stalled_after_ms FROM muster_limits()) * interval '1 millisecond';
    v_now     timestamptz;
    v_fresh   boolean;
    v_crashed boolean;
BEGIN
    PERFORM muster_lock_cluster();
    v_now := muster_now();
    -- Its address is served again.
    DELETE FROM registry_daemon_loss WHERE address = p_address OR daemon_id = p_daemon_id;
    -- Two processes cannot listen at one address of one machine: the former run is gone, with what it had not saved.
    DELETE FROM registry_daemon
    WHERE daemon_id <> p_daemon_id AND p_host <> '' AND host = p_host AND address = p_address;
    v_crashed := FOUND;
    SELECT EXISTS (
        SELECT FROM registry_daemon WHERE daemon_id <> p_daemon_id AND last_flush > v_now - v_after
    ) INTO v_fresh;
    INSERT INTO registry_daemon (daemon_id, address, version, started_at, last_flush, saved_up_to, host)
    VALUES (p_daemon_id, p_address, p_version, v_now, v_now, v_now, p_host)
    ON CONFLICT (daemon_id) DO UPDATE SET last_flush = excluded.last_flush;
    IF v_fresh AND NOT v_crashed THEN
        RETURN 0;
    END IF;
    RETURN muster_note_disruption(
        CASE WHEN v_fresh THEN 'a daemon ended without saving its beats' ELSE 'no daemon was running' END);
END
$$;

COMMENT ON FUNCTION muster_daemon_started(uuid, text, text, text) IS 'Enters a daemon that starts, and returns for how many milliseconds expiry is put on hold.';
REVOKE ALL ON FUNCTION muster_daemon_started(uuid, text, text, text) FROM PUBLIC;
