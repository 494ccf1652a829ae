-- 017: saving beats, expiry, purge: what daemons call in the background. What holds expiry back stands in 018.
--
-- Any number of daemons may call these at the same time. Each decides by the database clock, works on a bounded batch,
-- and re-checks on the row it locks what it read before.

CREATE FUNCTION muster_flush_beats(
    p_daemon_id   uuid,
    p_lease_ids   bigint[],
    p_ages_ms     bigint[],
    p_saved_up_to timestamptz DEFAULT NULL
)
RETURNS TABLE (
    saved   integer,
    entered boolean,
    read_at timestamptz
)
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
-- Rows are found by their leases, whatever a plan made while the table was new would say: it would read all of it.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
AS $$
BEGIN
    -- A crash of PostgreSQL may lose the last moments of beats: the hold that follows an outage makes up for it.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- The dead as well: to ask for the living would suggest the index of all of them.
    PERFORM FROM registry_instance AS instance
    WHERE instance.lease_id = ANY (p_lease_ids)
    ORDER BY instance.lease_id
    FOR NO KEY UPDATE;
    read_at := muster_now();
    -- A stamp from the future was made before the clock was stepped back.
    UPDATE registry_instance AS instance
    SET last_heartbeat = greatest(least(instance.last_heartbeat, read_at), read_at - beat.age_ms * interval '1 millisecond')
    FROM unnest(p_lease_ids, p_ages_ms) AS beat (lease_id, age_ms)
    WHERE instance.lease_id = beat.lease_id AND instance.status <> 'dead';
    GET DIAGNOSTICS saved = ROW_COUNT;
    UPDATE registry_daemon
    SET last_flush = read_at,
        saved_up_to = greatest(least(saved_up_to, read_at), p_saved_up_to)
    WHERE daemon_id = p_daemon_id;
    entered := FOUND;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION muster_flush_beats(uuid, bigint[], bigint[], timestamptz) IS 'Saves beats heard by a daemon: leases, and how many milliseconds ago each was heard. Also says that the daemon is well, so it is called with empty arrays too. p_saved_up_to: with this call everything that it had heard by then is saved; a time it has read from this database before it gathered what it saves. Rows are locked by lease id, so that flushes never deadlock; every update is HOT. Returns how many were saved (dead leases are passed over); whether the daemon is on the list, if not it was given up and has to enter anew; and the database clock.';

CREATE TABLE registry_suspicion (
    lease_id     bigint      PRIMARY KEY,
    suspected_at timestamptz NOT NULL
);

COMMENT ON TABLE registry_suspicion IS 'Leases that a daemon has lost contact with: its hint to the others, who would not notice before the TTL has passed. Nobody dies of it.';
COMMENT ON COLUMN registry_suspicion.lease_id IS 'The lease.';
COMMENT ON COLUMN registry_suspicion.suspected_at IS 'When the daemon that lost contact had last heard of it.';

ALTER TABLE registry_suspicion SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE FUNCTION muster_exchange_suspicions(p_lost bigint[], p_ages_ms bigint[], p_heard bigint[])
RETURNS TABLE (
    lease_id bigint,
    age_ms   bigint
)
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := muster_now();
BEGIN
    -- A hint that a crash takes is told again, or no longer true.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- By lease id, so that daemons never wait for each other in a circle; the deletion below waits for nobody. Here and
    -- there a subquery for each row, because a plan for a table that was never analysed might read all instances instead.
    IF cardinality(p_lost) > 0 THEN
        INSERT INTO registry_suspicion AS suspicion (lease_id, suspected_at)
        SELECT lost.lease_id, v_now - lost.age_ms * interval '1 millisecond'
        FROM unnest(p_lost, p_ages_ms) AS lost (lease_id, age_ms)
        WHERE (
            SELECT instance.status <> 'dead'
            FROM registry_instance AS instance
            WHERE instance.lease_id = lost.lease_id
        )
        ORDER BY lost.lease_id
        LIMIT greatest(10000 - (SELECT count(*) FROM registry_suspicion), 0)
        ON CONFLICT (lease_id) DO UPDATE SET suspected_at = excluded.suspected_at;
    END IF;
    -- A second more: what is saved of a beat is later by the time that takes.
    DELETE FROM registry_suspicion
    WHERE lease_id IN (
        SELECT suspicion.lease_id
        FROM registry_suspicion AS suspicion
        WHERE suspicion.lease_id = ANY (p_heard)
           OR coalesce((
                  SELECT instance.last_heartbeat > suspicion.suspected_at + interval '1 second'
                  FROM registry_instance AS instance
                  WHERE instance.lease_id = suspicion.lease_id AND instance.status <> 'dead'
              ), true)
        ORDER BY suspicion.lease_id
        FOR UPDATE SKIP LOCKED
    );
    RETURN QUERY
    SELECT suspicion.lease_id, greatest((extract(epoch FROM v_now - suspicion.suspected_at) * 1000)::bigint, 0)
    FROM registry_suspicion AS suspicion;
END
$$;

COMMENT ON FUNCTION muster_exchange_suspicions(bigint[], bigint[], bigint[]) IS 'Notes leases that the calling daemon has lost contact with, last heard of p_ages_ms ago; withdraws those that it has heard of since (p_heard), that have ended, or of which a later beat is saved; and returns the ones that stand, each with its age in milliseconds. At most 10,000 stand at a time: of more, the other daemons learn when the TTL has passed.';

CREATE FUNCTION muster_reap_stale(
    p_default_ttl_ms bigint,
    p_limit          integer,
    p_decided_by     text,
    p_expected_now   timestamptz DEFAULT NULL,
    p_tolerance_ms   bigint DEFAULT 1000
)
RETURNS TABLE (
    reaped      integer,
    next_in_ms  bigint,
    held_for_ms bigint,
    hold_reason text,
    brake       text,
    read_at     timestamptz
)
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    v_cluster cluster_metadata;
    v_now     timestamptz := muster_now();
    v_next    timestamptz;
    v_live    bigint;
    v_overdue bigint;
    v_window  timestamptz;
    v_before  bigint;
    v_died    bigint;
    v_horizon timestamptz;
    v_stalled timestamptz;
    v_budget  integer;
BEGIN
    reaped := 0;
    PERFORM muster_notice_disruption(v_now, p_expected_now, p_tolerance_ms);
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    -- Beats heard after this may still be on the way from a daemon.
    SELECT least(min(saved_up_to), v_now) INTO v_horizon FROM registry_daemon;
    -- One statement, one moment: the window of the brake as it is in what is counted.
    SELECT min(deadline), count(*), count(*) FILTER (WHERE deadline < v_horizon),
           (SELECT window_at FROM cluster_metadata WHERE id = 1),
           (SELECT window_reaped FROM cluster_metadata WHERE id = 1)
    INTO v_next, v_live, v_overdue, v_window, v_before
    FROM (
        SELECT instance.last_heartbeat + coalesce(instance.ttl_ms, p_default_ttl_ms) * interval '1 millisecond' AS deadline
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch
    ) AS deadlines;

    -- A daemon that has not said for 3 s that it is well may have beats on the way. After 15 s it is given up.
    SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - interval '3 seconds';

    -- The brake comes off even if nobody is left who is overdue.
    IF v_overdue > 0 OR v_cluster.brake IS NOT NULL THEN
        -- Under the lock, because a hold or a rotation may have come in between.
        v_cluster := muster_lock_cluster();
        v_now := muster_now();
        SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - interval '3 seconds';
        SELECT least(min(saved_up_to), v_now) INTO v_horizon FROM registry_daemon;
        IF v_stalled IS NULL AND coalesce(v_cluster.hold_until, v_now) <= v_now THEN
            -- Whom another daemon has declared dead since they were counted is overdue no more, and must not be held
            -- against the window twice.
            v_died := v_cluster.window_reaped - CASE WHEN v_cluster.window_at = v_window THEN v_before ELSE 0 END;
            v_budget := muster_brake(v_cluster, v_now, v_live - v_died, greatest(v_overdue - v_died, 0));
            reaped := muster_reap_rows(v_cluster, v_now, v_horizon, p_default_ttl_ms, least(p_limit, v_budget), p_decided_by);
            UPDATE cluster_metadata SET window_reaped = window_reaped + reaped WHERE id = 1
            RETURNING * INTO v_cluster;
        END IF;
    END IF;

    IF v_stalled IS NOT NULL AND coalesce(v_cluster.hold_until, v_now) <= v_now THEN
        v_cluster.hold_until := greatest(v_stalled + interval '15 seconds', v_now + interval '100 milliseconds');
        v_cluster.hold_reason := 'a daemon has stopped saving beats';
    END IF;
    next_in_ms := (extract(epoch FROM v_next - v_now) * 1000)::bigint;
    IF v_cluster.hold_until > v_now THEN
        held_for_ms := ceil(extract(epoch FROM v_cluster.hold_until - v_now) * 1000)::bigint;
        hold_reason := v_cluster.hold_reason;
    END IF;
    brake := v_cluster.brake;
    read_at := v_now;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION muster_reap_stale(bigint, integer, text, timestamptz, bigint) IS 'Declares dead whoever is silent for longer than its TTL, at most p_limit instances and what the brake allows, as far as every daemon has saved what it heard by the deadline, and unless expiry is on hold. A row without a TTL of its own has p_default_ttl_ms. The caller may say what it expects the database clock to show. Returns how many; in how many milliseconds the earliest deadline that it saw falls due (negative: overdue; null: nobody is alive); for how long, and why, expiry is held; the brake; and the database clock. Without anybody overdue it takes no lock.';

CREATE FUNCTION muster_reap_rows(
    p_cluster        cluster_metadata,
    p_now            timestamptz,
    p_horizon        timestamptz,
    p_default_ttl_ms bigint,
    p_limit          integer,
    p_decided_by     text
)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    v_reaped integer;
BEGIN
    -- FOR UPDATE re-checks the deadline on the row as it is once locked: a beat saved meanwhile keeps it alive. Rows
    -- that a flush holds right now are skipped: somebody has just heard from them.
    WITH overdue AS MATERIALIZED (
        SELECT instance.instance_id, instance.lease_id
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead'
          AND instance.cluster_epoch = p_cluster.current_epoch
          AND instance.last_heartbeat + coalesce(instance.ttl_ms, p_default_ttl_ms) * interval '1 millisecond' < p_horizon
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), numbered AS (
        SELECT overdue.instance_id, p_cluster.revision + row_number() OVER (ORDER BY overdue.lease_id) AS revision
        FROM overdue
    )
    UPDATE registry_instance AS instance
    SET status = 'dead',
        stopped_at = p_now,
        revision = numbered.revision,
        death_reason = 'stale',
        death_deadline = instance.last_heartbeat + coalesce(instance.ttl_ms, p_default_ttl_ms) * interval '1 millisecond',
        death_decided_by = p_decided_by
    FROM numbered
    WHERE instance.instance_id = numbered.instance_id;
    GET DIAGNOSTICS v_reaped = ROW_COUNT;
    PERFORM muster_advance(p_cluster.revision + v_reaped);
    RETURN v_reaped;
END
$$;

COMMENT ON FUNCTION muster_reap_rows(cluster_metadata, timestamptz, timestamptz, bigint, integer, text) IS 'The deaths of muster_reap_stale: deadlines before p_horizon. The caller holds the cluster row.';

CREATE FUNCTION muster_reap_old_epoch(p_limit integer, p_decided_by text)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
    v_reaped  integer;
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    IF NOT EXISTS (
        SELECT FROM registry_instance WHERE status <> 'dead' AND epoch_number < v_cluster.epoch_number
    ) THEN
        RETURN 0;
    END IF;
    v_cluster := muster_lock_cluster();
    WITH older AS MATERIALIZED (
        SELECT instance.instance_id, instance.lease_id
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.epoch_number < v_cluster.epoch_number
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), numbered AS (
        SELECT older.instance_id, v_cluster.revision + row_number() OVER (ORDER BY older.lease_id) AS revision
        FROM older
    )
    UPDATE registry_instance AS instance
    SET status = 'dead',
        stopped_at = coalesce(
            (SELECT epoch.started_at FROM registry_epoch AS epoch WHERE epoch.epoch_number = instance.epoch_number + 1),
            muster_now()),
        revision = numbered.revision,
        death_reason = 'old_epoch',
        death_deadline = instance.last_heartbeat + coalesce(instance.ttl_ms, 15000) * interval '1 millisecond',
        death_decided_by = p_decided_by
    FROM numbered
    WHERE instance.instance_id = numbered.instance_id;
    GET DIAGNOSTICS v_reaped = ROW_COUNT;
    PERFORM muster_advance(v_cluster.revision + v_reaped);
    RETURN v_reaped;
END
$$;

COMMENT ON FUNCTION muster_reap_old_epoch(integer, text) IS 'Writes down, for at most p_limit instances of older epochs, the death they died when the epoch was rotated.';

CREATE FUNCTION muster_purge_dead(p_keep_ms bigint, p_limit integer)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_before timestamptz := muster_now() - p_keep_ms * interval '1 millisecond';
    v_purged integer;
BEGIN
    IF NOT EXISTS (SELECT FROM registry_instance WHERE status = 'dead' AND coalesce(stopped_at, started_at) < v_before) THEN
        RETURN 0;
    END IF;
    PERFORM muster_lock_cluster();
    DELETE FROM registry_instance
    WHERE instance_id IN (
        SELECT instance.instance_id
        FROM registry_instance AS instance
        WHERE instance.status = 'dead' AND coalesce(instance.stopped_at, instance.started_at) < v_before
        ORDER BY instance.revision
        LIMIT p_limit
    );
    GET DIAGNOSTICS v_purged = ROW_COUNT;
    RETURN v_purged;
END
$$;

COMMENT ON FUNCTION muster_purge_dead(bigint, integer) IS 'Deletes at most p_limit dead rows that have been dead for longer than p_keep_ms, the earliest deaths first. A trigger remembers up to which revision.';

-- The callers of these two share the rule, the hold and the bound of the daemons.

CREATE OR REPLACE FUNCTION expire_stale_instances(p_timeout_seconds integer DEFAULT 15)
RETURNS integer
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
BEGIN
    IF coalesce(p_timeout_seconds, -1) < 0 THEN
        RAISE EXCEPTION 'p_timeout_seconds is %, it must be 0 or more', p_timeout_seconds
            USING ERRCODE = muster_error_code('invalid');
    END IF;
    RETURN (SELECT reaped FROM muster_reap_stale(p_timeout_seconds * 1000::bigint, 1000, 'sql'));
END
$$;

COMMENT ON FUNCTION expire_stale_instances(integer) IS 'Declares dead whoever is silent for longer than its TTL, or than p_timeout_seconds where it has none of its own; at most 1,000 instances a call, none while expiry is on hold. Returns how many.';

CREATE OR REPLACE FUNCTION expire_old_epoch_instances()
RETURNS integer
LANGUAGE sql
VOLATILE
SET search_path FROM CURRENT
AS $$
    SELECT muster_reap_old_epoch(1000, 'sql');
$$;

COMMENT ON FUNCTION expire_old_epoch_instances() IS 'Writes down the deaths of instances of older epochs, at most 1,000 a call. Returns how many.';
