-- 021: why an instance has its status, and since when.
--
-- Adds columns without a rewrite, but reads the table once for the check of a length: about a second for a million rows.
--
-- Oldest head: 019.

ALTER TABLE registry_instance
    ADD COLUMN status_reason text,
    ADD COLUMN status_since  timestamptz,
    ADD CONSTRAINT registry_instance_status_reason_check CHECK (octet_length(status_reason) <= 256);

COMMENT ON COLUMN registry_instance.status_reason IS 'Why it has its status, in the words of what set it. Null: no reason was given.';
COMMENT ON COLUMN registry_instance.status_since IS 'Since when it has this status and reason. Null: since before that was kept.';

ALTER TYPE muster_operation ADD ATTRIBUTE status_reason text;

COMMENT ON TYPE muster_operation IS 'One change asked for. op: register, or status (with the new status; dead ends the lease, for the reason given). may_move: a repeated registration may change a known address; for SQL callers. identity: who asks, and owner of what is registered; null if the daemon has no policy. as_operator: the status of an instance of another owner may be changed. status_reason: why the status is set, in words.';

-- As in 016, with the columns that the table has gained.
CREATE OR REPLACE VIEW active_instances AS
SELECT instance.*
FROM registry_instance AS instance
JOIN cluster_metadata AS cluster ON cluster.current_epoch = instance.cluster_epoch
WHERE instance.status = 'alive';

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

\ir functions/muster_apply_register.sql
\ir functions/muster_register_new.sql
\ir functions/muster_renew_registration.sql
\ir functions/muster_apply_status.sql
\ir functions/muster_reap_rows.sql
\ir functions/muster_reap_old_epoch.sql
\ir functions/muster_stamp_row.sql
\ir functions/set_instance_health.sql

-- Roles that may call set_instance_status, as in 014.
DO $$
DECLARE
    v_writer regrole;
BEGIN
    FOR v_writer IN SELECT muster_writers() LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION set_instance_health(uuid, InstanceStatus, text) TO %s', v_writer);
    END LOOP;
END
$$;
