-- 016: the functions and views SQL callers know, on top of what 014 and 015 define.
--
-- Signatures as in 012; the bodies are new.

CREATE FUNCTION muster_check_text(p_field text, p_value text, p_max_bytes integer)
RETURNS void
LANGUAGE plpgsql
IMMUTABLE
AS $$
BEGIN
    IF octet_length(p_value) > p_max_bytes THEN
        RAISE EXCEPTION '% has % bytes, the limit is %', p_field, octet_length(p_value), p_max_bytes
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Shorten it.';
    END IF;
    IF p_value ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RAISE EXCEPTION '% has a control character', p_field
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Remove it.';
    END IF;
END
$$;

COMMENT ON FUNCTION muster_check_text(text, text, integer) IS 'Refuses a text that is too long or holds control characters.';

CREATE OR REPLACE FUNCTION register_instance(
    p_instance_id   uuid,
    p_logical_id    text,
    p_cluster_epoch uuid,
    p_actor_name    text,
    p_serve_route   text,
    p_node_id       text,
    p_ip            inet,
    p_pid           integer
)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_op muster_operation;
BEGIN
    IF p_instance_id IS NULL OR coalesce(p_logical_id, '') = '' OR p_cluster_epoch IS NULL THEN
        RAISE EXCEPTION 'p_instance_id, p_logical_id and p_cluster_epoch are required'
            USING ERRCODE = muster_error_code('invalid');
    END IF;
    IF p_pid < 0 THEN
        RAISE EXCEPTION 'p_pid is %, it must not be negative', p_pid USING ERRCODE = muster_error_code('invalid');
    END IF;
    PERFORM muster_check_text('p_logical_id', p_logical_id, 253);
    PERFORM muster_check_text('p_actor_name', p_actor_name, 253);
    PERFORM muster_check_text('p_serve_route', p_serve_route, 1024);
    PERFORM muster_check_text('p_node_id', p_node_id, 253);
    v_op.op := 'register';
    v_op.instance_id := p_instance_id;
    v_op.logical_id := p_logical_id;
    v_op.cluster_epoch := p_cluster_epoch;
    v_op.status := 'starting';
    v_op.actor_name := nullif(p_actor_name, '');
    v_op.serve_route := nullif(p_serve_route, '');
    v_op.node_id := nullif(p_node_id, '');
    v_op.ip_address := p_ip;
    v_op.pid := nullif(p_pid, 0);
    PERFORM muster_apply_one(v_op);
END
$$;

COMMENT ON FUNCTION register_instance(uuid, text, uuid, text, text, text, inet, integer) IS 'Registers an instance as starting in the current epoch, with the default TTL of 15 s. Repeated by the same owner it keeps the lease and takes over what changed; a dead instance gets a new lease. Errors: MU001 no epoch yet, MU002 epoch not current, MU003 id held by another owner, 22023 bad input.';

CREATE OR REPLACE FUNCTION set_instance_status(p_instance_id uuid, p_status InstanceStatus)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_op muster_operation;
BEGIN
    IF p_instance_id IS NULL OR p_status IS NULL THEN
        RAISE EXCEPTION 'p_instance_id and p_status are required' USING ERRCODE = muster_error_code('invalid');
    END IF;
    v_op.op := 'status';
    v_op.instance_id := p_instance_id;
    v_op.status := p_status;
    PERFORM muster_apply_one(v_op);
END
$$;

COMMENT ON FUNCTION set_instance_status(uuid, InstanceStatus) IS 'Changes the status: starting to alive, alive to draining and back, anything to dead. Errors: MU002 epoch not current, MU004 unknown, MU005 dead (final), MU006 not allowed.';

CREATE OR REPLACE FUNCTION beat(p_instance_id uuid)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_row registry_instance;
BEGIN
    UPDATE registry_instance AS instance
    SET last_heartbeat = greatest(instance.last_heartbeat, muster_now())
    FROM cluster_metadata AS cluster
    WHERE instance.instance_id = p_instance_id
      AND instance.status <> 'dead'
      AND cluster.current_epoch = instance.cluster_epoch;
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_instance_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'instance % is not on record', p_instance_id
            USING ERRCODE = muster_error_code('unknown'), HINT = 'Register it.';
    ELSIF v_row.status = 'dead' THEN
        RAISE EXCEPTION 'instance % is dead (%)', p_instance_id, coalesce(v_row.death_reason, 'no reason kept')
            USING ERRCODE = muster_error_code('expired'), HINT = 'Dead is final: register anew.';
    ELSE
        RAISE EXCEPTION 'instance % belongs to an epoch that is not current', p_instance_id
            USING ERRCODE = muster_error_code('epoch_fenced'), HINT = 'Register anew in the current epoch.';
    END IF;
END
$$;

COMMENT ON FUNCTION beat(uuid) IS 'Renews the lease of a live instance of the current epoch. A HOT update of one row: no revision, no notification, no lock but the row''s. Errors: MU002 epoch not current, MU004 unknown, MU005 dead.';

-- Both views keep the columns they had, in their order; what the table gained follows. They no longer look at the age
-- of the latest beat: that emptied them for everybody whenever beats could not be saved for 15 s. Who is silent for
-- too long is declared dead, by the one rule of muster_reap_stale, and only then gone from here.
CREATE OR REPLACE VIEW active_instances AS
SELECT instance.*
FROM registry_instance AS instance
JOIN cluster_metadata AS cluster ON cluster.current_epoch = instance.cluster_epoch
WHERE instance.status = 'alive';

-- "Best" is whom a router should stay with: not overdue, then longest serving. It used to be the latest beat, which
-- made the answer flip between two healthy instances at every beat.
CREATE OR REPLACE VIEW active_instance AS
SELECT DISTINCT ON (instance.logical_id) instance.*
FROM registry_instance AS instance
JOIN cluster_metadata AS cluster ON cluster.current_epoch = instance.cluster_epoch
WHERE instance.status = 'alive'
ORDER BY
    instance.logical_id,
    instance.last_heartbeat + make_interval(secs => coalesce(instance.ttl_ms, 15000) / 1000.0) < muster_now(),
    instance.started_at,
    instance.instance_id;

COMMENT ON VIEW active_instances IS 'All instances that are alive in the current epoch.';
COMMENT ON VIEW active_instance IS 'The best live instance of each logical id: not overdue before overdue, then the longest serving, then the lowest instance id. The same order as a daemon''s Resolve.';

-- Rows written by hand -------------------------------------------------------------------------------------------

CREATE FUNCTION muster_stamp_row()
RETURNS trigger
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    v_cluster := muster_lock_cluster();
    IF TG_OP = 'INSERT' THEN
        NEW.lease_id := v_cluster.revision + 1;
        NEW.epoch_number := coalesce(
            (SELECT epoch.epoch_number FROM registry_epoch AS epoch WHERE epoch.cluster_epoch = NEW.cluster_epoch), 0);
    ELSIF OLD.status = 'dead' AND NEW.status <> 'dead' THEN
        RAISE EXCEPTION 'instance % is dead', OLD.instance_id
            USING ERRCODE = muster_error_code('expired'), HINT = 'Dead is final: call register_instance().';
    END IF;
    IF NEW.status = 'dead' AND NEW.death_reason IS NULL THEN
        NEW.stopped_at := coalesce(NEW.stopped_at, muster_now());
        NEW.death_reason := 'operator';
        NEW.death_decided_by := 'sql';
    END IF;
    NEW.revision := v_cluster.revision + 1;
    PERFORM muster_advance(NEW.revision);
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION muster_stamp_row() IS 'Gives a row that was inserted or changed by hand the revision it needs to be noticed. The functions give it themselves and never come here.';

CREATE TRIGGER registry_instance_stamp_insert
BEFORE INSERT ON registry_instance
FOR EACH ROW
WHEN (NEW.revision IS NULL)
EXECUTE FUNCTION muster_stamp_row();

CREATE TRIGGER registry_instance_stamp_update
BEFORE UPDATE OF logical_id, status, actor_name, serve_route, node_id, ip_address, pid, ttl_ms, port, labels, version
ON registry_instance
FOR EACH ROW
WHEN (NEW.revision = OLD.revision)
EXECUTE FUNCTION muster_stamp_row();

CREATE FUNCTION muster_note_deletion()
RETURNS trigger
LANGUAGE plpgsql
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

COMMENT ON FUNCTION muster_note_deletion() IS 'Keeps readers from missing rows that are deleted, by the purge or by hand. A dead row was its own tombstone: readers that have not seen it must load everything anew. A live row leaves none, so everybody must; likewise after a dead one that others before it outlast, or that should have been purged before, because readers take the purge to be complete up to its revision.';

CREATE TRIGGER registry_instance_deleted
AFTER DELETE ON registry_instance
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT
EXECUTE FUNCTION muster_note_deletion();

CREATE FUNCTION muster_break_history()
RETURNS trigger
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    UPDATE cluster_metadata SET history_id = gen_random_uuid() WHERE id = 1;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION muster_break_history() IS 'Makes every reader load everything anew, after rows vanished in a way the feed cannot show.';

CREATE TRIGGER registry_instance_truncated
AFTER TRUNCATE ON registry_instance
FOR EACH STATEMENT
EXECUTE FUNCTION muster_break_history();

-- An epoch written by hand. The seed system does so as well: each of its deployments puts back its own
-- set_current_epoch, and its hard start calls it, before a daemon is there to repair that.
CREATE FUNCTION muster_stamp_epoch()
RETURNS trigger
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    v_number   bigint;
    v_revision bigint;
BEGIN
    IF TG_OP = 'INSERT'
        AND EXISTS (SELECT FROM registry_epoch WHERE cluster_epoch = NEW.current_epoch AND epoch_number = NEW.epoch_number)
    THEN
        RETURN NEW;
    ELSIF EXISTS (SELECT FROM registry_epoch WHERE cluster_epoch = NEW.current_epoch) THEN
        RAISE EXCEPTION 'epoch % was in use before', NEW.current_epoch
            USING ERRCODE = muster_error_code('epoch_reused'), HINT = 'Epochs are never reused; take a fresh UUID.';
    END IF;
    SELECT coalesce(max(epoch_number), 0) + 1 INTO v_number FROM registry_epoch;
    SELECT greatest(NEW.revision, max(revision)) + 1 INTO v_revision FROM registry_instance;
    INSERT INTO registry_epoch (epoch_number, cluster_epoch, started_at, started_revision, reason, rotated_by)
    VALUES (v_number, NEW.current_epoch, muster_now(), v_revision, 'written by hand', 'sql');
    IF TG_OP = 'INSERT' THEN
        UPDATE cluster_metadata SET epoch_number = v_number WHERE id = 1;
        PERFORM muster_advance(v_revision);
    ELSE
        NEW.epoch_number := v_number;
        NEW.revision := v_revision;
        PERFORM pg_notify('muster', v_revision::text);
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION muster_stamp_epoch() IS 'Gives an epoch that was written by hand its number, its revision and its place in the history. muster_rotate_epoch does so itself and never comes here for an update.';

CREATE TRIGGER cluster_metadata_stamp_update
BEFORE UPDATE OF current_epoch ON cluster_metadata
FOR EACH ROW
WHEN (NEW.current_epoch <> OLD.current_epoch AND NEW.epoch_number = OLD.epoch_number)
EXECUTE FUNCTION muster_stamp_epoch();

-- After the insert, because an INSERT ... ON CONFLICT DO UPDATE runs through "before insert" without inserting.
CREATE TRIGGER cluster_metadata_stamp_insert
AFTER INSERT ON cluster_metadata
FOR EACH ROW
EXECUTE FUNCTION muster_stamp_epoch();

COMMENT ON TRIGGER cluster_metadata_stamp_update ON cluster_metadata IS 'An epoch changed by hand is a rotation like any other.';
COMMENT ON TRIGGER cluster_metadata_stamp_insert ON cluster_metadata IS 'A first epoch inserted by hand is one like any other.';
COMMENT ON TRIGGER registry_instance_stamp_insert ON registry_instance IS 'A row inserted by hand goes through the same revision as any other.';
COMMENT ON TRIGGER registry_instance_stamp_update ON registry_instance IS 'A row changed by hand goes through the same revision as any other. Beats change no column named here.';
COMMENT ON TRIGGER registry_instance_deleted ON registry_instance IS 'Whoever deletes rows, readers learn that they have to load anew.';
COMMENT ON TRIGGER registry_instance_truncated ON registry_instance IS 'A truncation leaves no tombstones.';
