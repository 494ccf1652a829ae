-- 018: when nobody may be declared dead, and what else must never be lost sight of: hold, brake, daemons, failover;
-- and what others can rely on: asserted leases, and who was alive when.
--
-- Silence of the registry itself must never kill anybody. Expiry is *held* while beats may not have been heard, and
-- *braked* when so many are overdue at once that the fault is more likely in between than with them.

-- Hold -----------------------------------------------------------------------------------------------------------

CREATE FUNCTION muster_hold_expiry(p_reason text, p_for_ms bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_for_ms  bigint := p_for_ms;
    v_until   timestamptz;
BEGIN
    v_cluster := muster_lock_cluster();
    IF v_for_ms IS NULL THEN
        SELECT max(coalesce(instance.ttl_ms, 15000)) + 5000 INTO v_for_ms
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch;
    END IF;
    IF v_for_ms IS NULL THEN
        RETURN 0;
    END IF;
    v_until := muster_now() + v_for_ms * interval '1 millisecond';
    -- An end that is absurdly late comes from a clock that was wrong; an operator's longest hold is an hour.
    IF coalesce(v_cluster.hold_until < v_until OR v_cluster.hold_until > muster_now() + interval '1 hour', true) THEN
        -- While nobody is judged there is no brake. After the hold it looks anew, with all of its minutes.
        UPDATE cluster_metadata
        SET hold_until = v_until, hold_reason = p_reason,
            brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL
        WHERE id = 1;
    END IF;
    RETURN v_for_ms;
END
$$;

COMMENT ON FUNCTION muster_hold_expiry(text, bigint) IS 'Suspends expiry for p_for_ms, or for the longest TTL of the living plus 5 s, so that all of them can be heard again first. Returns for how many milliseconds; 0 if nobody is alive. An end that is later already stays.';

CREATE FUNCTION muster_release_expiry(p_for_ms bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM muster_lock_cluster();
    UPDATE cluster_metadata
    SET hold_until = NULL, hold_reason = NULL, brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL,
        released_until = muster_now() + p_for_ms * interval '1 millisecond'
    WHERE id = 1;
END
$$;

COMMENT ON FUNCTION muster_release_expiry(bigint) IS 'Ends a hold and takes the brake off for p_for_ms: an operator who knows better. What disrupts the registry afterwards holds again.';

CREATE FUNCTION muster_notice_disruption(p_now timestamptz, p_expected_now timestamptz, p_tolerance_ms bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
AS $$
BEGIN
    IF abs(extract(epoch FROM p_now - p_expected_now)) * 1000 > p_tolerance_ms THEN
        PERFORM muster_lock_cluster();
        -- After a step back, stamps from before it would lie in the future, and their owners could not die.
        PERFORM FROM registry_instance
        WHERE last_heartbeat > p_now AND status <> 'dead'
        ORDER BY lease_id
        FOR NO KEY UPDATE;
        UPDATE registry_instance SET last_heartbeat = p_now WHERE last_heartbeat > p_now AND status <> 'dead';
        UPDATE registry_daemon SET last_flush = p_now, saved_up_to = p_now;
        -- Nobody can say how much of a release is left.
        UPDATE cluster_metadata
        SET released_until = NULL,
            hold_until = CASE WHEN hold_until <= p_now + interval '1 hour' THEN hold_until END
        WHERE id = 1;
        PERFORM muster_hold_expiry('the database clock was stepped');
    END IF;
    IF EXISTS (SELECT FROM registry_daemon WHERE last_flush < p_now - interval '15 seconds') THEN
        PERFORM muster_lock_cluster();
        -- Whoever comes second finds it gone.
        DELETE FROM registry_daemon WHERE last_flush < muster_now() - interval '15 seconds';
        IF FOUND THEN
            PERFORM muster_hold_expiry('a daemon was lost');
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION muster_notice_disruption(timestamptz, timestamptz, bigint) IS 'Puts expiry on hold if the clock is not where the caller expects it, or if a daemon has not said for 15 s that it is well: the beats it heard are lost, and its clients need time to go elsewhere.';

-- Brake ----------------------------------------------------------------------------------------------------------

CREATE FUNCTION muster_brake(p_cluster cluster_metadata, p_now timestamptz, p_live bigint, p_overdue bigint)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_brake   text;
    v_most    boolean := p_overdue * 2 > p_live AND p_overdue > 10;
    v_before  boolean := coalesce(p_cluster.brake_overdue * 2 > p_cluster.brake_live AND p_cluster.brake_overdue > 10, false);
    -- The minutes of protection count from when it was needed: deaths may have been paced for long before.
    v_since   timestamptz := CASE WHEN v_most AND NOT v_before THEN p_now ELSE coalesce(p_cluster.brake_since, p_now) END;
    v_new     boolean := coalesce(p_cluster.window_at < p_now - interval '15 seconds' OR p_cluster.window_at > p_now, true);
    v_live    bigint := CASE WHEN v_new THEN p_live ELSE p_cluster.window_live END;
    v_reaped  bigint := CASE WHEN v_new THEN 0 ELSE p_cluster.window_reaped END;
    v_allowed bigint := greatest(greatest(10, ceil(v_live * 0.15)) - v_reaped, 0);
BEGIN
    -- Where no daemon ever ran, or an operator has released it, there is none.
    IF p_cluster.released_until > p_now OR NOT EXISTS (SELECT FROM registry_daemon) THEN
        v_allowed := 2147483647;
    ELSIF p_overdue > v_allowed THEN
        v_brake := 'pace';
        IF v_most AND v_since > p_now - interval '10 minutes' THEN
            v_brake := 'protect';
            v_allowed := 0;
        END IF;
    END IF;
    UPDATE cluster_metadata
    SET brake = v_brake,
        brake_since = CASE WHEN v_brake IS NOT NULL THEN v_since END,
        brake_overdue = CASE WHEN v_brake IS NOT NULL THEN p_overdue END,
        brake_live = CASE WHEN v_brake IS NOT NULL THEN p_live END,
        window_at = CASE WHEN v_new THEN p_now ELSE window_at END,
        window_live = v_live,
        window_reaped = v_reaped
    WHERE id = 1;
    RETURN v_allowed;
END
$$;

COMMENT ON FUNCTION muster_brake(cluster_metadata, timestamptz, bigint, bigint) IS 'How many of p_overdue may be declared dead now. In a window of 15 s at most max(10, 15 % of the living): fewer are let through, more are paced. If more than half of the living are overdue nobody is, until the share falls, an operator releases it, or 10 minutes have passed. The caller holds the cluster row.';

-- Daemons --------------------------------------------------------------------------------------------------------

CREATE FUNCTION muster_daemon_started(p_daemon_id uuid, p_address text, p_version text, p_host text DEFAULT '')
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_now     timestamptz;
    v_fresh   boolean;
    v_crashed boolean;
BEGIN
    PERFORM muster_lock_cluster();
    v_now := muster_now();
    -- Two processes cannot listen at one address of one machine: the former run is gone, with what it had not saved.
    DELETE FROM registry_daemon
    WHERE daemon_id <> p_daemon_id AND p_host <> '' AND host = p_host AND address = p_address;
    v_crashed := FOUND;
    SELECT EXISTS (
        SELECT FROM registry_daemon WHERE daemon_id <> p_daemon_id AND last_flush > v_now - interval '3 seconds'
    ) INTO v_fresh;
    INSERT INTO registry_daemon (daemon_id, address, version, started_at, last_flush, saved_up_to, host)
    VALUES (p_daemon_id, p_address, p_version, v_now, v_now, v_now, p_host)
    ON CONFLICT (daemon_id) DO UPDATE SET last_flush = excluded.last_flush;
    IF v_fresh AND NOT v_crashed THEN
        RETURN 0;
    END IF;
    RETURN muster_hold_expiry(
        CASE WHEN v_fresh THEN 'a daemon ended without saving its beats' ELSE 'no daemon was there to hear beats' END);
END
$$;

COMMENT ON FUNCTION muster_daemon_started(uuid, text, text, text) IS 'Enters a daemon that starts. If no other one was heard of in the last 3 s, nobody was there to hear beats; if its own former run did not leave in order, beats are lost: then expiry is put on hold: returns for how many milliseconds. Should another one have died just then, its row holds expiry until it is given up, which begins a hold.';

CREATE FUNCTION muster_daemon_stopped(p_daemon_id uuid)
RETURNS void
LANGUAGE sql
VOLATILE
SET search_path FROM CURRENT
AS $$
    DELETE FROM registry_daemon WHERE daemon_id = p_daemon_id;
$$;

COMMENT ON FUNCTION muster_daemon_stopped(uuid) IS 'Removes a daemon that has saved all its beats and leaves.';

-- Failover and restored copies -----------------------------------------------------------------------------------

-- An engine without these functions has no history to tell apart this way: there they answer null, which equals
-- nothing and differs from nothing.
DO $$
BEGIN
    PERFORM pg_walfile_name(pg_current_wal_lsn()), system_identifier FROM pg_control_system();
    EXECUTE $definition$
        CREATE FUNCTION muster_timeline() RETURNS text LANGUAGE sql VOLATILE
        AS 'SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)';
        CREATE FUNCTION muster_system_id() RETURNS text LANGUAGE sql VOLATILE
        AS 'SELECT system_identifier::text FROM pg_control_system()';
    $definition$;
EXCEPTION WHEN undefined_function OR insufficient_privilege OR feature_not_supported THEN
    EXECUTE $definition$
        CREATE FUNCTION muster_timeline() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT NULL::text';
        CREATE FUNCTION muster_system_id() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT NULL::text';
    $definition$;
END
$$;

COMMENT ON FUNCTION muster_timeline() IS 'Timeline of the write-ahead log: changes with every failover and recovery. Null where the engine does not tell.';
COMMENT ON FUNCTION muster_system_id() IS 'Identifies the PostgreSQL cluster: differs in a copy restored from a dump. Null where the engine does not tell.';

CREATE FUNCTION muster_same_database(p_cluster cluster_metadata)
RETURNS boolean
LANGUAGE sql
VOLATILE
AS $$
    SELECT coalesce(p_cluster.timeline = muster_timeline(), true) AND coalesce(p_cluster.system_id = muster_system_id(), true);
$$;

COMMENT ON FUNCTION muster_same_database(cluster_metadata) IS 'Whether this is the database that was written last, as far as the engine tells: neither one that took over nor a restored copy.';

CREATE FUNCTION muster_new_history(p_cluster cluster_metadata, p_seen_revision bigint, p_reason text)
RETURNS cluster_metadata
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_cluster  cluster_metadata;
    v_revision bigint := greatest(p_cluster.revision, p_seen_revision) + 1000000;
BEGIN
    UPDATE cluster_metadata
    SET history_id = gen_random_uuid(),
        revision = v_revision,
        timeline = muster_timeline(),
        system_id = muster_system_id()
    WHERE id = 1;
    PERFORM pg_notify('muster', v_revision::text);
    PERFORM muster_hold_expiry(p_reason);
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    RETURN v_cluster;
END
$$;

COMMENT ON FUNCTION muster_new_history(cluster_metadata, bigint, text) IS 'Begins a new history, a million revisions on, so that none that was lost is used again with another meaning; readers load everything anew, and expiry is held. The caller holds the cluster row.';

CREATE FUNCTION muster_confirm_history(p_seen_revision bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF (v_cluster.timeline IS NOT NULL OR muster_timeline() IS NULL)
        AND muster_same_database(v_cluster)
        AND v_cluster.revision >= p_seen_revision
    THEN
        RETURN;
    END IF;
    -- Notices another database by itself, or finds that somebody else was faster.
    v_cluster := muster_lock_cluster();
    UPDATE cluster_metadata
    SET system_id = muster_system_id(), timeline = muster_timeline()
    WHERE id = 1 AND timeline IS NULL;
    IF v_cluster.revision < p_seen_revision THEN
        PERFORM muster_new_history(v_cluster, p_seen_revision, 'the database has lost revisions');
    END IF;
END
$$;

COMMENT ON FUNCTION muster_confirm_history(bigint) IS 'Called by a daemon on every new connection of its feed, with the revision it has seen: begins a new history if this database is not the one that was written last, or has lost revisions.';

-- What others can rely on ----------------------------------------------------------------------------------------

CREATE FUNCTION assert_lease(p_lease_id bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_row     registry_instance;
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR KEY SHARE;
    SELECT * INTO v_row FROM registry_instance WHERE lease_id = p_lease_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'lease % is not on record', p_lease_id
            USING ERRCODE = muster_error_code('unknown'), HINT = 'It has ended, or was replaced: stop, and register anew.';
    ELSIF v_row.cluster_epoch <> v_cluster.current_epoch THEN
        RAISE EXCEPTION 'lease % belongs to an epoch that is not current', p_lease_id
            USING ERRCODE = muster_error_code('epoch_fenced'), HINT = 'Stop, and register anew in the current epoch.';
    ELSIF v_row.status = 'dead' THEN
        RAISE EXCEPTION 'lease % has ended (%)', p_lease_id, coalesce(v_row.death_reason, 'no reason kept')
            USING ERRCODE = muster_error_code('expired'), HINT = 'Stop, and register anew.';
    END IF;
END
$$;

COMMENT ON FUNCTION assert_lease(bigint) IS 'Raises unless the lease is alive in the current epoch. Called inside an application''s own transaction it also keeps it so until the end of that transaction: expiry passes the instance over and a rotation waits meanwhile, while beats and registrations pass. Keep such transactions short: a rotation gives up after its lock_timeout (2 s from a daemon). The instance''s own deregistration does not wait. Errors: MU002 epoch not current, MU004 unknown, MU005 ended.';

CREATE FUNCTION alive_at(p_at timestamptz)
RETURNS SETOF registry_instance
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
    SELECT instance.*
    FROM registry_instance AS instance
    LEFT JOIN registry_epoch AS following ON following.epoch_number = instance.epoch_number + 1
    WHERE instance.started_at <= p_at
      AND coalesce(least(instance.stopped_at, following.started_at), 'infinity') > p_at
    ORDER BY instance.logical_id, instance.started_at, instance.instance_id;
$$;

COMMENT ON FUNCTION alive_at(timestamptz) IS 'Who was alive at a time, by the rows that are kept (the dead for 24 h by default; of an instance id only its latest lease). An instance of an older epoch ended with its epoch.';
