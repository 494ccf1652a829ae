-- 016: the functions and views SQL callers know, on top of what 014 and 015 define.
--
-- Signatures as in 012; the bodies are new.
--
-- Oldest head: 019.

\ir functions/muster_hidden_character.sql
\ir functions/muster_check_text.sql
\ir functions/register_instance.sql
\ir functions/set_instance_status.sql
\ir functions/beat.sql

-- Both views keep the columns they had, in their order; what the table gained follows. They no longer look at the age
-- of the latest beat: that emptied them for every reader whenever beats could not be saved for 15 s. An instance silent for
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
    muster_deadline(instance.last_heartbeat, instance.ttl_ms) < muster_now(),
    instance.started_at,
    instance.instance_id;

COMMENT ON VIEW active_instances IS 'All instances that are alive in the current epoch.';
COMMENT ON VIEW active_instance IS 'The best live instance of each logical id: not overdue before overdue, then the longest serving, then the lowest instance id. The same order as a daemon''s Resolve.';

-- Rows written by hand -------------------------------------------------------------------------------------------

\ir functions/muster_stamp_row.sql

CREATE TRIGGER registry_instance_stamp_insert
BEFORE INSERT ON registry_instance
FOR EACH ROW
WHEN (NEW.revision IS NULL)
EXECUTE FUNCTION muster_stamp_row();

CREATE TRIGGER registry_instance_stamp_update
BEFORE UPDATE OF instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
    started_at, stopped_at, lease_id, epoch_number, ttl_ms, port, labels, version, replaces_lease_id, death_reason,
    death_deadline, death_decided_by, owner
ON registry_instance
FOR EACH ROW
WHEN (NEW.revision = OLD.revision)
EXECUTE FUNCTION muster_stamp_row();

\ir functions/muster_note_deletion.sql

CREATE TRIGGER registry_instance_deleted
AFTER DELETE ON registry_instance
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT
EXECUTE FUNCTION muster_note_deletion();

\ir functions/muster_break_history.sql

CREATE TRIGGER registry_instance_truncated
AFTER TRUNCATE ON registry_instance
FOR EACH STATEMENT
EXECUTE FUNCTION muster_break_history();

\ir functions/muster_stamp_epoch.sql

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

-- Under session_replication_role = replica as well: a superuser who repairs rows with triggers off would otherwise leave
-- daemons with what is no longer so. A subscriber of logical replication runs in that role too; the rows it receives carry
-- their new revisions, so that nothing is stamped there.
ALTER TABLE registry_instance
    ENABLE ALWAYS TRIGGER registry_instance_stamp_insert,
    ENABLE ALWAYS TRIGGER registry_instance_stamp_update,
    ENABLE ALWAYS TRIGGER registry_instance_deleted,
    ENABLE ALWAYS TRIGGER registry_instance_truncated;
ALTER TABLE cluster_metadata ENABLE ALWAYS TRIGGER cluster_metadata_stamp_update;

COMMENT ON TRIGGER cluster_metadata_stamp_update ON cluster_metadata IS 'An epoch changed by hand is a rotation like any other.';
COMMENT ON TRIGGER cluster_metadata_stamp_insert ON cluster_metadata IS 'A first epoch inserted by hand is one like any other.';
COMMENT ON TRIGGER registry_instance_stamp_insert ON registry_instance IS 'A row inserted by hand goes through the same revision as any other.';
COMMENT ON TRIGGER registry_instance_stamp_update ON registry_instance IS 'A row changed by hand goes through the same revision as any other. Beats change no column named here.';
COMMENT ON TRIGGER registry_instance_deleted ON registry_instance IS 'After any deletion of rows, readers learn that they have to reload.';
COMMENT ON TRIGGER registry_instance_truncated ON registry_instance IS 'A truncation leaves no tombstones.';
