-- 011: tables and views of the runtime registry.
--
-- The foundation shared with SeedCore: a database that system has already prepared holds all of these objects, so
-- everything here is conditional and a database with rows passes through unchanged. Numbers 001 to 010 belong to
-- other layers of that system. What musterd needs beyond it begins at 013.
--
-- Oldest head: 019.

CREATE TABLE IF NOT EXISTS cluster_metadata (
    id            integer     PRIMARY KEY DEFAULT 1,
    current_epoch uuid        NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cluster_metadata_id_check CHECK (id = 1)
);

COMMENT ON TABLE cluster_metadata IS 'The one row (id = 1) that describes the cluster and orders everything that happens in it.';
COMMENT ON COLUMN cluster_metadata.id IS 'Always 1: there is one cluster to a database.';
COMMENT ON COLUMN cluster_metadata.current_epoch IS 'The cluster''s current life. Instances of any other epoch are dead.';
COMMENT ON COLUMN cluster_metadata.updated_at IS 'When the current epoch began.';

DO $$
BEGIN
    IF to_regtype('instancestatus') IS NULL THEN
        CREATE TYPE InstanceStatus AS ENUM ('starting', 'alive', 'draining', 'dead');
    END IF;
END
$$;

COMMENT ON TYPE InstanceStatus IS 'State of an instance: starting (not ready), alive (resolvable), draining (takes nothing new), dead (final).';

CREATE TABLE IF NOT EXISTS registry_instance (
    instance_id    uuid           PRIMARY KEY,
    logical_id     text           NOT NULL,
    cluster_epoch  uuid           NOT NULL,
    status         InstanceStatus NOT NULL DEFAULT 'starting',
    actor_name     text,
    serve_route    text,
    node_id        text,
    ip_address     inet,
    pid            integer,
    started_at     timestamptz    NOT NULL DEFAULT now(),
    stopped_at     timestamptz,
    last_heartbeat timestamptz    NOT NULL DEFAULT now()
);

COMMENT ON TABLE registry_instance IS 'Every instance on record: one row for each instance id, dead ones until they are purged.';
COMMENT ON COLUMN registry_instance.instance_id IS 'One running incarnation of something.';
COMMENT ON COLUMN registry_instance.logical_id IS 'The name routers ask for, e.g. cognitive_organ_1; many instances may carry it.';
COMMENT ON COLUMN registry_instance.cluster_epoch IS 'The epoch it registered in.';
COMMENT ON COLUMN registry_instance.status IS 'Its state. An instance of an older epoch is dead whatever stands here.';
COMMENT ON COLUMN registry_instance.actor_name IS 'Name of the actor, for named actors.';
COMMENT ON COLUMN registry_instance.serve_route IS 'Deployment name or base route it serves.';
COMMENT ON COLUMN registry_instance.node_id IS 'Node it runs on.';
COMMENT ON COLUMN registry_instance.ip_address IS 'Address it can be reached at.';
COMMENT ON COLUMN registry_instance.pid IS 'Process id on its node.';
COMMENT ON COLUMN registry_instance.started_at IS 'When its lease was registered, by the database clock.';
COMMENT ON COLUMN registry_instance.stopped_at IS 'When it was declared dead, by the database clock.';
COMMENT ON COLUMN registry_instance.last_heartbeat IS 'Its latest saved beat, by the database clock. Must stay out of every index: see 013.';

CREATE INDEX IF NOT EXISTS idx_instance_logical_id ON registry_instance (logical_id);
CREATE INDEX IF NOT EXISTS idx_instance_epoch_status ON registry_instance (cluster_epoch, status);
CREATE INDEX IF NOT EXISTS idx_instance_status_heartbeat ON registry_instance (status, last_heartbeat DESC);
CREATE INDEX IF NOT EXISTS idx_instance_logical_status ON registry_instance (logical_id, status, cluster_epoch);

CREATE OR REPLACE VIEW active_instances AS
SELECT instance.*
FROM registry_instance AS instance
JOIN cluster_metadata AS cluster ON cluster.current_epoch = instance.cluster_epoch
WHERE instance.status = 'alive'
  AND instance.last_heartbeat > now() - interval '15 seconds';

COMMENT ON VIEW active_instances IS 'All instances that are alive in the current epoch.';

CREATE OR REPLACE VIEW active_instance AS
SELECT DISTINCT ON (instance.logical_id) instance.*
FROM registry_instance AS instance
JOIN cluster_metadata AS cluster ON cluster.current_epoch = instance.cluster_epoch
WHERE instance.status = 'alive'
  AND instance.last_heartbeat > now() - interval '15 seconds'
ORDER BY instance.logical_id, instance.last_heartbeat DESC, instance.started_at, instance.instance_id;

COMMENT ON VIEW active_instance IS 'The best live instance of each logical id.';
