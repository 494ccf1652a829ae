-- The current state of the schema, for reading: what all migrations together make of an empty database.
--
-- Generated from the catalogue (MUSTERD_UPDATE_SCHEMA=1 cargo test --test it schema_sql), never edited. musterd migrate
-- verify compares a live database with it, block by block.

--- type instancestatus
CREATE TYPE instancestatus AS ENUM ('starting', 'alive', 'draining', 'dead');
COMMENT ON TYPE instancestatus IS 'State of an instance: starting (not ready), alive (resolvable), draining (takes nothing new), dead (final).';

--- type muster_operation
CREATE TYPE muster_operation AS (
    op text,
    instance_id uuid,
    lease_id bigint,
    logical_id text,
    cluster_epoch uuid,
    status instancestatus,
    actor_name text,
    serve_route text,
    node_id text,
    ip_address inet,
    port integer,
    pid integer,
    version text,
    labels jsonb,
    ttl_ms integer,
    reason text,
    may_move boolean,
    identity text,
    as_operator boolean,
    status_reason text
);
COMMENT ON TYPE muster_operation IS 'One change asked for. op: register, or status (with the new status; dead ends the lease, for the reason given). may_move: a repeated registration may change a known address; for SQL callers. identity: who asks, and owner of what is registered; null if the daemon has no policy. as_operator: the status of an instance of another owner may be changed. status_reason: why the status is set, in words.';

--- type muster_outcome
CREATE TYPE muster_outcome AS (
    verdict text,
    changed boolean,
    instance_id uuid,
    lease_id bigint,
    revision bigint,
    status instancestatus,
    ttl_ms integer
);
COMMENT ON TYPE muster_outcome IS 'What became of it. verdict: created, renewed, replaced (a registration); set (a status); or the refusals epoch_fenced, taken, unknown, expired, lease_replaced, invalid_transition, invalid. changed: whether a revision was used.';

--- table cluster_metadata
CREATE TABLE cluster_metadata (
    id integer NOT NULL DEFAULT 1,
    current_epoch uuid NOT NULL,
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    epoch_number bigint NOT NULL DEFAULT 1,
    revision bigint NOT NULL DEFAULT 0,
    history_id uuid NOT NULL DEFAULT gen_random_uuid(),
    purged_revision bigint NOT NULL DEFAULT 0,
    hold_until timestamp with time zone,
    hold_reason text,
    held_until timestamp with time zone,
    disrupted_at timestamp with time zone,
    silent_since timestamp with time zone,
    stepped_at timestamp with time zone,
    stepped_ms bigint,
    brake text,
    brake_since timestamp with time zone,
    brake_overdue bigint,
    brake_live bigint,
    window_at timestamp with time zone,
    window_live bigint,
    window_reaped bigint NOT NULL DEFAULT 0,
    released_until timestamp with time zone,
    system_id text,
    timeline text,
    CONSTRAINT cluster_metadata_pkey PRIMARY KEY (id),
    CONSTRAINT cluster_metadata_brake_check CHECK (brake = ANY (ARRAY['pace'::text, 'protect'::text])),
    CONSTRAINT cluster_metadata_id_check CHECK (id = 1)
)
WITH (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500, fillfactor=10);
COMMENT ON TABLE cluster_metadata IS 'The one row (id = 1) that describes the cluster and orders everything that happens in it.';
COMMENT ON COLUMN cluster_metadata.id IS 'Always 1: there is one cluster to a database.';
COMMENT ON COLUMN cluster_metadata.current_epoch IS 'The cluster''s current life. Instances of any other epoch are dead.';
COMMENT ON COLUMN cluster_metadata.updated_at IS 'When the current epoch began.';
COMMENT ON COLUMN cluster_metadata.epoch_number IS 'Number of the current epoch; only grows.';
COMMENT ON COLUMN cluster_metadata.revision IS 'The logical clock: +1 for every durable membership change. Every change of membership updates it first and holds the row lock until after commit, so revisions become visible in commit order and a reader polling "revision > seen" misses nothing. A sequence could not promise that.';
COMMENT ON COLUMN cluster_metadata.history_id IS 'Changes when the history of revisions was broken; readers then reload everything.';
COMMENT ON COLUMN cluster_metadata.purged_revision IS 'The highest revision of a dead row that was purged. A reader that has seen less must reload everything.';
COMMENT ON COLUMN cluster_metadata.hold_until IS 'End of the hold, which is that of an operator (held_until), the time that leases have after a disruption (disrupted_at), or both. Null: no hold.';
COMMENT ON COLUMN cluster_metadata.hold_reason IS 'Why expiry is on hold.';
COMMENT ON COLUMN cluster_metadata.held_until IS 'No lease expires before this time, because an operator has put expiry on hold.';
COMMENT ON COLUMN cluster_metadata.disrupted_at IS 'End of the latest disruption. Until hold_until, a lease expires no sooner than its own TTL and 5 s after it.';
COMMENT ON COLUMN cluster_metadata.silent_since IS 'Since when more leases have been silent than heard, as the brake sees it. Null: they are not.';
COMMENT ON COLUMN cluster_metadata.stepped_at IS 'When a step of the database clock was last noticed, by the new time.';
COMMENT ON COLUMN cluster_metadata.stepped_ms IS 'How far the clock was stepped then, in milliseconds; negative: back.';
COMMENT ON COLUMN cluster_metadata.brake IS 'pace: so many leases are overdue that they expire in portions. protect: more leases are silent than heard, and none expires. Null: no brake.';
COMMENT ON COLUMN cluster_metadata.brake_since IS 'Since when the brake is on.';
COMMENT ON COLUMN cluster_metadata.brake_overdue IS 'How many were overdue when the brake last looked.';
COMMENT ON COLUMN cluster_metadata.brake_live IS 'Of how many living ones.';
COMMENT ON COLUMN cluster_metadata.window_at IS 'When the present window of 15 s began, over which deaths for silence are counted.';
COMMENT ON COLUMN cluster_metadata.window_live IS 'How many were alive when it began.';
COMMENT ON COLUMN cluster_metadata.window_reaped IS 'How many have been declared dead for silence since.';
COMMENT ON COLUMN cluster_metadata.released_until IS 'An operator has released the brake until then.';
COMMENT ON COLUMN cluster_metadata.system_id IS 'Identifies the PostgreSQL cluster that last wrote here. Another one is a restored copy.';
COMMENT ON COLUMN cluster_metadata.timeline IS 'Timeline of the write-ahead log that was last written to. Another one means a failover or a recovery, in which the latest changes may have been lost.';

--- table muster_migration
CREATE TABLE muster_migration (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL,
    duration_ms bigint NOT NULL,
    oldest_head integer,
    CONSTRAINT muster_migration_pkey PRIMARY KEY (version)
);
COMMENT ON TABLE muster_migration IS 'The migrations of musterd that this database has gone through.';
COMMENT ON COLUMN muster_migration.version IS 'Number of the migration.';
COMMENT ON COLUMN muster_migration.name IS 'Name of its file, without number and ending.';
COMMENT ON COLUMN muster_migration.checksum IS 'SHA-256 of its text (LF line ends), hexadecimal. A binary with another text refuses this database.';
COMMENT ON COLUMN muster_migration.applied_at IS 'When it was applied, by the database clock.';
COMMENT ON COLUMN muster_migration.applied_by IS 'Who applied it.';
COMMENT ON COLUMN muster_migration.duration_ms IS 'How long its statements took, in milliseconds.';
COMMENT ON COLUMN muster_migration.oldest_head IS 'Daemons that know the migrations up to this one may still serve, without migrating. Null: only those that know the migration itself.';

--- table registry_audit
CREATE TABLE registry_audit (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    at timestamp with time zone NOT NULL,
    action text NOT NULL,
    by_role text NOT NULL,
    by text NOT NULL,
    object text NOT NULL,
    detail jsonb NOT NULL,
    revision bigint,
    period timestamp with time zone,
    CONSTRAINT registry_audit_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE registry_audit IS 'Decisions, a row each. Written by functions alone; kept for --keep-audit.';
COMMENT ON COLUMN registry_audit.id IS 'In the order of recording.';
COMMENT ON COLUMN registry_audit.at IS 'When, by the database clock. Of a row that counts: the first time.';
COMMENT ON COLUMN registry_audit.action IS 'What: rotate, hold, release, expire, deregister, set_status, purge, hook_set, hook_remove, migrate_up, migrate_adopt, migrate_eject, migrate_return, migrate_repair, reload or denied.';
COMMENT ON COLUMN registry_audit.by_role IS 'The role of the session.';
COMMENT ON COLUMN registry_audit.by IS 'The identity that asked a daemon; without a policy the daemon; sql/ROLE for a direct SQL caller. Empty: a caller that is not known.';
COMMENT ON COLUMN registry_audit.object IS 'Of what: an epoch, an instance, a hook, a migration, a table, a set of files, or the method that was denied.';
COMMENT ON COLUMN registry_audit.detail IS 'What else is known. daemon: through which daemon. count: how often in the period, of a row that counts.';
COMMENT ON COLUMN registry_audit.revision IS 'The revision that it made. Null: it made none.';
COMMENT ON COLUMN registry_audit.period IS 'Of a row that counts: the minute or the hour for which it does. Null: the row stands for one decision.';

--- table registry_daemon
CREATE TABLE registry_daemon (
    daemon_id uuid NOT NULL,
    address text NOT NULL,
    version text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    last_flush timestamp with time zone NOT NULL,
    host text NOT NULL DEFAULT ''::text,
    saved_up_to timestamp with time zone NOT NULL DEFAULT now(),
    policy text,
    CONSTRAINT registry_daemon_pkey PRIMARY KEY (daemon_id)
)
WITH (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500, fillfactor=10);
COMMENT ON TABLE registry_daemon IS 'The daemons that share this database, one row for each run.';
COMMENT ON COLUMN registry_daemon.daemon_id IS 'One run of one daemon.';
COMMENT ON COLUMN registry_daemon.address IS 'gRPC address it is reached at.';
COMMENT ON COLUMN registry_daemon.version IS 'Version of musterd it runs.';
COMMENT ON COLUMN registry_daemon.started_at IS 'When it started, by the database clock.';
COMMENT ON COLUMN registry_daemon.last_flush IS 'When it last saved beats, or said that it had none. At most about a second ago while it is well.';
COMMENT ON COLUMN registry_daemon.host IS 'Name of the machine it runs on: with the address it tells a daemon that was started again from another one.';
COMMENT ON COLUMN registry_daemon.saved_up_to IS 'Every beat that it had heard by then and that could matter is saved. No lease with a later deadline expires: the beat that renews it may not be saved yet.';
COMMENT ON COLUMN registry_daemon.policy IS 'Digests of the policy and of the tokens that it has in use, POLICY/TOKENS; none: it has no policy. Null: its version does not tell, or it has just entered.';

--- table registry_daemon_loss
CREATE TABLE registry_daemon_loss (
    daemon_id uuid NOT NULL,
    address text NOT NULL,
    version text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    last_flush timestamp with time zone NOT NULL,
    lost_at timestamp with time zone NOT NULL,
    CONSTRAINT registry_daemon_loss_pkey PRIMARY KEY (daemon_id)
);
COMMENT ON TABLE registry_daemon_loss IS 'Daemons that were evicted because they had not saved beats for 15 s, for an hour: every daemon reports the loss, after a restart too.';
COMMENT ON COLUMN registry_daemon_loss.daemon_id IS 'The run of the daemon.';
COMMENT ON COLUMN registry_daemon_loss.address IS 'gRPC address it was reached at. The loss is forgotten when another daemon serves it.';
COMMENT ON COLUMN registry_daemon_loss.version IS 'Version of musterd it ran.';
COMMENT ON COLUMN registry_daemon_loss.started_at IS 'When it had started, by the database clock.';
COMMENT ON COLUMN registry_daemon_loss.last_flush IS 'When it last saved beats.';
COMMENT ON COLUMN registry_daemon_loss.lost_at IS 'When it was evicted.';

--- table registry_death
CREATE TABLE registry_death (
    lease_id bigint NOT NULL,
    revision bigint NOT NULL,
    instance_id uuid NOT NULL,
    logical_id text NOT NULL,
    actor_name text,
    node_id text,
    epoch_number bigint NOT NULL,
    started_at timestamp with time zone NOT NULL,
    died_at timestamp with time zone NOT NULL,
    reason text NOT NULL,
    decided_by text,
    owner text,
    released_at timestamp with time zone,
    freed bigint,
    hooks_done text[] NOT NULL DEFAULT '{}'::text[],
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamp with time zone,
    last_error text,
    CONSTRAINT registry_death_pkey PRIMARY KEY (lease_id)
)
WITH (autovacuum_vacuum_scale_factor=0.05, autovacuum_vacuum_threshold=1000);
COMMENT ON TABLE registry_death IS 'One row for each lease that has ended: the history of leases, and what hooks still have to free.';
COMMENT ON COLUMN registry_death.lease_id IS 'The lease.';
COMMENT ON COLUMN registry_death.revision IS 'The revision at which it ended.';
COMMENT ON COLUMN registry_death.instance_id IS 'The instance that held it.';
COMMENT ON COLUMN registry_death.logical_id IS 'Its logical id.';
COMMENT ON COLUMN registry_death.actor_name IS 'Its actor name. A successor may carry the same one.';
COMMENT ON COLUMN registry_death.node_id IS 'The node that it ran on.';
COMMENT ON COLUMN registry_death.epoch_number IS 'Number of the epoch that it was registered in.';
COMMENT ON COLUMN registry_death.started_at IS 'When the lease was registered.';
COMMENT ON COLUMN registry_death.died_at IS 'When it ended.';
COMMENT ON COLUMN registry_death.reason IS 'Why: stale, old_epoch, deregistered, replaced or operator.';
COMMENT ON COLUMN registry_death.decided_by IS 'What declared it: the daemon, and the identity that asked it, if one did; sql/role for a direct SQL caller. Null: a registration took the place of a lease of an older epoch.';
COMMENT ON COLUMN registry_death.owner IS 'The identity that registered it. Null: registered through a daemon without a policy.';
COMMENT ON COLUMN registry_death.released_at IS 'When all hooks had run; without a hook, when it died. Null: a hook has not succeeded yet.';
COMMENT ON COLUMN registry_death.freed IS 'Rows that hooks have freed for the batch that this death was in, counted at its first lease. Null: no hook has run.';
COMMENT ON COLUMN registry_death.hooks_done IS 'The hooks that have succeeded.';
COMMENT ON COLUMN registry_death.attempts IS 'How many runs of hooks have failed.';
COMMENT ON COLUMN registry_death.next_attempt_at IS 'No hook runs for it before. Null: at once.';
COMMENT ON COLUMN registry_death.last_error IS 'Which hook failed last, and why.';

--- table registry_epoch
CREATE TABLE registry_epoch (
    epoch_number bigint NOT NULL,
    cluster_epoch uuid NOT NULL,
    started_at timestamp with time zone NOT NULL,
    started_revision bigint NOT NULL,
    reason text NOT NULL DEFAULT ''::text,
    rotated_by text NOT NULL DEFAULT ''::text,
    CONSTRAINT registry_epoch_pkey PRIMARY KEY (epoch_number),
    CONSTRAINT registry_epoch_cluster_epoch_key UNIQUE (cluster_epoch)
);
COMMENT ON TABLE registry_epoch IS 'Every epoch there ever was. The unique UUID is what forbids going back to an old one.';
COMMENT ON COLUMN registry_epoch.epoch_number IS 'Its number; only grows.';
COMMENT ON COLUMN registry_epoch.cluster_epoch IS 'Its UUID.';
COMMENT ON COLUMN registry_epoch.started_at IS 'When it began.';
COMMENT ON COLUMN registry_epoch.started_revision IS 'The revision at which it began.';
COMMENT ON COLUMN registry_epoch.reason IS 'Why it was begun, in the operator''s words.';
COMMENT ON COLUMN registry_epoch.rotated_by IS 'What began it: the daemon, and for whom where it knows (daemon for identity); sql/role for a direct SQL caller.';

--- table registry_hook
CREATE TABLE registry_hook (
    name text NOT NULL,
    function text NOT NULL,
    mode text NOT NULL DEFAULT 'after'::text,
    lock_timeout_ms integer NOT NULL DEFAULT 100,
    enabled boolean NOT NULL DEFAULT true,
    system_id text,
    set_at timestamp with time zone NOT NULL,
    set_by text NOT NULL,
    CONSTRAINT registry_hook_pkey PRIMARY KEY (name),
    CONSTRAINT registry_hook_lock_timeout_check CHECK (lock_timeout_ms >= 1 AND lock_timeout_ms <= 10000),
    CONSTRAINT registry_hook_mode_check CHECK (mode = ANY (ARRAY['after'::text, 'commit'::text]))
);
COMMENT ON TABLE registry_hook IS 'Functions of the application that free what ended leases held. Set by muster_hook_set, which checks them.';
COMMENT ON COLUMN registry_hook.name IS 'Its name.';
COMMENT ON COLUMN registry_hook.function IS 'The function, with its schema: f(lease_ids bigint[]) returns bigint, the number of rows freed.';
COMMENT ON COLUMN registry_hook.mode IS 'after: in a transaction of its own, right after the death. commit: in the transaction of the death, if that has a statement_timeout of at most 1 s; otherwise, and if it fails, after.';
COMMENT ON COLUMN registry_hook.lock_timeout_ms IS 'How long the function may wait for a lock.';
COMMENT ON COLUMN registry_hook.enabled IS 'False: deaths wait for it.';
COMMENT ON COLUMN registry_hook.system_id IS 'The PostgreSQL cluster in which it was set. In another one, a restored copy, deaths wait until muster_hook_set is called again.';
COMMENT ON COLUMN registry_hook.set_at IS 'When it was set.';
COMMENT ON COLUMN registry_hook.set_by IS 'By which role.';

--- table registry_instance
CREATE TABLE registry_instance (
    instance_id uuid NOT NULL,
    logical_id text NOT NULL,
    cluster_epoch uuid NOT NULL,
    status instancestatus NOT NULL DEFAULT 'starting'::instancestatus,
    actor_name text,
    serve_route text,
    node_id text,
    ip_address inet,
    pid integer,
    started_at timestamp with time zone NOT NULL DEFAULT now(),
    stopped_at timestamp with time zone,
    last_heartbeat timestamp with time zone NOT NULL DEFAULT now(),
    lease_id bigint NOT NULL,
    revision bigint NOT NULL,
    epoch_number bigint NOT NULL,
    ttl_ms integer,
    port integer,
    labels jsonb NOT NULL DEFAULT '{}'::jsonb,
    version text,
    replaces_lease_id bigint,
    death_reason text,
    death_deadline timestamp with time zone,
    death_decided_by text,
    owner text,
    status_reason text,
    status_since timestamp with time zone,
    CONSTRAINT registry_instance_pkey PRIMARY KEY (instance_id),
    CONSTRAINT registry_instance_death_reason_check CHECK (death_reason = ANY (ARRAY['stale'::text, 'old_epoch'::text, 'deregistered'::text, 'replaced'::text, 'operator'::text])),
    CONSTRAINT registry_instance_labels_check CHECK (jsonb_typeof(labels) = 'object'::text),
    CONSTRAINT registry_instance_port_check CHECK (port >= 1 AND port <= 65535),
    CONSTRAINT registry_instance_status_reason_check CHECK (octet_length(status_reason) <= 256),
    CONSTRAINT registry_instance_ttl_check CHECK (ttl_ms >= 2000 AND ttl_ms <= 300000)
)
WITH (autovacuum_vacuum_cost_delay=0, autovacuum_vacuum_scale_factor=0.05, autovacuum_vacuum_threshold=1000, fillfactor=50);
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
COMMENT ON COLUMN registry_instance.lease_id IS 'The revision at which this lease was registered: lease, generation and fencing token in one number.';
COMMENT ON COLUMN registry_instance.revision IS 'Revision of the latest durable change of this row. Rows with a revision above what a reader has seen are its feed.';
COMMENT ON COLUMN registry_instance.epoch_number IS 'Number of the epoch it registered in.';
COMMENT ON COLUMN registry_instance.ttl_ms IS 'How long the lease lives after a beat, 2,000 to 300,000 ms. Null: none was asked for, and the caller of the expiry names it (15 s by default).';
COMMENT ON COLUMN registry_instance.port IS 'Port it can be reached at.';
COMMENT ON COLUMN registry_instance.labels IS 'Labels: one flat object of strings.';
COMMENT ON COLUMN registry_instance.version IS 'Version of the software it runs.';
COMMENT ON COLUMN registry_instance.replaces_lease_id IS 'The lease of the same instance id that this one took the place of. Its owner is told so at its next beat.';
COMMENT ON COLUMN registry_instance.death_reason IS 'Why the lease ended: stale, old_epoch, deregistered, replaced or operator. Null: alive, or died before reasons were kept.';
COMMENT ON COLUMN registry_instance.death_deadline IS 'When the lease would have ended without another beat.';
COMMENT ON COLUMN registry_instance.death_decided_by IS 'What declared the death: the daemon, and for whom where it knows (daemon for identity); sql/role for a direct SQL caller.';
COMMENT ON COLUMN registry_instance.owner IS 'The identity that registered it: what a daemon with a policy authenticated, or sql/role for a direct SQL caller. Null: registered through a daemon without a policy.';
COMMENT ON COLUMN registry_instance.status_reason IS 'Why it has its status, in the words of what set it. Null: no reason was given.';
COMMENT ON COLUMN registry_instance.status_since IS 'Since when it has this status and reason. Null: since before that was kept.';

--- table registry_suspicion
CREATE TABLE registry_suspicion (
    lease_id bigint NOT NULL,
    suspected_at timestamp with time zone NOT NULL,
    CONSTRAINT registry_suspicion_pkey PRIMARY KEY (lease_id)
)
WITH (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500);
COMMENT ON TABLE registry_suspicion IS 'Leases that a daemon has lost contact with: its hint to the others, which would not notice before the TTL has passed. No lease expires because of it.';
COMMENT ON COLUMN registry_suspicion.lease_id IS 'The lease.';
COMMENT ON COLUMN registry_suspicion.suspected_at IS 'When the daemon that lost contact had last heard of it.';

--- index idx_audit_at on registry_audit
CREATE INDEX idx_audit_at ON registry_audit USING btree (at);
COMMENT ON INDEX idx_audit_at IS 'For the purge.';

--- index idx_audit_period on registry_audit
CREATE UNIQUE INDEX idx_audit_period ON registry_audit USING btree (period, action, by, object, by_role) WHERE period IS NOT NULL;
COMMENT ON INDEX idx_audit_period IS 'One row for each period, identity and object, however many daemons count.';

--- index idx_death_died_at on registry_death
CREATE INDEX idx_death_died_at ON registry_death USING btree (died_at);
COMMENT ON INDEX idx_death_died_at IS 'For the purge.';

--- index idx_death_instance on registry_death
CREATE INDEX idx_death_instance ON registry_death USING btree (instance_id);
COMMENT ON INDEX idx_death_instance IS 'The earlier leases of an instance.';

--- index idx_death_logical_id on registry_death
CREATE INDEX idx_death_logical_id ON registry_death USING btree (logical_id, died_at);
COMMENT ON INDEX idx_death_logical_id IS 'The ended leases of a logical id, by time.';

--- index idx_death_unreleased on registry_death
CREATE INDEX idx_death_unreleased ON registry_death USING btree (attempts, lease_id) WHERE released_at IS NULL;
COMMENT ON INDEX idx_death_unreleased IS 'Deaths that hooks have to run for, those that have not failed yet first.';

--- index idx_instance_dead_revision on registry_instance
CREATE INDEX idx_instance_dead_revision ON registry_instance USING btree (revision) WHERE status = 'dead'::instancestatus;
COMMENT ON INDEX idx_instance_dead_revision IS 'Dead rows in the order of their deaths, for the purge.';

--- index idx_instance_epoch_status on registry_instance
CREATE INDEX idx_instance_epoch_status ON registry_instance USING btree (cluster_epoch, status);

--- index idx_instance_lease_id on registry_instance
CREATE UNIQUE INDEX idx_instance_lease_id ON registry_instance USING btree (lease_id);
COMMENT ON INDEX idx_instance_lease_id IS 'Beats are saved by lease id.';

--- index idx_instance_live_epoch on registry_instance
CREATE INDEX idx_instance_live_epoch ON registry_instance USING btree (epoch_number) WHERE status <> 'dead'::instancestatus;
COMMENT ON INDEX idx_instance_live_epoch IS 'Instances of older epochs that are not yet written down as dead.';

--- index idx_instance_logical_status on registry_instance
CREATE INDEX idx_instance_logical_status ON registry_instance USING btree (logical_id, status, cluster_epoch);

--- index idx_instance_revision on registry_instance
CREATE INDEX idx_instance_revision ON registry_instance USING btree (revision);
COMMENT ON INDEX idx_instance_revision IS 'The feed: rows changed after a revision.';

--- function alive_at(timestamp with time zone)
CREATE OR REPLACE FUNCTION alive_at(p_at timestamp with time zone)
 RETURNS SETOF registry_instance
 LANGUAGE sql
 STABLE
 SET search_path FROM CURRENT
AS $function$
    SELECT was_alive.*
    FROM (
        SELECT instance.*
        FROM registry_instance AS instance
        LEFT JOIN registry_epoch AS following ON following.epoch_number - 1 = instance.epoch_number
        WHERE instance.started_at <= p_at
          AND coalesce(least(instance.stopped_at, following.started_at), 'infinity') > p_at
        UNION ALL
        SELECT known.*
        FROM registry_death AS death
        LEFT JOIN registry_epoch AS epoch ON epoch.epoch_number = death.epoch_number
        CROSS JOIN LATERAL jsonb_populate_record(NULL::registry_instance, to_jsonb(death) || jsonb_build_object(
            'cluster_epoch', epoch.cluster_epoch, 'status', 'dead', 'stopped_at', death.died_at,
            'death_reason', death.reason, 'death_decided_by', death.decided_by)) AS known
        WHERE death.started_at <= p_at AND death.died_at > p_at
          AND NOT EXISTS (SELECT FROM registry_instance AS kept WHERE kept.lease_id = death.lease_id)
    ) AS was_alive
    ORDER BY was_alive.logical_id, was_alive.started_at, was_alive.instance_id;
$function$;
COMMENT ON FUNCTION alive_at(timestamp with time zone) IS 'Returns the instances that were alive at a time, as far as they are on record.';

--- function assert_lease(bigint)
CREATE OR REPLACE FUNCTION assert_lease(p_lease_id bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_cluster cluster_metadata;
    v_row     registry_instance;
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR KEY SHARE;
    SELECT * INTO v_row FROM registry_instance WHERE lease_id = p_lease_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'lease % is not on record', p_lease_id
            USING ERRCODE = muster_error_code('unknown'), HINT = 'It has ended, or was replaced: stop, and register again.';
    ELSIF v_row.cluster_epoch <> v_cluster.current_epoch THEN
        RAISE EXCEPTION 'lease % belongs to an epoch that is not current', p_lease_id
            USING ERRCODE = muster_error_code('epoch_fenced'), HINT = 'Stop, and register again in the current epoch.';
    ELSIF v_row.status = 'dead' THEN
        RAISE EXCEPTION 'lease % has ended (%)', p_lease_id, coalesce(v_row.death_reason, 'no reason kept')
            USING ERRCODE = muster_error_code('expired'), HINT = 'Stop, and register again.';
    END IF;
END
$function$;
COMMENT ON FUNCTION assert_lease(bigint) IS 'Raises unless the lease is alive in the current epoch.';
REVOKE ALL ON FUNCTION assert_lease(bigint) FROM PUBLIC;

--- function beat(uuid)
CREATE OR REPLACE FUNCTION beat(p_instance_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_row registry_instance;
BEGIN
    UPDATE registry_instance AS instance
    SET last_heartbeat = muster_now()
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
            USING ERRCODE = muster_error_code('expired'), HINT = 'Dead is final: register again.';
    ELSE
        RAISE EXCEPTION 'instance % belongs to an epoch that is not current', p_instance_id
            USING ERRCODE = muster_error_code('epoch_fenced'), HINT = 'Register again in the current epoch.';
    END IF;
END
$function$;
COMMENT ON FUNCTION beat(uuid) IS 'Renews the lease of a live instance of the current epoch.';
REVOKE ALL ON FUNCTION beat(uuid) FROM PUBLIC;

--- function expire_old_epoch_instances()
CREATE OR REPLACE FUNCTION expire_old_epoch_instances()
 RETURNS integer
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    SELECT muster_reap_old_epoch(1000, muster_sql_caller());
$function$;
COMMENT ON FUNCTION expire_old_epoch_instances() IS 'Writes down the deaths of instances of older epochs, at most 1,000 a call.';
REVOKE ALL ON FUNCTION expire_old_epoch_instances() FROM PUBLIC;

--- function expire_stale_instances(integer)
CREATE OR REPLACE FUNCTION expire_stale_instances(p_timeout_seconds integer DEFAULT 15)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
BEGIN
    IF coalesce(p_timeout_seconds, -1) < 0 THEN
        RAISE EXCEPTION 'p_timeout_seconds is %, it must be 0 or more', p_timeout_seconds
            USING ERRCODE = muster_error_code('invalid');
    END IF;
    RETURN (SELECT reaped FROM muster_reap_stale(p_timeout_seconds * 1000::bigint, 1000, muster_sql_caller()));
END
$function$;
COMMENT ON FUNCTION expire_stale_instances(integer) IS 'Declares leases dead that were silent for longer than their TTL, or than p_timeout_seconds where they have none.';
REVOKE ALL ON FUNCTION expire_stale_instances(integer) FROM PUBLIC;

--- function muster_advance(bigint)
CREATE OR REPLACE FUNCTION muster_advance(p_revision bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    UPDATE cluster_metadata SET revision = p_revision WHERE id = 1 AND revision < p_revision;
    IF FOUND THEN
        -- A hint only: readers poll the revision itself, once a second at the latest.
        PERFORM pg_notify('muster', p_revision::text);
    END IF;
END
$function$;
COMMENT ON FUNCTION muster_advance(bigint) IS 'Moves the revision on and sends a notification (channel muster, payload the revision).';

--- function muster_apply(jsonb, text, timestamp with time zone, bigint, bigint, integer)
CREATE OR REPLACE FUNCTION muster_apply(p_operations jsonb, p_decided_by text, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_seen bigint DEFAULT 0, p_after bigint DEFAULT NULL::bigint, p_limit integer DEFAULT 1000)
 RETURNS TABLE(verdict text, changed boolean, instance_id uuid, lease_id bigint, revision bigint, status instancestatus, ttl_ms integer, cluster_epoch uuid, epoch_number bigint, instance_row registry_instance, cluster_row cluster_metadata)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_column
DECLARE
    v_cluster  cluster_metadata;
    v_ops      muster_operation[];
    v_op       muster_operation;
    v_outcome  muster_outcome;
    v_known    bigint[];
    v_revision bigint;
    v_new      boolean;
    v_read     integer := 0;
BEGIN
    -- Read once, and before anybody has to wait for it.
    v_ops := ARRAY(SELECT ROW(op.*)::muster_operation FROM jsonb_populate_recordset(NULL::muster_operation, p_operations) AS op);
    v_cluster := muster_lock_cluster();
    IF muster_now() > p_until THEN
        RAISE EXCEPTION 'the change arrived too late' USING ERRCODE = 'query_canceled';
    END IF;
    IF v_cluster.revision < p_seen THEN
        v_cluster := muster_new_history(v_cluster, p_seen, 'the database has lost revisions');
    END IF;
    v_revision := v_cluster.revision;

    -- All rows of the group at once, in the order in which flushes lock theirs. The leases first, one by one, because that
    -- order must not make anybody walk through all leases; none can change while the cluster row is held.
    v_known := ARRAY(
        SELECT (SELECT instance.lease_id FROM registry_instance AS instance WHERE instance.instance_id = op.instance_id)
        FROM unnest(v_ops) AS op
    );
    PERFORM FROM registry_instance AS instance
    WHERE instance.lease_id = ANY (v_known)
    ORDER BY instance.lease_id
    FOR NO KEY UPDATE;

    -- What a fleet does when it starts: new instances alone.
    v_new := NOT FOUND AND (
        SELECT count(*) = count(DISTINCT op.instance_id)
           AND bool_and(op.op = 'register' AND coalesce(op.cluster_epoch, v_cluster.current_epoch) = v_cluster.current_epoch)
        FROM unnest(v_ops) AS op
    );
    IF v_new THEN
        -- A reader that knows all before this group needs these rows alone.
        RETURN QUERY
        SELECT 'created', true, instance.instance_id, instance.lease_id, instance.revision, instance.status,
               instance.ttl_ms, instance.cluster_epoch, instance.epoch_number,
               CASE WHEN p_after = v_cluster.revision THEN instance END, NULL::cluster_metadata
        FROM muster_register_new(v_ops, v_cluster) AS instance
        ORDER BY instance.lease_id;
        v_revision := v_revision + cardinality(v_ops);
    ELSE
        FOREACH v_op IN ARRAY v_ops
        LOOP
            CASE v_op.op
                WHEN 'register' THEN
                    v_outcome := muster_apply_register(v_op, v_cluster, v_revision + 1);
                WHEN 'status' THEN
                    v_outcome := muster_apply_status(v_op, v_cluster, v_revision + 1, p_decided_by);
            END CASE;
            IF v_outcome.changed THEN
                v_revision := v_revision + 1;
            END IF;
            RETURN QUERY
            SELECT v_outcome.verdict, v_outcome.changed, v_outcome.instance_id, v_outcome.lease_id, v_outcome.revision,
                   v_outcome.status, v_outcome.ttl_ms, v_cluster.current_epoch, v_cluster.epoch_number,
                   NULL::registry_instance, NULL::cluster_metadata;
        END LOOP;
    END IF;
    PERFORM muster_advance(v_revision);

    IF p_after IS NULL THEN
        RETURN;
    END IF;
    IF NOT v_new OR p_after <> v_cluster.revision THEN
        RETURN QUERY
        SELECT NULL::text, NULL::boolean, NULL::uuid, NULL::bigint, NULL::bigint, NULL::InstanceStatus, NULL::integer,
               NULL::uuid, NULL::bigint, instance, NULL::cluster_metadata
        FROM registry_instance AS instance
        WHERE instance.revision > p_after
        ORDER BY instance.revision
        LIMIT p_limit;
        GET DIAGNOSTICS v_read = ROW_COUNT;
    END IF;
    IF v_read < p_limit THEN
        RETURN QUERY
        SELECT NULL::text, NULL::boolean, NULL::uuid, NULL::bigint, NULL::bigint, NULL::InstanceStatus, NULL::integer,
               NULL::uuid, NULL::bigint, NULL::registry_instance, cluster
        FROM cluster_metadata AS cluster
        WHERE cluster.id = 1;
    END IF;
END
$function$;
COMMENT ON FUNCTION muster_apply(jsonb, text, timestamp with time zone, bigint, bigint, integer) IS 'Applies a group of membership changes in one transaction and returns one outcome for each, in the same order; with p_after, also the rows that changed since.';
REVOKE ALL ON FUNCTION muster_apply(jsonb, text, timestamp with time zone, bigint, bigint, integer) FROM PUBLIC;

--- function muster_apply_one(muster_operation)
CREATE OR REPLACE FUNCTION muster_apply_one(p_operation muster_operation)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_caller  text := muster_sql_caller();
    v_verdict text;
BEGIN
    IF p_operation.op = 'register' THEN
        p_operation.identity := v_caller;
    END IF;
    SELECT applied.verdict INTO STRICT v_verdict
    FROM muster_apply(jsonb_build_array(to_jsonb(p_operation)), v_caller) AS applied;
    CASE v_verdict
        WHEN 'epoch_fenced' THEN
            RAISE EXCEPTION 'instance % belongs to an epoch that is not current', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Read cluster_metadata.current_epoch and register in it.';
        WHEN 'taken' THEN
            RAISE EXCEPTION 'instance id % has a live lease of another owner', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict),
                      HINT = 'End that lease first (set_instance_status(..., ''dead'')), or register under a fresh instance id.';
        WHEN 'unknown' THEN
            RAISE EXCEPTION 'instance % is not on record', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Register it first.';
        WHEN 'expired' THEN
            RAISE EXCEPTION 'instance % is dead', p_operation.instance_id
                USING ERRCODE = muster_error_code(v_verdict), HINT = 'Dead is final: register again.';
        WHEN 'invalid_transition' THEN
            RAISE EXCEPTION 'instance % cannot become %', p_operation.instance_id, p_operation.status
                USING ERRCODE = muster_error_code(v_verdict),
                      HINT = 'Allowed: starting to alive, alive to draining and back, anything to dead.';
        ELSE
            NULL;
    END CASE;
END
$function$;
COMMENT ON FUNCTION muster_apply_one(muster_operation) IS 'Applies one change for a direct SQL caller; a refusal is raised as an error.';

--- function muster_apply_register(muster_operation, cluster_metadata, bigint)
CREATE OR REPLACE FUNCTION muster_apply_register(p_op muster_operation, p_cluster cluster_metadata, p_revision bigint)
 RETURNS muster_outcome
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_now    timestamptz := muster_now();
    v_row    registry_instance;
    v_status InstanceStatus := coalesce(p_op.status, 'starting');
    v_new    registry_instance;
BEGIN
    IF coalesce(p_op.cluster_epoch, p_cluster.current_epoch) <> p_cluster.current_epoch THEN
        RETURN ('epoch_fenced', false, p_op.instance_id, NULL, NULL, NULL, NULL)::muster_outcome;
    END IF;
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_op.instance_id;

    IF v_row.instance_id IS NOT NULL AND v_row.status <> 'dead' AND v_row.cluster_epoch = p_cluster.current_epoch THEN
        IF NOT muster_same_owner(v_row, p_op) OR muster_moves(v_row, p_op) THEN
            RETURN ('taken', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms)::muster_outcome;
        END IF;
        RETURN muster_renew_registration(v_row, p_op, v_now, p_revision);
    END IF;

    IF v_row.instance_id IS NOT NULL THEN
        -- Its place can be taken once no transaction relies on the ended lease any more (assert_lease). To wait for that
        -- would block every writer on the cluster row.
        PERFORM FROM registry_instance WHERE instance_id = p_op.instance_id FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN ('taken', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms)::muster_outcome;
        END IF;
    END IF;

    INSERT INTO registry_instance AS instance (
        instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
        started_at, stopped_at, last_heartbeat, lease_id, revision, epoch_number, ttl_ms, port, labels, version,
        replaces_lease_id, death_reason, death_deadline, death_decided_by, owner, status_since
    )
    VALUES (
        p_op.instance_id, p_op.logical_id, p_cluster.current_epoch, v_status, p_op.actor_name, p_op.serve_route,
        p_op.node_id, p_op.ip_address, p_op.pid, v_now, NULL, v_now, p_revision, p_revision, p_cluster.epoch_number,
        p_op.ttl_ms, p_op.port, coalesce(p_op.labels, '{}'), p_op.version, v_row.lease_id, NULL, NULL, NULL,
        muster_owner_of(p_op.identity), v_now
    )
    ON CONFLICT (instance_id) DO UPDATE SET
        logical_id = excluded.logical_id, cluster_epoch = excluded.cluster_epoch, status = excluded.status,
        actor_name = excluded.actor_name, serve_route = excluded.serve_route, node_id = excluded.node_id,
        ip_address = excluded.ip_address, pid = excluded.pid, started_at = excluded.started_at, stopped_at = NULL,
        last_heartbeat = excluded.last_heartbeat, lease_id = excluded.lease_id, revision = excluded.revision,
        epoch_number = excluded.epoch_number, ttl_ms = excluded.ttl_ms, port = excluded.port,
        labels = excluded.labels, version = excluded.version, replaces_lease_id = excluded.replaces_lease_id,
        death_reason = NULL, death_deadline = NULL, death_decided_by = NULL, owner = excluded.owner,
        status_reason = NULL, status_since = excluded.status_since;
    RETURN (CASE WHEN v_row.instance_id IS NULL THEN 'created' ELSE 'replaced' END, true, p_op.instance_id, p_revision,
            p_revision, v_status, p_op.ttl_ms)::muster_outcome;
END
$function$;
COMMENT ON FUNCTION muster_apply_register(muster_operation, cluster_metadata, bigint) IS 'Applies one registration at p_revision.';

--- function muster_apply_status(muster_operation, cluster_metadata, bigint, text)
CREATE OR REPLACE FUNCTION muster_apply_status(p_op muster_operation, p_cluster cluster_metadata, p_revision bigint, p_decided_by text)
 RETURNS muster_outcome
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_row registry_instance;
    v_old boolean;
    v_set muster_outcome;
    v_now timestamptz := muster_now();
BEGIN
    SELECT * INTO v_row FROM registry_instance WHERE instance_id = p_op.instance_id;
    IF NOT FOUND OR p_op.lease_id > v_row.lease_id
        OR (p_op.identity IS NOT NULL AND p_op.as_operator IS NOT TRUE AND v_row.owner IS DISTINCT FROM p_op.identity)
    THEN
        RETURN ('unknown', false, p_op.instance_id, p_op.lease_id, NULL, NULL, NULL)::muster_outcome;
    END IF;
    v_old := v_row.cluster_epoch <> p_cluster.current_epoch;
    v_set := ('set', false, v_row.instance_id, v_row.lease_id, v_row.revision, v_row.status, v_row.ttl_ms);

    IF p_op.lease_id < v_row.lease_id THEN
        -- That lease has ended; to end it again is no error, and must not touch the one that took its place.
        v_set.lease_id := p_op.lease_id;
        v_set.status := 'dead';
        v_set.verdict := CASE WHEN p_op.status = 'dead' THEN 'set' ELSE 'lease_replaced' END;
    ELSIF p_op.status = v_row.status AND (p_op.status = 'dead' OR NOT v_old) THEN
        IF p_op.status <> 'dead' AND p_op.status_reason <> coalesce(v_row.status_reason, '')
            AND coalesce(v_row.status_since, v_row.started_at) <= v_now - interval '10 seconds'
        THEN
            UPDATE registry_instance
            SET status_reason = p_op.status_reason, status_since = v_now, revision = p_revision
            WHERE instance_id = v_row.instance_id;
            v_set.changed := true;
        END IF;
    ELSIF v_row.status = 'dead' THEN
        v_set.verdict := 'expired';
    ELSIF p_op.status = 'dead' THEN
        UPDATE registry_instance
        SET status = 'dead', stopped_at = v_now, revision = p_revision, status_reason = p_op.status_reason, status_since = v_now,
            death_reason = CASE WHEN v_old THEN 'old_epoch' ELSE coalesce(p_op.reason, 'deregistered') END,
            death_deadline = muster_deadline(last_heartbeat, ttl_ms),
            death_decided_by = p_decided_by || coalesce(' for ' || p_op.identity, '')
        WHERE instance_id = v_row.instance_id;
        v_set.changed := true;
    ELSIF v_old THEN
        v_set.verdict := 'epoch_fenced';
    ELSIF (v_row.status, p_op.status) IN (('starting', 'alive'), ('alive', 'draining'), ('draining', 'alive')) THEN
        UPDATE registry_instance
        SET status = p_op.status, revision = p_revision, status_reason = p_op.status_reason, status_since = v_now
        WHERE instance_id = v_row.instance_id;
        v_set.changed := true;
    ELSE
        v_set.verdict := 'invalid_transition';
    END IF;

    IF v_set.changed THEN
        v_set.revision := p_revision;
        v_set.status := p_op.status;
    END IF;
    IF v_set.changed AND p_op.as_operator THEN
        PERFORM muster_audit(
            CASE WHEN p_op.status <> 'dead' THEN 'set_status' WHEN p_op.reason = 'operator' THEN 'expire' ELSE 'deregister' END,
            p_decided_by || coalesce(' for ' || p_op.identity, ''), 'instance ' || v_row.instance_id,
            jsonb_build_object(
                'logical_id', v_row.logical_id, 'lease_id', v_row.lease_id, 'owner', v_row.owner,
                'status', p_op.status, 'reason', nullif(p_op.status_reason, '')),
            p_revision);
    END IF;
    RETURN v_set;
END
$function$;
COMMENT ON FUNCTION muster_apply_status(muster_operation, cluster_metadata, bigint, text) IS 'Applies one change of status at p_revision.';

--- function muster_audit(text, text, text, jsonb, bigint)
CREATE OR REPLACE FUNCTION muster_audit(p_action text, p_by text, p_object text, p_detail jsonb, p_revision bigint)
 RETURNS void
 LANGUAGE sql
AS $function$
    INSERT INTO registry_audit (at, action, by_role, by, object, detail, revision)
    SELECT
        muster_now(), p_action, session_user, coalesce(split.parts[2], p_by, ''), coalesce(p_object, ''),
        jsonb_strip_nulls(coalesce(p_detail, '{}') || jsonb_build_object('daemon', split.parts[1])), p_revision
    FROM (SELECT regexp_match(p_by, '^(\S+) for (.+)$') AS parts) AS split;
$function$;
COMMENT ON FUNCTION muster_audit(text, text, text, jsonb, bigint) IS 'Records a decision, in the transaction of the act.';

--- function muster_audit_counted(text, text, text, jsonb, bigint, bigint)
CREATE OR REPLACE FUNCTION muster_audit_counted(p_action text, p_by text, p_object text, p_detail jsonb, p_count bigint, p_period_ms bigint)
 RETURNS void
 LANGUAGE sql
AS $function$
    INSERT INTO registry_audit AS audit (at, action, by_role, by, object, detail, period)
    SELECT
        clock.now, p_action, session_user, p_by, p_object,
        jsonb_strip_nulls(p_detail || jsonb_build_object('count', p_count)),
        to_timestamp(floor(extract(epoch FROM clock.now) * 1000 / p_period_ms) * p_period_ms / 1000)
    FROM (SELECT muster_now() AS now) AS clock
    ON CONFLICT (period, action, by, object, by_role) WHERE period IS NOT NULL
    DO UPDATE SET detail = audit.detail || jsonb_build_object('count', (audit.detail ->> 'count')::bigint + p_count);
$function$;
COMMENT ON FUNCTION muster_audit_counted(text, text, text, jsonb, bigint, bigint) IS 'Records what happens often: the first time in a period as a row, later ones as its count.';

--- function muster_audit_note(jsonb)
CREATE OR REPLACE FUNCTION muster_audit_note(p_entries jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_entry record;
BEGIN
    -- plpgsql does not read a field of the name "by". In one order, so that two daemons that count the same refusals do not wait for each other in a circle.
    FOR v_entry IN
        SELECT entry.action, entry.by AS identity, entry.object, entry.detail, entry.count
        FROM jsonb_to_recordset(p_entries)
            AS entry (action text, by text, object text, detail jsonb, count bigint)
        ORDER BY entry.action, entry.by, entry.object
    LOOP
        CASE v_entry.action
            WHEN 'denied' THEN
                PERFORM muster_audit_counted(
                    'denied', coalesce(v_entry.identity, ''), coalesce(v_entry.object, ''), coalesce(v_entry.detail, '{}'),
                    greatest(v_entry.count, 1), 60000);
            WHEN 'reload' THEN
                PERFORM muster_audit('reload', v_entry.identity, v_entry.object, v_entry.detail, NULL);
            ELSE
                RAISE EXCEPTION 'the action of an entry is %', coalesce(quote_literal(v_entry.action), 'null')
                    USING ERRCODE = muster_error_code('invalid'), HINT = 'Use ''denied'' or ''reload''.';
        END CASE;
    END LOOP;
END
$function$;
COMMENT ON FUNCTION muster_audit_note(jsonb) IS 'Records for a daemon what has no transaction of its own: refusals, and files that were reloaded.';
REVOKE ALL ON FUNCTION muster_audit_note(jsonb) FROM PUBLIC;

--- function muster_brake(cluster_metadata, timestamp with time zone, bigint, bigint, bigint, bigint, bigint)
CREATE OR REPLACE FUNCTION muster_brake(p_cluster cluster_metadata, p_now timestamp with time zone, p_live bigint, p_overdue bigint, p_settled bigint, p_silent bigint, p_heard bigint)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_limits    record;
    v_most      boolean := p_overdue > 0 AND p_silent > 1 AND p_silent > p_heard;
    v_silent    timestamptz := CASE WHEN v_most THEN coalesce(least(p_cluster.silent_since, p_now), p_now) END;
    v_new       boolean;
    v_live      bigint;
    v_reaped    bigint;
    v_allowed   bigint;
    v_mode      text;
BEGIN
    SELECT * INTO v_limits FROM muster_limits();
    v_new := coalesce(
        p_cluster.window_at < p_now - v_limits.window_ms * interval '1 millisecond' OR p_cluster.window_at > p_now, true);
    v_live := CASE WHEN v_new THEN p_live ELSE p_cluster.window_live END;
    v_reaped := CASE WHEN v_new THEN 0 ELSE p_cluster.window_reaped END;
    v_allowed := muster_window_allowance(v_live, v_reaped);
    -- Where no daemon ever ran, or an operator has released it, there is none.
    IF p_cluster.released_until > p_now OR NOT EXISTS (SELECT FROM registry_daemon) THEN
        v_silent := NULL;
        v_allowed := 2147483647;
    ELSE
        v_mode := muster_brake_mode(p_live, p_overdue, p_settled, p_silent, p_heard, v_allowed,
                                    coalesce(-muster_ms_until(v_silent, p_now), 0));
        IF p_cluster.brake = 'protect' AND NOT v_most THEN
            PERFORM muster_note_disruption('most instances were silent at once');
            RETURN 0;
        END IF;
        IF v_mode IN ('wait', 'protect') THEN
            v_allowed := 0;
        END IF;
        v_mode := nullif(v_mode, 'wait');
    END IF;
    UPDATE cluster_metadata
    SET brake = v_mode,
        brake_since = CASE
            WHEN v_mode = 'protect' THEN v_silent
            WHEN v_mode IS NOT NULL THEN coalesce(least(brake_since, p_now), p_now)
        END,
        brake_overdue = CASE WHEN v_mode IS NOT NULL THEN p_overdue END,
        brake_live = CASE WHEN v_mode IS NOT NULL THEN p_live END,
        silent_since = v_silent,
        window_at = CASE WHEN v_new THEN p_now ELSE window_at END,
        window_live = v_live,
        window_reaped = v_reaped
    WHERE id = 1;
    RETURN v_allowed;
END
$function$;
COMMENT ON FUNCTION muster_brake(cluster_metadata, timestamp with time zone, bigint, bigint, bigint, bigint, bigint) IS 'Returns how many leases may expire now, and records how expiry is limited.';

--- function muster_brake_mode(bigint, bigint, bigint, bigint, bigint, bigint, bigint)
CREATE OR REPLACE FUNCTION muster_brake_mode(p_live bigint, p_overdue bigint, p_settled bigint, p_silent bigint, p_heard bigint, p_allowed bigint, p_protected_ms bigint)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT CASE
        WHEN p_overdue <= 0 THEN NULL
        WHEN p_protected_ms < limits.protect_ms AND p_settled <= 0 AND unclear > 0
            AND p_silent <= p_heard + unclear AND p_heard < p_silent + unclear THEN 'wait'
        WHEN p_protected_ms < limits.protect_ms AND p_silent > 1 AND p_silent > p_heard THEN 'protect'
        WHEN p_overdue > p_allowed THEN 'pace'
    END
    FROM muster_limits() AS limits, LATERAL (SELECT greatest(p_live - p_silent - p_heard, 0) AS unclear) AS rest;
$function$;
COMMENT ON FUNCTION muster_brake_mode(bigint, bigint, bigint, bigint, bigint, bigint, bigint) IS 'Decides how expiry is limited, by counts alone.';

--- function muster_break_history()
CREATE OR REPLACE FUNCTION muster_break_history()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
BEGIN
    UPDATE cluster_metadata SET history_id = gen_random_uuid() WHERE id = 1;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION muster_break_history() IS 'Makes every reader reload the registry, after rows vanished in a way that the feed cannot show.';
REVOKE ALL ON FUNCTION muster_break_history() FROM PUBLIC;

--- function muster_check_text(text, text, integer)
CREATE OR REPLACE FUNCTION muster_check_text(p_field text, p_value text, p_max_bytes integer)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
DECLARE
    v_hidden text;
BEGIN
    IF octet_length(p_value) > p_max_bytes THEN
        RAISE EXCEPTION '% has % bytes, the limit is %', p_field, octet_length(p_value), p_max_bytes
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Shorten it.';
    END IF;
    v_hidden := muster_hidden_character(p_value);
    IF v_hidden IS NOT NULL THEN
        RAISE EXCEPTION '% has the character U+%, which does not show', p_field, lpad(upper(to_hex(ascii(v_hidden))), 4, '0')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Remove it.';
    END IF;
END
$function$;
COMMENT ON FUNCTION muster_check_text(text, text, integer) IS 'Refuses a text that is too long or has a character that does not show.';

--- function muster_confirm_history(bigint)
CREATE OR REPLACE FUNCTION muster_confirm_history(p_seen_revision bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
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
    -- Notices another database by itself, or finds that another daemon was faster.
    v_cluster := muster_lock_cluster();
    UPDATE cluster_metadata
    SET system_id = muster_system_id(), timeline = muster_timeline()
    WHERE id = 1 AND timeline IS NULL;
    IF v_cluster.revision < p_seen_revision THEN
        PERFORM muster_new_history(v_cluster, p_seen_revision, 'the database has lost revisions');
    END IF;
END
$function$;
COMMENT ON FUNCTION muster_confirm_history(bigint) IS 'Called by a daemon on every new connection of its feed, with the revision it has seen.';
REVOKE ALL ON FUNCTION muster_confirm_history(bigint) FROM PUBLIC;

--- function muster_count_leases(uuid, timestamp with time zone, timestamp with time zone, timestamp with time zone, bigint)
CREATE OR REPLACE FUNCTION muster_count_leases(p_epoch uuid, p_now timestamp with time zone, p_horizon timestamp with time zone, p_heard_as_of timestamp with time zone, p_default_ttl_ms bigint)
 RETURNS TABLE(next_deadline timestamp with time zone, live bigint, overdue bigint, settled bigint, silent bigint, heard bigint, future bigint, window_at timestamp with time zone, window_reaped bigint)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    v_settle    interval;
    v_tolerance interval;
    v_future    interval;
    v_missed    timestamptz;
BEGIN
    SELECT limits.settle_ms * interval '1 millisecond', limits.tolerance_ms * interval '1 millisecond',
           limits.future_ms * interval '1 millisecond'
    INTO v_settle, v_tolerance, v_future
    FROM muster_limits() AS limits;
    -- A third of the TTL after its last beat, which is two thirds before its deadline, a lease should have beaten again.
    SELECT min(lease.deadline), count(*), count(*) FILTER (WHERE lease.deadline < p_horizon),
           count(*) FILTER (WHERE lease.deadline < p_horizon - v_settle),
           max(lease.deadline - lease.ttl * 2 / 3) FILTER (WHERE lease.deadline < p_horizon),
           count(*) FILTER (WHERE lease.last_heartbeat > p_now + v_future),
           (SELECT cluster.window_at FROM cluster_metadata AS cluster WHERE cluster.id = 1),
           (SELECT cluster.window_reaped FROM cluster_metadata AS cluster WHERE cluster.id = 1)
    INTO next_deadline, live, overdue, settled, v_missed, future, window_at, window_reaped
    FROM (
        SELECT instance.last_heartbeat,
               coalesce(instance.ttl_ms, p_default_ttl_ms) * interval '1 millisecond' AS ttl,
               muster_deadline(greatest(instance.last_heartbeat, p_heard_as_of), coalesce(instance.ttl_ms, p_default_ttl_ms)) AS deadline
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = p_epoch
    ) AS lease;
    silent := 0;
    heard := live;
    IF overdue > 0 THEN
        SELECT count(*) FILTER (WHERE NOT lease.heard
                                  AND lease.deadline - greatest(lease.ttl / 3 - v_tolerance, interval '0') < p_horizon),
               count(*) FILTER (WHERE lease.heard)
        INTO silent, heard
        FROM (
            SELECT found.ttl, found.deadline, found.deadline - found.ttl > v_missed + v_tolerance AS heard
            FROM (
                SELECT coalesce(instance.ttl_ms, p_default_ttl_ms) * interval '1 millisecond' AS ttl,
                       muster_deadline(greatest(instance.last_heartbeat, p_heard_as_of), coalesce(instance.ttl_ms, p_default_ttl_ms)) AS deadline
                FROM registry_instance AS instance
                WHERE instance.status <> 'dead' AND instance.cluster_epoch = p_epoch
            ) AS found
        ) AS lease;
    END IF;
    RETURN NEXT;
END
$function$;
COMMENT ON FUNCTION muster_count_leases(uuid, timestamp with time zone, timestamp with time zone, timestamp with time zone, bigint) IS 'Counts the live leases of an epoch, as muster_brake_mode needs them.';

--- function muster_daemon_policy(uuid, text)
CREATE OR REPLACE FUNCTION muster_daemon_policy(p_daemon_id uuid, p_policy text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
BEGIN
    -- A commit that waits for a standby would keep the row that every flush of beats updates. What a crash loses is written again.
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE registry_daemon SET policy = left(p_policy, 64)
    WHERE daemon_id = p_daemon_id AND policy IS DISTINCT FROM left(p_policy, 64);
END
$function$;
COMMENT ON FUNCTION muster_daemon_policy(uuid, text) IS 'Puts on the list of daemons which policy and tokens a daemon has in use.';
REVOKE ALL ON FUNCTION muster_daemon_policy(uuid, text) FROM PUBLIC;

--- function muster_daemon_started(uuid, text, text, text)
CREATE OR REPLACE FUNCTION muster_daemon_started(p_daemon_id uuid, p_address text, p_version text, p_host text DEFAULT ''::text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
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
$function$;
COMMENT ON FUNCTION muster_daemon_started(uuid, text, text, text) IS 'Enters a daemon that starts, and returns for how many milliseconds expiry is put on hold.';
REVOKE ALL ON FUNCTION muster_daemon_started(uuid, text, text, text) FROM PUBLIC;

--- function muster_daemon_stopped(uuid)
CREATE OR REPLACE FUNCTION muster_daemon_stopped(p_daemon_id uuid)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    DELETE FROM registry_daemon WHERE daemon_id = p_daemon_id;
$function$;
COMMENT ON FUNCTION muster_daemon_stopped(uuid) IS 'Removes a daemon that has saved all its beats and leaves.';
REVOKE ALL ON FUNCTION muster_daemon_stopped(uuid) FROM PUBLIC;

--- function muster_dead_leases(bigint[])
CREATE OR REPLACE FUNCTION muster_dead_leases(p_lease_ids bigint[])
 RETURNS TABLE(lease_id bigint, instance_id uuid, logical_id text, actor_name text, node_id text, started_at timestamp with time zone, died_at timestamp with time zone, reason text, successor_started_at timestamp with time zone)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    WITH dead AS MATERIALIZED (
        SELECT death.* FROM registry_death AS death WHERE death.lease_id = ANY (p_lease_ids) AND death.released_at IS NULL
    ), later AS (
        -- One pass over the instances for the whole batch: an index on the actor name would slow down every registration.
        SELECT dead.lease_id, instance.started_at
        FROM dead
        JOIN registry_instance AS instance ON instance.actor_name = dead.actor_name
        WHERE instance.lease_id > dead.lease_id
        UNION ALL
        SELECT dead.lease_id, instance.started_at
        FROM dead
        JOIN registry_instance AS instance ON instance.instance_id = dead.instance_id
        WHERE instance.lease_id > dead.lease_id
    )
    SELECT
        dead.lease_id, dead.instance_id, dead.logical_id, dead.actor_name, dead.node_id, dead.started_at, dead.died_at,
        dead.reason, (SELECT min(later.started_at) FROM later WHERE later.lease_id = dead.lease_id)
    FROM dead
    ORDER BY dead.lease_id;
$function$;
COMMENT ON FUNCTION muster_dead_leases(bigint[]) IS 'For a hook: what is known of the ended leases that it is called with, and from when a successor holds the same actor name or instance id.';
REVOKE ALL ON FUNCTION muster_dead_leases(bigint[]) FROM PUBLIC;

--- function muster_deadline(timestamp with time zone, bigint)
CREATE OR REPLACE FUNCTION muster_deadline(p_last_heartbeat timestamp with time zone, p_ttl_ms bigint)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
AS $function$
    SELECT greatest(least(p_last_heartbeat, timestamptz '9999-12-31 00:00:00+00'), timestamptz '1970-01-01 00:00:00+00')
        + coalesce(p_ttl_ms, 15000) * interval '1 millisecond';
$function$;
COMMENT ON FUNCTION muster_deadline(timestamp with time zone, bigint) IS 'When a lease ends without another beat. Never infinite and never out of range, whatever the row holds.';

--- function muster_declare_dead(uuid[], timestamp with time zone[], bigint, text, bigint, text)
CREATE OR REPLACE FUNCTION muster_declare_dead(p_instance_ids uuid[], p_ended_at timestamp with time zone[], p_revision bigint, p_reason text, p_default_ttl_ms bigint, p_decided_by text)
 RETURNS integer
 LANGUAGE plpgsql
 SET jit TO 'off'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_material TO 'off'
AS $function$
DECLARE
    v_died integer;
BEGIN
    PERFORM set_config('muster.deaths_recorded', pg_trigger_depth()::text, true);
    WITH died AS (
        UPDATE registry_instance AS instance
        SET status = 'dead',
            stopped_at = one.ended_at,
            status_reason = NULL,
            status_since = one.ended_at,
            revision = p_revision + one.number,
            death_reason = p_reason,
            death_deadline = muster_deadline(instance.last_heartbeat, coalesce(instance.ttl_ms, p_default_ttl_ms)),
            death_decided_by = p_decided_by
        FROM unnest(p_instance_ids, p_ended_at) WITH ORDINALITY AS one (instance_id, ended_at, number)
        WHERE instance.instance_id = one.instance_id
        RETURNING
            instance.lease_id, instance.revision, instance.instance_id, instance.logical_id, instance.actor_name,
            instance.node_id, instance.epoch_number, instance.started_at, instance.stopped_at, instance.death_reason,
            instance.death_decided_by, instance.owner
    ), recorded AS (
        -- A death must not fail because of its record, whatever was written there by hand.
        INSERT INTO registry_death (
            lease_id, revision, instance_id, logical_id, actor_name, node_id, epoch_number, started_at, died_at, reason,
            decided_by, owner, released_at
        )
        SELECT died.*, CASE WHEN NOT EXISTS (SELECT FROM registry_hook) THEN muster_now() END
        FROM died
        ON CONFLICT (lease_id) DO NOTHING
    )
    SELECT count(*) INTO v_died FROM died;
    PERFORM set_config('muster.deaths_recorded', '', true);
    PERFORM muster_advance(p_revision + v_died);
    RETURN v_died;
END
$function$;
COMMENT ON FUNCTION muster_declare_dead(uuid[], timestamp with time zone[], bigint, text, bigint, text) IS 'The deaths of a sweep, with their records.';

--- function muster_ensure_epoch(text)
CREATE OR REPLACE FUNCTION muster_ensure_epoch(p_by text)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_epoch uuid;
BEGIN
    SELECT current_epoch INTO v_epoch FROM cluster_metadata WHERE id = 1;
    IF FOUND THEN
        RETURN v_epoch;
    END IF;
    -- Two daemons may meet here on an empty database: the second sees the first one's epoch once it has the lock.
    PERFORM pg_advisory_xact_lock(42);
    SELECT current_epoch INTO v_epoch FROM cluster_metadata WHERE id = 1;
    IF NOT FOUND THEN
        SELECT cluster_epoch INTO v_epoch FROM muster_rotate_epoch(gen_random_uuid(), NULL, 'first epoch', p_by);
    END IF;
    RETURN v_epoch;
END
$function$;
COMMENT ON FUNCTION muster_ensure_epoch(text) IS 'Returns the current epoch, beginning the first one if there is none.';
REVOKE ALL ON FUNCTION muster_ensure_epoch(text) FROM PUBLIC;

--- function muster_error_code(text)
CREATE OR REPLACE FUNCTION muster_error_code(p_verdict text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE STRICT
AS $function$
    SELECT CASE p_verdict
        WHEN 'no_epoch' THEN 'MU001'
        WHEN 'epoch_fenced' THEN 'MU002'
        WHEN 'taken' THEN 'MU003'
        WHEN 'unknown' THEN 'MU004'
        WHEN 'expired' THEN 'MU005'
        WHEN 'lease_replaced' THEN 'MU005'
        WHEN 'invalid_transition' THEN 'MU006'
        WHEN 'epoch_mismatch' THEN 'MU007'
        WHEN 'epoch_reused' THEN 'MU008'
        WHEN 'invalid' THEN '22023'
    END;
$function$;
COMMENT ON FUNCTION muster_error_code(text) IS 'The SQLSTATE with which a direct SQL caller learns of a verdict.';

--- function muster_exchange_suspicions(bigint[], bigint[], bigint[])
CREATE OR REPLACE FUNCTION muster_exchange_suspicions(p_lost bigint[], p_ages_ms bigint[], p_heard bigint[])
 RETURNS TABLE(lease_id bigint, age_ms bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
#variable_conflict use_column
DECLARE
    v_now timestamptz := muster_now();
BEGIN
    -- A hint that a crash takes is told again, or no longer true.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- By lease id, so that daemons never wait for each other in a circle; the deletion below waits for no lock. Here and
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
        LIMIT greatest((SELECT suspicions_max FROM muster_limits()) - (SELECT count(*) FROM registry_suspicion), 0)
        ON CONFLICT (lease_id) DO UPDATE SET suspected_at = excluded.suspected_at;
    END IF;
    -- A second more: what is saved of a beat is later by the time that takes.
    DELETE FROM registry_suspicion
    WHERE lease_id IN (
        SELECT suspicion.lease_id
        FROM registry_suspicion AS suspicion
        WHERE suspicion.lease_id = ANY (p_heard)
           OR coalesce((
                  SELECT instance.last_heartbeat > least(suspicion.suspected_at, timestamptz '9999-12-31 00:00:00+00') + interval '1 second'
                  FROM registry_instance AS instance
                  WHERE instance.lease_id = suspicion.lease_id AND instance.status <> 'dead'
              ), true)
        ORDER BY suspicion.lease_id
        FOR UPDATE SKIP LOCKED
    );
    RETURN QUERY
    SELECT suspicion.lease_id, greatest(-muster_ms_until(suspicion.suspected_at, v_now), 0)
    FROM registry_suspicion AS suspicion;
END
$function$;
COMMENT ON FUNCTION muster_exchange_suspicions(bigint[], bigint[], bigint[]) IS 'Notes leases that the calling daemon has lost contact with, last heard of p_ages_ms ago.';
REVOKE ALL ON FUNCTION muster_exchange_suspicions(bigint[], bigint[], bigint[]) FROM PUBLIC;

--- function muster_expiry_report(timestamp with time zone, timestamp with time zone, timestamp with time zone, timestamp with time zone, text, timestamp with time zone)
CREATE OR REPLACE FUNCTION muster_expiry_report(p_now timestamp with time zone, p_next timestamp with time zone, p_held_until timestamp with time zone, p_hold_until timestamp with time zone, p_hold_reason text, p_stalled_at timestamp with time zone)
 RETURNS TABLE(next_in_ms bigint, held_for_ms bigint, hold_reason text)
 LANGUAGE sql
 STABLE
AS $function$
    SELECT CASE
               WHEN p_next IS NULL THEN NULL
               WHEN stalled THEN greatest(muster_ms_until(p_next, p_now), 1000)
               ELSE muster_ms_until(greatest(p_next, CASE WHEN p_hold_until > p_now THEN p_held_until END), p_now)
           END,
           CASE
               WHEN stalled THEN greatest(muster_ms_until(p_stalled_at, p_now) + limits.evicted_after_ms, 100)
               WHEN p_hold_until > p_now THEN greatest(muster_ms_until(p_hold_until, p_now), 1)
           END,
           CASE
               WHEN stalled THEN 'a daemon has stopped saving beats'
               WHEN p_hold_until > p_now THEN p_hold_reason
           END
    FROM muster_limits() AS limits,
         LATERAL (SELECT p_stalled_at IS NOT NULL AND coalesce(p_hold_until, p_now) <= p_now AS stalled) AS daemons;
$function$;
COMMENT ON FUNCTION muster_expiry_report(timestamp with time zone, timestamp with time zone, timestamp with time zone, timestamp with time zone, text, timestamp with time zone) IS 'What the reaper is told about the next deadline and about the hold, by times alone.';

--- function muster_flush_beats(uuid, bigint[], bigint[], timestamp with time zone)
CREATE OR REPLACE FUNCTION muster_flush_beats(p_daemon_id uuid, p_lease_ids bigint[], p_ages_ms bigint[], p_saved_up_to timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(saved integer, entered boolean, read_at timestamp with time zone)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_material TO 'off'
AS $function$
BEGIN
    -- A crash of PostgreSQL may lose the last moments of beats: the hold that follows an outage makes up for it.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- The dead as well: a condition on live rows would suggest the index of all of them.
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
$function$;
COMMENT ON FUNCTION muster_flush_beats(uuid, bigint[], bigint[], timestamp with time zone) IS 'Saves beats that a daemon received: leases, and how many milliseconds ago each beat arrived.';
REVOKE ALL ON FUNCTION muster_flush_beats(uuid, bigint[], bigint[], timestamp with time zone) FROM PUBLIC;

--- function muster_heard_as_of(timestamp with time zone, timestamp with time zone, timestamp with time zone)
CREATE OR REPLACE FUNCTION muster_heard_as_of(p_now timestamp with time zone, p_hold_until timestamp with time zone, p_disrupted_at timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
AS $function$
    SELECT CASE WHEN p_hold_until > p_now THEN p_disrupted_at + grace_ms * interval '1 millisecond' END
    FROM muster_limits();
$function$;
COMMENT ON FUNCTION muster_heard_as_of(timestamp with time zone, timestamp with time zone, timestamp with time zone) IS 'As of when every lease counts as heard, because of a disruption.';

--- function muster_hidden_character(text)
CREATE OR REPLACE FUNCTION muster_hidden_character(p_text text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT CASE WHEN p_text ~ '^[\u0020-\u007e]*$' THEN NULL ELSE substring(p_text FROM '[\u0001-\u001f\u007f-\u009f'
        || '\u00ad\u0378-\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0590\u05ca-\u05cf\u05eb-\u05ee'
        || '\u05f5-\u0605\u061c\u06dd\u070e-\u070f\u074b-\u074c\u07b2-\u07bf\u07fb-\u07fc\u082e-\u082f\u083f'
        || '\u085c-\u085d\u085f\u086b-\u086f\u0890-\u0896\u08e2\u0984\u098d-\u098e\u0991-\u0992\u09a9\u09b1'
        || '\u09b3-\u09b5\u09ba-\u09bb\u09c5-\u09c6\u09c9-\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4-\u09e5'
        || '\u09ff-\u0a00\u0a04\u0a0b-\u0a0e\u0a11-\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a-\u0a3b\u0a3d'
        || '\u0a43-\u0a46\u0a49-\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e'
        || '\u0a92\u0aa9\u0ab1\u0ab4\u0aba-\u0abb\u0ac6\u0aca\u0ace-\u0acf\u0ad1-\u0adf\u0ae4-\u0ae5'
        || '\u0af2-\u0af8\u0b00\u0b04\u0b0d-\u0b0e\u0b11-\u0b12\u0b29\u0b31\u0b34\u0b3a-\u0b3b\u0b45-\u0b46'
        || '\u0b49-\u0b4a\u0b4e-\u0b52\u0b58-\u0b5b\u0b5e\u0b64-\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91'
        || '\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9'
        || '\u0bce-\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a-\u0c3b\u0c45\u0c49'
        || '\u0c4e-\u0c54\u0c57\u0c5b\u0c5e-\u0c5f\u0c64-\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4'
        || '\u0cba-\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdb\u0cdf\u0ce4-\u0ce5\u0cf0\u0cf4-\u0cff\u0d0d'
        || '\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64-\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe-\u0dbf'
        || '\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0-\u0df1\u0df5-\u0e00\u0e3b-\u0e3e'
        || '\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe-\u0ebf\u0ec5\u0ec7\u0ecf\u0eda-\u0edb\u0ee0-\u0eff'
        || '\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce-\u10cf\u1249'
        || '\u124e-\u124f\u1257\u1259\u125e-\u125f\u1289\u128e-\u128f\u12b1\u12b6-\u12b7\u12bf\u12c1'
        || '\u12c6-\u12c7\u12d7\u1311\u1316-\u1317\u135b-\u135c\u137d-\u137f\u139a-\u139f\u13f6-\u13f7'
        || '\u13fe-\u13ff\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771'
        || '\u1774-\u177f\u17de-\u17df\u17ea-\u17ef\u17fa-\u17ff\u180e\u181a-\u181f\u1879-\u187f\u18ab-\u18af'
        || '\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e-\u196f\u1975-\u197f\u19ac-\u19af'
        || '\u19ca-\u19cf\u19db-\u19dd\u1a1c-\u1a1d\u1a5f\u1a7d-\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae-\u1aaf'
        || '\u1af1-\u1aff\u1b4d\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c8b-\u1c8f\u1cbb-\u1cbc\u1cc8-\u1ccf'
        || '\u1cfb-\u1cff\u1f16-\u1f17\u1f1e-\u1f1f\u1f46-\u1f47\u1f4e-\u1f4f\u1f58\u1f5a\u1f5c\u1f5e'
        || '\u1f7e-\u1f7f\u1fb5\u1fc5\u1fd4-\u1fd5\u1fdc\u1ff0-\u1ff1\u1ff5\u1fff\u200b-\u200f\u2028-\u202e'
        || '\u2060-\u206f\u2072-\u2073\u20c5-\u20cf\u20f1-\u20ff\u218c-\u218f\u242a-\u243f\u244b-\u245f'
        || '\u2b74-\u2b75\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e-\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f'
        || '\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e5f\u2e64-\u2e7f\u2e9a\u2ef4-\u2eff'
        || '\u2fd6-\u2fef\u3040\u3097-\u3098\u3100-\u3104\u3130\u318f\u31e6-\u31ee\u321f\ua48d-\ua48f'
        || '\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7de-\ua7e1\ua7e3-\ua7f0\ua82d-\ua82f\ua83a-\ua83f'
        || '\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff'
        || '\uaa37-\uaa3f\uaa4e-\uaa4f\uaa5a-\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07-\uab08\uab0f-\uab10'
        || '\uab17-\uab1f\uab27\uab2f\uab6e-\uab6f\uabee-\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca'
        || '\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e-\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f'
        || '\ufb42\ufb45\ufdd0-\ufdef\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffbf-\uffc1'
        || '\uffc8-\uffc9\uffd0-\uffd1\uffd8-\uffd9\uffdd-\uffdf\uffe7\uffef-\ufffb\ufffe-\uffff\U0001000c'
        || '\U00010027\U0001003b\U0001003e\U0001004e-\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff'
        || '\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf'
        || '\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff'
        || '\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7'
        || '\U000103d6-\U000103ff\U0001049e-\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7'
        || '\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593'
        || '\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105bf\U000105f4-\U000105ff'
        || '\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1'
        || '\U000107c0-\U000107ff\U00010806-\U00010807\U00010809\U00010836\U00010839-\U0001083b'
        || '\U0001083d-\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3'
        || '\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U0001095a-\U0001097f'
        || '\U000109b8-\U000109bb\U000109d0-\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18'
        || '\U00010a36-\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f'
        || '\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38'
        || '\U00010b56-\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8'
        || '\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9'
        || '\U00010d28-\U00010d2f\U00010d3a-\U00010d3f\U00010d66-\U00010d68\U00010d86-\U00010d8d'
        || '\U00010d90-\U00010e5f\U00010e7f\U00010eaa\U00010eae-\U00010eaf\U00010eb2-\U00010ec1\U00010ec8'
        || '\U00010eef\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf'
        || '\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf'
        || '\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f'
        || '\U000111e0\U000111f5-\U000111ff\U00011212\U00011242-\U0001127f\U00011287\U00011289\U0001128e'
        || '\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304'
        || '\U0001130d-\U0001130e\U00011311-\U00011312\U00011329\U00011331\U00011334\U0001133a'
        || '\U00011345-\U00011346\U00011349-\U0001134a\U0001134e-\U0001134f\U00011351-\U00011356'
        || '\U00011358-\U0001135c\U00011364-\U00011365\U0001136d-\U0001136f\U00011375-\U0001137f\U0001138a'
        || '\U0001138c-\U0001138d\U0001138f\U000113b6\U000113c1\U000113c3-\U000113c4\U000113c6\U000113cb'
        || '\U000113d6\U000113d9-\U000113e0\U000113e3-\U000113ff\U0001145c\U00011462-\U0001147f'
        || '\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6-\U000115b7\U000115de-\U000115ff'
        || '\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf'
        || '\U000116ca-\U000116cf\U000116e4-\U000116ff\U0001171b-\U0001171c\U0001172c-\U0001172f'
        || '\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907-\U00011908'
        || '\U0001190a-\U0001190b\U00011914\U00011917\U00011936\U00011939-\U0001193a\U00011947-\U0001194f'
        || '\U0001195a-\U0001199f\U000119a8-\U000119a9\U000119d8-\U000119d9\U000119e5-\U000119ff'
        || '\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011aff\U00011b0b-\U00011b5f'
        || '\U00011b68-\U00011bbf\U00011be2-\U00011bef\U00011bfa-\U00011bff\U00011c09\U00011c37'
        || '\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90-\U00011c91\U00011ca8\U00011cb7-\U00011cff'
        || '\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f'
        || '\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f'
        || '\U00011daa-\U00011daf\U00011ddc-\U00011ddf\U00011dea-\U00011def\U00011df2-\U00011edf'
        || '\U00011ef9-\U00011eff\U00011f11\U00011f3b-\U00011f3d\U00011f5b-\U00011faf\U00011fb1-\U00011fbf'
        || '\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U00012544-\U0001254f\U00012687-\U00012f8f'
        || '\U00012ff3-\U00012fff\U00013430-\U0001343f\U00013456-\U0001345f\U000143fb-\U000143ff'
        || '\U00014647-\U000160ff\U0001613a-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d'
        || '\U00016abf\U00016aca-\U00016acf\U00016aee-\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f'
        || '\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016d3f\U00016d7a-\U00016e3f'
        || '\U00016e9b-\U00016e9f\U00016eb9-\U00016eba\U00016ed4-\U00016eff\U00016f4b-\U00016f4e'
        || '\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe5-\U00016fef\U00016ff7-\U00016fff'
        || '\U00018cdb-\U00018cfe\U00018d21-\U00018d7f\U00018df3-\U00018dff\U00019192-\U0001919f'
        || '\U000191d3-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b129-\U0001b131\U0001b133-\U0001b14f'
        || '\U0001b153-\U0001b154\U0001b156-\U0001b163\U0001b169-\U0001b16f\U0001b2fc-\U0001bbff'
        || '\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a-\U0001bc9b'
        || '\U0001bca0-\U0001cbff\U0001ccfd-\U0001ccff\U0001ceb4-\U0001ceb9\U0001ced1\U0001ced5-\U0001cedc'
        || '\U0001cefe-\U0001ceff\U0001cf2e-\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff'
        || '\U0001d0f6-\U0001d0ff\U0001d173-\U0001d17a\U0001d246-\U0001d24f\U0001d282-\U0001d2bf'
        || '\U0001d2d4-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455'
        || '\U0001d49d\U0001d4a0-\U0001d4a1\U0001d4a3-\U0001d4a4\U0001d4a7-\U0001d4a8\U0001d4ad\U0001d4ba'
        || '\U0001d4bc\U0001d4c4\U0001d506\U0001d50b-\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f'
        || '\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a7\U0001d7cc-\U0001d7cd\U0001da8c-\U0001da9a'
        || '\U0001daa0\U0001dab0-\U0001daff\U0001db1d-\U0001deff\U0001df82-\U0001df8f\U0001df97-\U0001dfcc'
        || '\U0001e007\U0001e019-\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e02f\U0001e06e-\U0001e08e'
        || '\U0001e090-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e-\U0001e13f\U0001e14a-\U0001e14d'
        || '\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e4cf'
        || '\U0001e4fa-\U0001e5cf\U0001e5fb-\U0001e5fe\U0001e600-\U0001e6bf\U0001e6df\U0001e6f6-\U0001e6fd'
        || '\U0001e700-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5-\U0001e8c6'
        || '\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70'
        || '\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25-\U0001ee26'
        || '\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48'
        || '\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55-\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c'
        || '\U0001ee5e\U0001ee60\U0001ee63\U0001ee65-\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d'
        || '\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef'
        || '\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af-\U0001f0b0\U0001f0c0'
        || '\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1af-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f'
        || '\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6da-\U0001f6db'
        || '\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f7dc-\U0001f7df\U0001f7ec-\U0001f7ef'
        || '\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f'
        || '\U0001f8ae-\U0001f8af\U0001f8bc-\U0001f8bf\U0001f8c2-\U0001f8cf\U0001f8d9-\U0001f8ff'
        || '\U0001fa58-\U0001fa5f\U0001fa6e-\U0001fa6f\U0001fa7d-\U0001fa7f\U0001fac7\U0001fac9-\U0001facb'
        || '\U0001fade\U0001faec-\U0001faee\U0001fafb-\U0001faff\U0001fb93\U0001fbfb-\U0001ffff'
        || '\U0002a6e0-\U0002a6ff\U0002b81f\U0002ceae-\U0002ceaf\U0002ebe1-\U0002ebef\U0002ee5e-\U0002f7ff'
        || '\U0002fa1e-\U0002ffff\U0003134b-\U0003134f\U0003347a-\U0003cfff\U0003fc40-\U000e00ff'
        || '\U000e01f0-\U0010ffff'
        || ']') END;
$function$;
COMMENT ON FUNCTION muster_hidden_character(text) IS 'The first character of a text that a name may not have, because it does not show.';

--- function muster_hold_expiry(text, bigint)
CREATE OR REPLACE FUNCTION muster_hold_expiry(p_reason text, p_for_ms bigint DEFAULT NULL::bigint)
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    SELECT muster_hold_expiry_for(p_reason, p_for_ms, muster_sql_caller());
$function$;
COMMENT ON FUNCTION muster_hold_expiry(text, bigint) IS 'Puts expiry on hold for p_for_ms, or for the longest TTL of a live lease and 5 s, for an operator: no lease expires meanwhile.';
REVOKE ALL ON FUNCTION muster_hold_expiry(text, bigint) FROM PUBLIC;

--- function muster_hold_expiry_for(text, bigint, text)
CREATE OR REPLACE FUNCTION muster_hold_expiry_for(p_reason text, p_for_ms bigint, p_by text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_cluster cluster_metadata;
    v_limits  record;
    v_for_ms  bigint := p_for_ms;
    v_now     timestamptz;
    v_until   timestamptz;
BEGIN
    v_cluster := muster_lock_cluster();
    SELECT * INTO v_limits FROM muster_limits();
    IF v_for_ms IS NULL THEN
        SELECT max(coalesce(instance.ttl_ms, v_limits.ttl_default_ms)) + v_limits.grace_ms INTO v_for_ms
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch;
    END IF;
    IF v_for_ms IS NULL THEN
        RETURN 0;
    END IF;
    v_now := muster_now();
    v_until := v_now + v_for_ms * interval '1 millisecond';
    -- An end that is later than any hold can be comes from a clock that was wrong.
    IF v_cluster.hold_until > v_now + v_limits.hold_max_ms * interval '1 millisecond' THEN
        v_cluster.hold_until := NULL;
        v_cluster.held_until := NULL;
    END IF;
    UPDATE cluster_metadata
    SET held_until = greatest(v_cluster.held_until, v_until),
        hold_until = greatest(v_cluster.hold_until, v_until),
        hold_reason = CASE WHEN v_cluster.hold_until >= v_until THEN hold_reason ELSE p_reason END,
        silent_since = NULL, brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL
    WHERE id = 1;
    PERFORM muster_audit('hold', p_by, 'expiry', jsonb_build_object('for_ms', v_for_ms, 'reason', nullif(p_reason, '')), NULL);
    RETURN v_for_ms;
END
$function$;
COMMENT ON FUNCTION muster_hold_expiry_for(text, bigint, text) IS 'Puts expiry on hold for p_for_ms, or for the longest TTL of a live lease and 5 s, for an operator: no lease expires meanwhile.';
REVOKE ALL ON FUNCTION muster_hold_expiry_for(text, bigint, text) FROM PUBLIC;

--- function muster_hook_refusal(text)
CREATE OR REPLACE FUNCTION muster_hook_refusal(p_function text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_proc     pg_proc;
    v_registry oid := (SELECT relowner FROM pg_class WHERE oid = 'registry_death'::regclass);
    v_path     text;
    v_deferred text;
BEGIN
    SELECT proc.* INTO v_proc FROM pg_proc AS proc WHERE proc.oid = to_regprocedure(p_function || '(bigint[])');
    IF NOT FOUND THEN
        RETURN format('function %s(bigint[]) does not exist; create it, and name it with its schema', p_function);
    ELSIF v_proc.prokind <> 'f' OR v_proc.proretset OR v_proc.prorettype <> 'bigint'::regtype THEN
        RETURN format('function %s does not return bigint; return the number of rows freed', p_function);
    ELSIF NOT v_proc.prosecdef THEN
        RETURN format('function %s is not SECURITY DEFINER; ALTER FUNCTION %1$s(bigint[]) SECURITY DEFINER', p_function);
    ELSIF pg_has_role(v_proc.proowner, v_registry, 'MEMBER') THEN
        RETURN format('function %s belongs to %s, which has the rights of the owner of the registry; give it to a role of the application',
            p_function, v_proc.proowner::regrole);
    ELSIF NOT has_function_privilege(v_registry, v_proc.oid, 'EXECUTE')
        OR NOT has_schema_privilege(v_registry, v_proc.pronamespace, 'USAGE')
    THEN
        RETURN format('%s may not call function %s; GRANT EXECUTE on it, and USAGE on its schema', v_registry::regrole, p_function);
    END IF;
    SELECT substr(setting, length('search_path=') + 1) INTO v_path
    FROM unnest(v_proc.proconfig) AS setting
    WHERE setting LIKE 'search\_path=%';
    IF v_path IS NULL OR v_path !~ '(^|, ?)("pg_temp"|pg_temp)$' OR v_path ~ '\$user' THEN
        RETURN format('function %s has no fixed search path that ends with pg_temp; ALTER FUNCTION %1$s(bigint[]) SET search_path = ..., pg_temp',
            p_function);
    END IF;
    IF current_setting('server_version_num')::integer < 180000 THEN
        SELECT format('%s on %s', trg.tgname, trg.tgrelid::regclass) INTO v_deferred
        FROM pg_trigger AS trg
        WHERE trg.tgdeferrable AND NOT trg.tgisinternal
          AND has_table_privilege(v_proc.proowner, trg.tgrelid, 'INSERT, UPDATE, DELETE')
        LIMIT 1;
        IF v_deferred IS NOT NULL THEN
            RETURN format('the owner of function %s may write to a table with the deferrable trigger %s, which would run with other rights; make the trigger NOT DEFERRABLE, or take the right away',
                p_function, v_deferred);
        END IF;
    END IF;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION muster_hook_refusal(text) IS 'Why a function cannot be a hook, with what to do; null if it can.';

--- function muster_hook_remove(text)
CREATE OR REPLACE FUNCTION muster_hook_remove(p_name text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_removed boolean;
BEGIN
    DELETE FROM registry_hook WHERE name = p_name;
    v_removed := FOUND;
    UPDATE registry_death
    SET released_at = muster_now()
    WHERE released_at IS NULL AND hooks_done @> ARRAY(SELECT name FROM registry_hook);
    IF v_removed THEN
        PERFORM muster_audit('hook_remove', muster_sql_caller(), p_name, NULL, NULL);
    END IF;
    RETURN v_removed;
END
$function$;
COMMENT ON FUNCTION muster_hook_remove(text) IS 'Removes a hook; deaths that waited for it alone are released without it.';

--- function muster_hook_set(text, text, text, integer)
CREATE OR REPLACE FUNCTION muster_hook_set(p_name text, p_function text, p_mode text DEFAULT 'after'::text, p_lock_timeout_ms integer DEFAULT 100)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_refusal text;
    v_proc    pg_proc;
BEGIN
    IF p_name IS NULL OR p_name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
        RAISE EXCEPTION 'the name of a hook is %', coalesce(quote_literal(p_name), 'null')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Use 1 to 63 letters, digits, "_", "-" and ".".';
    ELSIF p_mode IS NULL OR p_mode NOT IN ('after', 'commit') THEN
        RAISE EXCEPTION 'the mode of hook % is %', p_name, coalesce(quote_literal(p_mode), 'null')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Use ''after'' or ''commit''.';
    ELSIF p_lock_timeout_ms IS NULL OR p_lock_timeout_ms NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'the lock timeout of hook % is % ms', p_name, coalesce(p_lock_timeout_ms::text, 'null')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Use 1 to 10000.';
    END IF;
    v_refusal := muster_hook_refusal(p_function);
    IF v_refusal IS NOT NULL THEN
        RAISE EXCEPTION 'hook %: %', p_name, split_part(v_refusal, '; ', 1)
            USING ERRCODE = muster_error_code('invalid'), HINT = substr(v_refusal, strpos(v_refusal, '; ') + 2);
    END IF;
    SELECT proc.* INTO v_proc FROM pg_proc AS proc WHERE proc.oid = to_regprocedure(p_function || '(bigint[])');
    INSERT INTO registry_hook AS hook (name, function, mode, lock_timeout_ms, enabled, system_id, set_at, set_by)
    VALUES (
        p_name, format('%s.%I', v_proc.pronamespace::regnamespace, v_proc.proname), p_mode, p_lock_timeout_ms, true,
        muster_system_id(), muster_now(), muster_sql_caller()
    )
    ON CONFLICT (name) DO UPDATE SET
        function = excluded.function, mode = excluded.mode, lock_timeout_ms = excluded.lock_timeout_ms, enabled = true,
        system_id = excluded.system_id, set_at = excluded.set_at, set_by = excluded.set_by;
    EXECUTE format('GRANT EXECUTE ON FUNCTION muster_dead_leases(bigint[]) TO %s', v_proc.proowner::regrole);
    UPDATE registry_death SET attempts = 0, next_attempt_at = NULL WHERE released_at IS NULL AND attempts > 0;
    PERFORM muster_audit(
        'hook_set', muster_sql_caller(), p_name,
        jsonb_build_object('function', p_function, 'mode', p_mode, 'lock_timeout_ms', p_lock_timeout_ms), NULL);
END
$function$;
COMMENT ON FUNCTION muster_hook_set(text, text, text, integer) IS 'Makes a function of the application a hook, which frees what ended leases held, or changes the hook of this name.';

--- function muster_limits()
CREATE OR REPLACE FUNCTION muster_limits()
 RETURNS TABLE(ttl_min_ms bigint, ttl_max_ms bigint, ttl_default_ms bigint, stalled_after_ms bigint, evicted_after_ms bigint, loss_kept_ms bigint, grace_ms bigint, hold_max_ms bigint, window_ms bigint, window_deaths_min bigint, window_deaths_percent bigint, protect_ms bigint, settle_ms bigint, tolerance_ms bigint, future_ms bigint, suspicions_max bigint, history_gap bigint)
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT 2000::bigint, 300000::bigint, 15000::bigint,
           3000::bigint, 15000::bigint, 3600000::bigint,
           5000::bigint, 3600000::bigint,
           15000::bigint, 10::bigint, 15::bigint,
           600000::bigint, 1000::bigint, 500::bigint,
           60000::bigint, 10000::bigint, 1000000::bigint;
$function$;
COMMENT ON FUNCTION muster_limits() IS 'The numbers that expiry is decided by, each in this one place.';

--- function muster_lock_cluster()
CREATE OR REPLACE FUNCTION muster_lock_cluster()
 RETURNS cluster_metadata
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_cluster cluster_metadata;
BEGIN
    -- An acknowledged change must survive a crash, whatever the session's default.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the cluster has no epoch yet'
            USING ERRCODE = muster_error_code('no_epoch'),
                  HINT = 'Begin one with SELECT set_current_epoch(gen_random_uuid()).';
    END IF;
    -- After a failover, and in a restored copy, the latest changes may be lost. Before anything is written, what was seen
    -- of them must become recognisably another history, so that no revision is used twice with different meanings.
    IF NOT muster_same_database(v_cluster) THEN
        v_cluster := muster_new_history(v_cluster, 0, CASE
            WHEN v_cluster.system_id <> muster_system_id() THEN 'the database was restored from a copy'
            ELSE 'the database has failed over'
        END);
    END IF;
    RETURN v_cluster;
END
$function$;
COMMENT ON FUNCTION muster_lock_cluster() IS 'Locks the cluster row, which orders all membership changes, and returns it.';

--- function muster_may_expire(registry_instance, cluster_metadata, timestamp with time zone)
CREATE OR REPLACE FUNCTION muster_may_expire(p_row registry_instance, p_cluster cluster_metadata, p_now timestamp with time zone)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
    SELECT p_row.cluster_epoch <> p_cluster.current_epoch
        OR NOT coalesce(p_cluster.held_until > p_now AND p_cluster.hold_until > p_now, false)
       AND muster_deadline(
               coalesce(
                   greatest(
                       CASE WHEN p_row.ttl_ms IS NOT NULL THEN p_row.last_heartbeat END,
                       muster_heard_as_of(p_now, p_cluster.hold_until, p_cluster.disrupted_at),
                       (
                           SELECT max(daemon.last_flush) FROM registry_daemon AS daemon
                           WHERE daemon.last_flush <= p_now + limits.evicted_after_ms * interval '1 millisecond'
                       ) + (limits.evicted_after_ms + limits.grace_ms) * interval '1 millisecond'
                   ),
                   '-infinity'
               ),
               p_row.ttl_ms
           ) < p_now
    FROM muster_limits() AS limits;
$function$;
COMMENT ON FUNCTION muster_may_expire(registry_instance, cluster_metadata, timestamp with time zone) IS 'Whether a lease may be declared dead for silence by a statement that is not musterd''s.';

--- function muster_moves(registry_instance, muster_operation)
CREATE OR REPLACE FUNCTION muster_moves(p_row registry_instance, p_op muster_operation)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT p_op.may_move IS NOT TRUE
       AND muster_owner_agrees(p_row.owner, p_op.identity) IS NOT TRUE
       AND (
        (p_row.ip_address IS NOT NULL AND p_row.ip_address IS DISTINCT FROM p_op.ip_address)
        OR (p_row.port IS NOT NULL AND p_row.port IS DISTINCT FROM p_op.port)
        OR (p_row.serve_route IS NOT NULL AND p_row.serve_route IS DISTINCT FROM p_op.serve_route)
       );
$function$;
COMMENT ON FUNCTION muster_moves(registry_instance, muster_operation) IS 'Whether a repeated registration would change a known address that it may not change.';

--- function muster_ms_until(timestamp with time zone, timestamp with time zone)
CREATE OR REPLACE FUNCTION muster_ms_until(p_at timestamp with time zone, p_now timestamp with time zone)
 RETURNS bigint
 LANGUAGE sql
 STABLE STRICT
AS $function$
    SELECT (extract(epoch FROM
        greatest(least(p_at, p_now + interval '3650 days'), p_now - interval '3650 days') - p_now) * 1000)::bigint;
$function$;
COMMENT ON FUNCTION muster_ms_until(timestamp with time zone, timestamp with time zone) IS 'How many milliseconds a time is after another one, at most ten years either way, whatever the row holds.';

--- function muster_new_history(cluster_metadata, bigint, text)
CREATE OR REPLACE FUNCTION muster_new_history(p_cluster cluster_metadata, p_seen_revision bigint, p_reason text)
 RETURNS cluster_metadata
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_cluster  cluster_metadata;
    v_revision bigint := greatest(p_cluster.revision, p_seen_revision)
        + (SELECT history_gap FROM muster_limits());
BEGIN
    UPDATE cluster_metadata
    SET history_id = gen_random_uuid(),
        revision = v_revision,
        timeline = muster_timeline(),
        system_id = muster_system_id()
    WHERE id = 1;
    PERFORM pg_notify('muster', v_revision::text);
    PERFORM muster_note_disruption(p_reason);
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    RETURN v_cluster;
END
$function$;
COMMENT ON FUNCTION muster_new_history(cluster_metadata, bigint, text) IS 'Begins a new history history_gap revisions on, so that no lost revision is used again with another meaning.';

--- function muster_note_deletion()
CREATE OR REPLACE FUNCTION muster_note_deletion()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
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
    INSERT INTO registry_death (
        lease_id, revision, instance_id, logical_id, actor_name, node_id, epoch_number, started_at, died_at, reason,
        decided_by, owner, released_at
    )
    SELECT
        gone.lease_id, gone.revision, gone.instance_id, gone.logical_id, gone.actor_name, gone.node_id, gone.epoch_number,
        gone.started_at, muster_now(), 'operator', muster_sql_caller(), gone.owner,
        CASE WHEN NOT EXISTS (SELECT FROM registry_hook) THEN muster_now() END
    FROM gone
    WHERE gone.status <> 'dead'
    ON CONFLICT (lease_id) DO NOTHING;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION muster_note_deletion() IS 'Keeps readers from missing rows that are deleted, by the purge or by hand.';
REVOKE ALL ON FUNCTION muster_note_deletion() FROM PUBLIC;

--- function muster_note_disruption(text)
CREATE OR REPLACE FUNCTION muster_note_disruption(p_reason text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_cluster cluster_metadata;
    v_limits  record;
    v_for_ms  bigint;
    v_now     timestamptz;
    v_until   timestamptz;
BEGIN
    v_cluster := muster_lock_cluster();
    SELECT * INTO v_limits FROM muster_limits();
    SELECT max(coalesce(instance.ttl_ms, v_limits.ttl_default_ms)) + v_limits.grace_ms INTO v_for_ms
    FROM registry_instance AS instance
    WHERE instance.status <> 'dead' AND instance.cluster_epoch = v_cluster.current_epoch;
    IF v_for_ms IS NULL THEN
        RETURN 0;
    END IF;
    v_now := muster_now();
    v_until := v_now + v_for_ms * interval '1 millisecond';
    UPDATE cluster_metadata
    SET disrupted_at = v_now,
        hold_until = greatest(v_until, held_until),
        hold_reason = CASE WHEN held_until > v_until AND hold_reason IS NOT NULL THEN hold_reason ELSE p_reason END,
        silent_since = NULL, brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL
    WHERE id = 1;
    RETURN v_for_ms;
END
$function$;
COMMENT ON FUNCTION muster_note_disruption(text) IS 'Records the end of a disruption: from now on a lease expires no sooner than its own TTL and 5 s.';
REVOKE ALL ON FUNCTION muster_note_disruption(text) FROM PUBLIC;

--- function muster_notice_disruption(timestamp with time zone, timestamp with time zone, bigint)
CREATE OR REPLACE FUNCTION muster_notice_disruption(p_now timestamp with time zone, p_expected_now timestamp with time zone, p_tolerance_ms bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_limits  record;
    v_evicted interval;
    v_kept    interval;
    v_cluster cluster_metadata;
    v_held    timestamptz;
    v_step_ms bigint := muster_ms_until(p_now, p_expected_now);
BEGIN
    SELECT * INTO v_limits FROM muster_limits();
    v_evicted := v_limits.evicted_after_ms * interval '1 millisecond';
    v_kept := v_limits.loss_kept_ms * interval '1 millisecond';
    -- A disruption that lies ahead was recorded before a step back that no daemon was there to notice.
    IF abs(v_step_ms) > p_tolerance_ms
        OR EXISTS (SELECT FROM cluster_metadata WHERE id = 1 AND disrupted_at > muster_now() + interval '1 second')
    THEN
        v_cluster := muster_lock_cluster();
        -- After a step back, stamps from before it would lie in the future, and their leases could not expire.
        PERFORM FROM registry_instance
        WHERE last_heartbeat > p_now AND status <> 'dead'
        ORDER BY lease_id
        FOR NO KEY UPDATE;
        UPDATE registry_instance SET last_heartbeat = p_now WHERE last_heartbeat > p_now AND status <> 'dead';
        UPDATE registry_daemon SET last_flush = p_now, saved_up_to = p_now;
        UPDATE registry_daemon_loss SET lost_at = p_now WHERE lost_at > p_now;
        -- Every daemon notices the same step, and the hold moves once.
        v_held := v_cluster.held_until;
        IF NOT coalesce(v_cluster.stepped_at BETWEEN p_now - interval '1 minute' AND muster_now()
                        AND abs(v_cluster.stepped_ms - v_step_ms) <= p_tolerance_ms + 1000, false)
        THEN
            v_held := CASE WHEN v_held > p_expected_now THEN v_held + v_step_ms * interval '1 millisecond' END;
        END IF;
        -- An end that is later than any hold can be comes from a clock that was wrong. How much of a release is left is
        -- not known.
        IF v_held > p_now + v_limits.hold_max_ms * interval '1 millisecond' THEN
            v_held := NULL;
        END IF;
        UPDATE cluster_metadata
        SET released_until = NULL, held_until = v_held, hold_until = v_held, stepped_at = p_now, stepped_ms = v_step_ms
        WHERE id = 1;
        PERFORM muster_note_disruption('the database clock was stepped');
    END IF;
    IF EXISTS (SELECT FROM registry_daemon WHERE last_flush < p_now - v_evicted) THEN
        PERFORM muster_lock_cluster();
        -- A concurrent caller finds it gone.
        WITH lost AS (
            DELETE FROM registry_daemon WHERE last_flush < muster_now() - v_evicted
            RETURNING daemon_id, address, version, started_at, last_flush
        )
        INSERT INTO registry_daemon_loss (daemon_id, address, version, started_at, last_flush, lost_at)
        SELECT lost.daemon_id, lost.address, lost.version, lost.started_at, lost.last_flush, muster_now()
        FROM lost
        ON CONFLICT (daemon_id) DO UPDATE SET last_flush = excluded.last_flush, lost_at = excluded.lost_at;
        IF FOUND THEN
            DELETE FROM registry_daemon_loss WHERE lost_at < muster_now() - v_kept;
            PERFORM muster_note_disruption('a daemon was lost');
        END IF;
    END IF;
END
$function$;
COMMENT ON FUNCTION muster_notice_disruption(timestamp with time zone, timestamp with time zone, bigint) IS 'Notes a disruption if the clock is not where the caller expects it, or if a daemon has not flushed for 15 s.';

--- function muster_now()
CREATE OR REPLACE FUNCTION muster_now()
 RETURNS timestamp with time zone
 LANGUAGE sql
AS $function$
    SELECT clock_timestamp();
$function$;
COMMENT ON FUNCTION muster_now() IS 'The clock that stamps and judges everything here: the time of the call, not of the start of the transaction.';

--- function muster_owner_agrees(text, text)
CREATE OR REPLACE FUNCTION muster_owner_agrees(p_owner text, p_identity text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT CASE WHEN NOT (p_owner LIKE 'sql/%' AND p_identity LIKE 'sql/%') THEN p_owner = p_identity END;
$function$;
COMMENT ON FUNCTION muster_owner_agrees(text, text) IS 'Whether the owner of a row is the identity that asks. Null: the identities decide nothing.';

--- function muster_owner_of(text)
CREATE OR REPLACE FUNCTION muster_owner_of(p_identity text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT nullif(p_identity, 'anonymous');
$function$;
COMMENT ON FUNCTION muster_owner_of(text) IS 'The owner of what an identity registers.';

--- function muster_purge_audit(bigint, integer)
CREATE OR REPLACE FUNCTION muster_purge_audit(p_keep_ms bigint, p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_before timestamptz := muster_now() - greatest(p_keep_ms, 604800000) * interval '1 millisecond';
    v_purged integer;
    v_others integer;
BEGIN
    WITH purged AS (
        DELETE FROM registry_audit
        WHERE id IN (
            SELECT audit.id FROM registry_audit AS audit WHERE audit.at < v_before ORDER BY audit.at LIMIT p_limit
        )
        RETURNING action
    )
    SELECT count(*), count(*) FILTER (WHERE purged.action <> 'purge') INTO v_purged, v_others FROM purged;
    -- Traces of purges alone: no further one, or each would be followed by another for ever.
    IF v_others > 0 THEN
        PERFORM muster_audit_counted(
            'purge', muster_sql_caller(), 'registry_audit', jsonb_build_object('older_than', v_before), v_purged, 3600000);
    END IF;
    RETURN v_purged;
END
$function$;
COMMENT ON FUNCTION muster_purge_audit(bigint, integer) IS 'Deletes at most p_limit recorded decisions that are older than p_keep_ms, and than 7 days, the earliest first.';
REVOKE ALL ON FUNCTION muster_purge_audit(bigint, integer) FROM PUBLIC;

--- function muster_purge_dead(bigint, integer)
CREATE OR REPLACE FUNCTION muster_purge_dead(p_keep_ms bigint, p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_now    timestamptz := muster_now();
    v_before timestamptz := v_now - p_keep_ms * interval '1 millisecond';
    -- A death later than this was not stamped by any clock: the row would stay for ever, and as rows are purged in the
    -- order of their revisions, each purge behind it would make every reader reload everything.
    v_odd    timestamptz := v_now + p_keep_ms * interval '1 millisecond';
    v_purged integer;
BEGIN
    IF NOT EXISTS (
        SELECT FROM registry_instance
        WHERE status = 'dead'
          AND (coalesce(stopped_at, started_at) < v_before OR coalesce(stopped_at, started_at) > v_odd)
    ) THEN
        RETURN 0;
    END IF;
    PERFORM muster_lock_cluster();
    DELETE FROM registry_instance
    WHERE instance_id IN (
        SELECT instance.instance_id
        FROM registry_instance AS instance
        WHERE instance.status = 'dead'
          AND (coalesce(instance.stopped_at, instance.started_at) < v_before
              OR coalesce(instance.stopped_at, instance.started_at) > v_odd)
        ORDER BY instance.revision
        LIMIT p_limit
    );
    GET DIAGNOSTICS v_purged = ROW_COUNT;
    IF v_purged > 0 THEN
        PERFORM muster_audit_counted(
            'purge', muster_sql_caller(), 'registry_instance', jsonb_build_object('older_than', v_before), v_purged, 3600000);
    END IF;
    RETURN v_purged;
END
$function$;
COMMENT ON FUNCTION muster_purge_dead(bigint, integer) IS 'Deletes at most p_limit dead rows that have been dead for longer than p_keep_ms, the earliest deaths first.';
REVOKE ALL ON FUNCTION muster_purge_dead(bigint, integer) FROM PUBLIC;

--- function muster_purge_deaths(bigint, integer)
CREATE OR REPLACE FUNCTION muster_purge_deaths(p_keep_ms bigint, p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_purged integer;
BEGIN
    DELETE FROM registry_death
    WHERE lease_id IN (
        SELECT death.lease_id
        FROM registry_death AS death
        WHERE death.died_at < muster_now() - p_keep_ms * interval '1 millisecond' AND death.released_at IS NOT NULL
        ORDER BY death.died_at
        LIMIT p_limit
    );
    GET DIAGNOSTICS v_purged = ROW_COUNT;
    IF v_purged > 0 THEN
        PERFORM muster_audit_counted(
            'purge', muster_sql_caller(), 'registry_death', jsonb_build_object('older_than', muster_now() - p_keep_ms * interval '1 millisecond'), v_purged, 3600000);
    END IF;
    RETURN v_purged;
END
$function$;
COMMENT ON FUNCTION muster_purge_deaths(bigint, integer) IS 'Deletes at most p_limit records of released deaths that are older than p_keep_ms, the earliest first.';
REVOKE ALL ON FUNCTION muster_purge_deaths(bigint, integer) FROM PUBLIC;

--- function muster_reap_old_epoch(integer, text)
CREATE OR REPLACE FUNCTION muster_reap_old_epoch(p_limit integer, p_decided_by text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_cluster  cluster_metadata;
    v_ids      uuid[];
    v_ended_at timestamptz[];
BEGIN
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    IF NOT EXISTS (
        SELECT FROM registry_instance WHERE status <> 'dead' AND epoch_number < v_cluster.epoch_number
    ) THEN
        RETURN 0;
    END IF;
    v_cluster := muster_lock_cluster();
    SELECT
        coalesce(array_agg(older.instance_id ORDER BY older.lease_id), '{}'),
        coalesce(array_agg(coalesce(epoch.started_at, muster_now()) ORDER BY older.lease_id), '{}')
    INTO v_ids, v_ended_at
    FROM (
        SELECT instance.instance_id, instance.lease_id, instance.epoch_number
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead' AND instance.epoch_number < v_cluster.epoch_number
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) AS older
    LEFT JOIN registry_epoch AS epoch ON epoch.epoch_number = older.epoch_number + 1;
    RETURN muster_declare_dead(v_ids, v_ended_at, v_cluster.revision, 'old_epoch', NULL, p_decided_by);
END
$function$;
COMMENT ON FUNCTION muster_reap_old_epoch(integer, text) IS 'Writes down, for at most p_limit instances of older epochs, the death they died when the epoch was rotated.';
REVOKE ALL ON FUNCTION muster_reap_old_epoch(integer, text) FROM PUBLIC;

--- function muster_reap_rows(cluster_metadata, timestamp with time zone, timestamp with time zone, timestamp with time zone, bigint, integer, text)
CREATE OR REPLACE FUNCTION muster_reap_rows(p_cluster cluster_metadata, p_now timestamp with time zone, p_horizon timestamp with time zone, p_heard_as_of timestamp with time zone, p_default_ttl_ms bigint, p_limit integer, p_decided_by text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_ids uuid[];
BEGIN
    -- FOR UPDATE re-checks the deadline on the row as it is once locked: a beat saved meanwhile keeps it alive. Rows
    -- that a flush holds right now are skipped: they have just been heard.
    v_ids := ARRAY(
        SELECT instance.instance_id
        FROM registry_instance AS instance
        WHERE instance.status <> 'dead'
          AND instance.cluster_epoch = p_cluster.current_epoch
          AND muster_deadline(greatest(instance.last_heartbeat, p_heard_as_of), coalesce(instance.ttl_ms, p_default_ttl_ms))
              < p_horizon
        ORDER BY instance.lease_id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    );
    RETURN muster_declare_dead(
        v_ids, array_fill(p_now, ARRAY[cardinality(v_ids)]), p_cluster.revision, 'stale', p_default_ttl_ms, p_decided_by);
END
$function$;
COMMENT ON FUNCTION muster_reap_rows(cluster_metadata, timestamp with time zone, timestamp with time zone, timestamp with time zone, bigint, integer, text) IS 'The deaths of muster_reap_stale.';

--- function muster_reap_stale(bigint, integer, text, timestamp with time zone, bigint)
CREATE OR REPLACE FUNCTION muster_reap_stale(p_default_ttl_ms bigint, p_limit integer, p_decided_by text, p_expected_now timestamp with time zone DEFAULT NULL::timestamp with time zone, p_tolerance_ms bigint DEFAULT 1000)
 RETURNS TABLE(reaped integer, next_in_ms bigint, held_for_ms bigint, hold_reason text, brake text, read_at timestamp with time zone)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
#variable_conflict use_column
DECLARE
    v_cluster  cluster_metadata;
    v_count    record;
    v_now      timestamptz := muster_now();
    v_as_of    timestamptz;
    v_stalled  timestamptz;
    v_horizon  timestamptz;
    v_died     bigint;
    v_budget   integer;
    v_after    interval := (SELECT stalled_after_ms FROM muster_limits()) * interval '1 millisecond';
BEGIN
    reaped := 0;
    PERFORM muster_notice_disruption(v_now, p_expected_now, p_tolerance_ms);
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
    v_as_of := muster_heard_as_of(v_now, v_cluster.hold_until, v_cluster.disrupted_at);
    SELECT * INTO v_count
    FROM muster_count_leases(v_cluster.current_epoch, v_now, muster_saved_horizon(v_now), v_as_of, p_default_ttl_ms);
    IF v_count.future > 0 THEN
        PERFORM muster_repair_beats(v_now, p_limit);
    END IF;
    SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - v_after;

    -- The brake comes off even if no lease is overdue any more.
    IF v_count.overdue > 0 OR v_cluster.brake IS NOT NULL OR v_cluster.silent_since IS NOT NULL THEN
        -- Under the lock, because a hold or a rotation may have come in between.
        v_cluster := muster_lock_cluster();
        v_now := muster_now();
        SELECT min(last_flush) INTO v_stalled FROM registry_daemon WHERE last_flush < v_now - v_after;
        v_as_of := muster_heard_as_of(v_now, v_cluster.hold_until, v_cluster.disrupted_at);
        v_horizon := muster_saved_horizon(v_now);
        IF v_stalled IS NULL AND NOT coalesce(v_cluster.held_until > v_now AND v_cluster.hold_until > v_now, false) THEN
            -- Leases that another daemon has declared dead since they were counted are overdue no more, and must not
            -- be held against the window twice.
            v_died := v_cluster.window_reaped
                - CASE WHEN v_cluster.window_at = v_count.window_at THEN v_count.window_reaped ELSE 0 END;
            v_budget := muster_brake(
                v_cluster, v_now, v_count.live - v_died, greatest(v_count.overdue - v_died, 0),
                greatest(v_count.settled - v_died, 0), greatest(v_count.silent - v_died, 0), v_count.heard);
            reaped := muster_reap_rows(
                v_cluster, v_now, v_horizon, v_as_of, p_default_ttl_ms, least(p_limit, v_budget), p_decided_by);
            UPDATE cluster_metadata SET window_reaped = window_reaped + reaped WHERE id = 1
            RETURNING * INTO v_cluster;
        END IF;
    END IF;

    SELECT * INTO next_in_ms, held_for_ms, hold_reason
    FROM muster_expiry_report(
        v_now, v_count.next_deadline, v_cluster.held_until, v_cluster.hold_until, v_cluster.hold_reason, v_stalled);
    brake := v_cluster.brake;
    read_at := v_now;
    RETURN NEXT;
END
$function$;
COMMENT ON FUNCTION muster_reap_stale(bigint, integer, text, timestamp with time zone, bigint) IS 'Declares leases dead that were silent for longer than their TTL.';
REVOKE ALL ON FUNCTION muster_reap_stale(bigint, integer, text, timestamp with time zone, bigint) FROM PUBLIC;

--- function muster_record_death()
CREATE OR REPLACE FUNCTION muster_record_death()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
BEGIN
    IF NEW.lease_id <> OLD.lease_id THEN
        NEW.death_reason := 'old_epoch';
        NEW.death_decided_by := NULL;
        NEW.stopped_at := coalesce(
            (SELECT epoch.started_at FROM registry_epoch AS epoch WHERE epoch.epoch_number = OLD.epoch_number + 1),
            NEW.started_at);
    END IF;
    -- A death must not fail because of its record, whatever was written there by hand.
    INSERT INTO registry_death (
        lease_id, revision, instance_id, logical_id, actor_name, node_id, epoch_number, started_at, died_at, reason,
        decided_by, owner, released_at
    )
    SELECT
        OLD.lease_id, NEW.revision, OLD.instance_id, OLD.logical_id, OLD.actor_name, OLD.node_id, OLD.epoch_number,
        OLD.started_at, coalesce(NEW.stopped_at, muster_now()), coalesce(NEW.death_reason, 'operator'),
        NEW.death_decided_by, OLD.owner, CASE WHEN NOT EXISTS (SELECT FROM registry_hook) THEN muster_now() END
    ON CONFLICT (lease_id) DO NOTHING;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION muster_record_death() IS 'Records the end of a lease, in the transaction in which it ends.';
REVOKE ALL ON FUNCTION muster_record_death() FROM PUBLIC;

--- function muster_register_new(muster_operation[], cluster_metadata)
CREATE OR REPLACE FUNCTION muster_register_new(p_ops muster_operation[], p_cluster cluster_metadata)
 RETURNS SETOF registry_instance
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_now timestamptz := muster_now();
BEGIN
    RETURN QUERY
    INSERT INTO registry_instance (
        instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
        started_at, last_heartbeat, lease_id, revision, epoch_number, ttl_ms, port, labels, version,
        owner, status_since
    )
    SELECT
        op.instance_id, op.logical_id, p_cluster.current_epoch, coalesce(op.status, 'starting'), op.actor_name,
        op.serve_route, op.node_id, op.ip_address, op.pid, v_now, v_now, p_cluster.revision + op.ordinality,
        p_cluster.revision + op.ordinality, p_cluster.epoch_number, op.ttl_ms, op.port, coalesce(op.labels, '{}'),
        op.version, muster_owner_of(op.identity), v_now
    FROM unnest(p_ops) WITH ORDINALITY AS op
    RETURNING *;
END
$function$;
COMMENT ON FUNCTION muster_register_new(muster_operation[], cluster_metadata) IS 'Registers a group of instances of which none is on record, with one statement.';

--- function muster_release_at_commit()
CREATE OR REPLACE FUNCTION muster_release_at_commit()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
BEGIN
    IF EXISTS (SELECT FROM registry_hook WHERE mode = 'commit' AND enabled)
        AND (SELECT setting::integer BETWEEN 1 AND 1000 FROM pg_settings WHERE name = 'statement_timeout')
    THEN
        PERFORM muster_run_hooks(
            ARRAY(
                SELECT one
                FROM registry_hook AS one
                WHERE one.mode = 'commit' AND one.enabled AND one.system_id IS NOT DISTINCT FROM muster_system_id()
                ORDER BY one.name
            ),
            1000
        );
    END IF;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION muster_release_at_commit() IS 'Runs the hooks of mode commit in the transaction of the death, if its statement_timeout ends them within 1 s.';
REVOKE ALL ON FUNCTION muster_release_at_commit() FROM PUBLIC;

--- function muster_release_batch(integer)
CREATE OR REPLACE FUNCTION muster_release_batch(p_limit integer DEFAULT 1000)
 RETURNS TABLE(hook text, deaths integer, released integer, freed bigint, elapsed_ms double precision, failure text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
BEGIN
    RETURN QUERY
    SELECT ran.*
    FROM muster_run_hooks(
        ARRAY(
            SELECT one
            FROM registry_hook AS one
            WHERE one.enabled AND one.system_id IS NOT DISTINCT FROM muster_system_id()
            ORDER BY one.name
        ),
        p_limit
    ) AS ran;
END
$function$;
COMMENT ON FUNCTION muster_release_batch(integer) IS 'Runs the hooks for at most p_limit deaths, and returns what each hook did.';
REVOKE ALL ON FUNCTION muster_release_batch(integer) FROM PUBLIC;

--- function muster_release_deaths(integer)
CREATE OR REPLACE FUNCTION muster_release_deaths(p_limit integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    SELECT coalesce(sum(released), 0)::integer FROM muster_release_batch(p_limit);
$function$;
COMMENT ON FUNCTION muster_release_deaths(integer) IS 'Runs the hooks for at most p_limit deaths that are not released yet, and returns how many are released with it.';
REVOKE ALL ON FUNCTION muster_release_deaths(integer) FROM PUBLIC;

--- function muster_release_expiry(bigint)
CREATE OR REPLACE FUNCTION muster_release_expiry(p_for_ms bigint)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    SELECT muster_release_expiry_for(p_for_ms, muster_sql_caller());
$function$;
COMMENT ON FUNCTION muster_release_expiry(bigint) IS 'Ends a hold and lifts the rate limit for p_for_ms, for an operator.';
REVOKE ALL ON FUNCTION muster_release_expiry(bigint) FROM PUBLIC;

--- function muster_release_expiry_for(bigint, text)
CREATE OR REPLACE FUNCTION muster_release_expiry_for(p_for_ms bigint, p_by text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
BEGIN
    PERFORM muster_lock_cluster();
    UPDATE cluster_metadata
    SET hold_until = NULL, held_until = NULL, hold_reason = NULL, disrupted_at = NULL, silent_since = NULL,
        brake = NULL, brake_since = NULL, brake_overdue = NULL, brake_live = NULL,
        released_until = muster_now() + p_for_ms * interval '1 millisecond'
    WHERE id = 1;
    PERFORM muster_audit('release', p_by, 'expiry', jsonb_build_object('for_ms', p_for_ms), NULL);
END
$function$;
COMMENT ON FUNCTION muster_release_expiry_for(bigint, text) IS 'Ends a hold and lifts the rate limit for p_for_ms, for an operator.';
REVOKE ALL ON FUNCTION muster_release_expiry_for(bigint, text) FROM PUBLIC;

--- function muster_release_state()
CREATE OR REPLACE FUNCTION muster_release_state()
 RETURNS TABLE(unreleased bigint, oldest_ms bigint, failure text, waiting text[], has_hooks boolean, has_at_commit boolean)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    SELECT
        (SELECT count(*) FROM (SELECT FROM registry_death WHERE released_at IS NULL LIMIT 100000) AS pending),
        (SELECT -muster_ms_until(min(pending.died_at), muster_now())
         FROM (SELECT died_at FROM registry_death WHERE released_at IS NULL LIMIT 100000) AS pending),
        (SELECT last_error FROM registry_death
         WHERE released_at IS NULL AND attempts > 0
         ORDER BY attempts DESC, lease_id DESC
         LIMIT 1),
        ARRAY(
            SELECT name || CASE WHEN enabled THEN ' (set in another PostgreSQL cluster)' ELSE ' (disabled)' END
            FROM registry_hook
            WHERE NOT enabled OR system_id IS DISTINCT FROM muster_system_id()
            ORDER BY name
        ),
        EXISTS (SELECT FROM registry_hook),
        EXISTS (SELECT FROM registry_hook WHERE mode = 'commit' AND enabled);
$function$;
COMMENT ON FUNCTION muster_release_state() IS 'How the release of deaths gets on, for daemons and musterd check.';
REVOKE ALL ON FUNCTION muster_release_state() FROM PUBLIC;

--- function muster_renew_registration(registry_instance, muster_operation, timestamp with time zone, bigint)
CREATE OR REPLACE FUNCTION muster_renew_registration(p_row registry_instance, p_op muster_operation, p_now timestamp with time zone, p_revision bigint)
 RETURNS muster_outcome
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_status  InstanceStatus := p_row.status;
    v_owner   text := coalesce(muster_owner_of(p_op.identity), p_row.owner);
    v_changed boolean;
BEGIN
    -- A repeated call must not move the instance back: of the statuses it may ask for only alive leads forward.
    IF p_row.status = 'starting' AND p_op.status = 'alive' THEN
        v_status := 'alive';
    END IF;
    v_changed := (v_status, p_op.actor_name, p_op.serve_route, p_op.ip_address, p_op.port, p_op.ttl_ms, p_op.version,
                  coalesce(p_op.labels, '{}'), v_owner)
        IS DISTINCT FROM
        (p_row.status, p_row.actor_name, p_row.serve_route, p_row.ip_address, p_row.port, p_row.ttl_ms, p_row.version,
         p_row.labels, p_row.owner);
    IF v_changed THEN
        UPDATE registry_instance
        SET status = v_status, actor_name = p_op.actor_name, serve_route = p_op.serve_route,
            ip_address = p_op.ip_address, port = p_op.port, ttl_ms = p_op.ttl_ms, version = p_op.version,
            labels = coalesce(p_op.labels, '{}'), owner = v_owner, revision = p_revision,
            last_heartbeat = p_now,
            status_reason = CASE WHEN v_status = p_row.status THEN status_reason END,
            status_since = CASE WHEN v_status = p_row.status THEN status_since ELSE p_now END
        WHERE instance_id = p_row.instance_id;
    ELSE
        -- A write even so: on a synchronous standby the repeated call is confirmed only once the first one is there.
        UPDATE registry_instance
        SET last_heartbeat = p_now
        WHERE instance_id = p_row.instance_id;
    END IF;
    RETURN ('renewed', v_changed, p_row.instance_id, p_row.lease_id,
            CASE WHEN v_changed THEN p_revision ELSE p_row.revision END, v_status, p_op.ttl_ms)::muster_outcome;
END
$function$;
COMMENT ON FUNCTION muster_renew_registration(registry_instance, muster_operation, timestamp with time zone, bigint) IS 'A registration repeated by the owner of a live lease.';

--- function muster_repair_beats(timestamp with time zone, integer)
CREATE OR REPLACE FUNCTION muster_repair_beats(p_now timestamp with time zone, p_limit integer)
 RETURNS void
 LANGUAGE sql
AS $function$
    UPDATE registry_instance SET last_heartbeat = p_now
    WHERE instance_id IN (
        SELECT instance_id FROM registry_instance
        WHERE status <> 'dead'
          AND last_heartbeat > p_now + (SELECT future_ms FROM muster_limits()) * interval '1 millisecond'
        ORDER BY lease_id
        LIMIT p_limit
        FOR NO KEY UPDATE SKIP LOCKED
    );
$function$;
COMMENT ON FUNCTION muster_repair_beats(timestamp with time zone, integer) IS 'Takes at most p_limit beats that lie further than future_ms after p_now as beats of p_now.';

--- function muster_rotate_epoch(uuid, uuid, text, text)
CREATE OR REPLACE FUNCTION muster_rotate_epoch(p_new uuid, p_expected uuid, p_reason text, p_rotated_by text)
 RETURNS TABLE(verdict text, cluster_epoch uuid, epoch_number bigint, revision bigint, previous_epoch uuid)
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
    SELECT rotation.verdict, rotation.cluster_epoch, rotation.epoch_number, rotation.revision, rotation.previous_epoch
    FROM muster_rotate_epoch_for(p_new, p_expected, p_reason, p_rotated_by, true) AS rotation;
$function$;
COMMENT ON FUNCTION muster_rotate_epoch(uuid, uuid, text, text) IS 'Begins a new epoch.';
REVOKE ALL ON FUNCTION muster_rotate_epoch(uuid, uuid, text, text) FROM PUBLIC;

--- function muster_rotate_epoch_for(uuid, uuid, text, text, boolean)
CREATE OR REPLACE FUNCTION muster_rotate_epoch_for(p_new uuid, p_expected uuid, p_reason text, p_rotated_by text, p_force boolean)
 RETURNS TABLE(verdict text, cluster_epoch uuid, epoch_number bigint, revision bigint, previous_epoch uuid, retry_ms bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
#variable_conflict use_column
DECLARE
    v_cluster  cluster_metadata;
    v_exists   boolean;
    v_number   bigint;
    v_revision bigint;
    v_now      timestamptz;
    v_last     registry_epoch;
    v_retry_ms bigint := 0;
BEGIN
    IF p_new IS NULL THEN
        RAISE EXCEPTION 'the new epoch must not be null' USING ERRCODE = muster_error_code('invalid');
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM pg_advisory_xact_lock(42);
    -- FOR UPDATE, unlike any other change: a rotation waits for transactions that have asserted a lease.
    SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1 FOR UPDATE;
    v_exists := FOUND;
    -- As every change: the first one after a failover, or in a restored copy, begins a new history.
    IF v_exists THEN
        v_cluster := muster_lock_cluster();
    END IF;

    IF v_exists AND v_cluster.current_epoch = p_new THEN
        RETURN QUERY SELECT 'unchanged', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, 0::bigint;
        RETURN;
    END IF;
    IF p_expected IS NOT NULL AND v_cluster.current_epoch IS DISTINCT FROM p_expected THEN
        RETURN QUERY
        SELECT 'epoch_mismatch', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, 0::bigint;
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM registry_epoch AS epoch WHERE epoch.cluster_epoch = p_new) THEN
        RETURN QUERY
        SELECT 'epoch_reused', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, 0::bigint;
        RETURN;
    END IF;

    v_now := muster_now();
    SELECT epoch.* INTO v_last FROM registry_epoch AS epoch ORDER BY epoch.epoch_number DESC LIMIT 1;
    v_number := coalesce(v_last.epoch_number, 0) + 1;
    IF v_last.epoch_number > 1 AND v_last.rotated_by !~ '^sql/' AND v_last.started_at <= v_now THEN
        v_retry_ms := greatest(10000 - floor(extract(epoch FROM v_now - v_last.started_at) * 1000)::bigint, 0);
    END IF;
    IF v_retry_ms > 0 AND p_force IS NOT TRUE THEN
        RETURN QUERY
        SELECT 'too_soon', v_cluster.current_epoch, v_cluster.epoch_number, v_cluster.revision, NULL::uuid, v_retry_ms;
        RETURN;
    END IF;
    -- Without a cluster row there may be instances even so, in a database that was filled before it had an epoch.
    v_revision := 1 + coalesce(v_cluster.revision, (SELECT max(instance.revision) FROM registry_instance AS instance), 0);
    -- First the history: the triggers of 016 take a cluster row whose epoch is not in it for one changed by hand.
    INSERT INTO registry_epoch (epoch_number, cluster_epoch, started_at, started_revision, reason, rotated_by)
    VALUES (v_number, p_new, v_now, v_revision, coalesce(p_reason, ''), coalesce(p_rotated_by, muster_sql_caller()));
    IF v_exists THEN
        UPDATE cluster_metadata
        SET current_epoch = p_new, epoch_number = v_number, updated_at = v_now
        WHERE id = 1;
    ELSE
        INSERT INTO cluster_metadata (id, current_epoch, epoch_number, revision, updated_at)
        VALUES (1, p_new, v_number, v_revision - 1, v_now);
    END IF;
    PERFORM muster_advance(v_revision);
    -- The first epoch is no decision: each registry begins with one.
    IF v_number > 1 THEN
        PERFORM muster_audit(
            'rotate', coalesce(p_rotated_by, muster_sql_caller()), 'epoch ' || v_number,
            jsonb_build_object(
                'epoch', p_new, 'previous', v_cluster.current_epoch, 'reason', nullif(p_reason, ''),
                'too_soon_by_ms', nullif(v_retry_ms, 0)),
            v_revision);
    END IF;
    RETURN QUERY SELECT 'rotated', p_new, v_number, v_revision, v_cluster.current_epoch, 0::bigint;
END
$function$;
COMMENT ON FUNCTION muster_rotate_epoch_for(uuid, uuid, text, text, boolean) IS 'Begins a new epoch, at most once in 10 s unless it is forced.';
REVOKE ALL ON FUNCTION muster_rotate_epoch_for(uuid, uuid, text, text, boolean) FROM PUBLIC;

--- function muster_run_hook(registry_hook, bigint[])
CREATE OR REPLACE FUNCTION muster_run_hook(p_hook registry_hook, p_lease_ids bigint[], OUT freed bigint, OUT failure text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_path    text := current_setting('search_path');
    v_wait    text := current_setting('lock_timeout');
    v_call    text;
    v_version text;
    v_traces  text;
    v_state   text;
BEGIN
    failure := muster_hook_refusal(p_hook.function);
    IF failure IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT format('SELECT %s.%I($1)', proc.pronamespace::regnamespace, proc.proname), format('%s %s', proc.oid, proc.xmin)
    INTO v_call, v_version
    FROM pg_proc AS proc
    WHERE proc.oid = to_regprocedure(p_hook.function || '(bigint[])');
    BEGIN
        PERFORM set_config('lock_timeout', p_hook.lock_timeout_ms || 'ms', true);
        v_traces := muster_session_traces();
        EXECUTE v_call INTO freed USING p_lease_ids;
        -- Qualified, because nothing else is found by name until this is known.
        IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.<>) v_path THEN
            RAISE EXCEPTION 'the function has changed the search path of the session'
                USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        IF muster_session_traces() <> v_traces THEN
            RAISE EXCEPTION 'the function has left settings, statements, cursors, channels or temporary objects in the session'
                USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        -- It may have been replaced between the check and the call.
        IF v_version IS DISTINCT FROM (
            SELECT format('%s %s', proc.oid, proc.xmin)
            FROM pg_proc AS proc
            WHERE proc.oid = to_regprocedure(p_hook.function || '(bigint[])')
        ) THEN
            RAISE EXCEPTION 'the function was replaced while it ran' USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        failure := muster_hook_refusal(p_hook.function);
        IF failure IS NOT NULL THEN
            RAISE EXCEPTION '%', failure USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        IF freed IS NULL OR freed < 0 THEN
            RAISE EXCEPTION 'the function has returned % instead of the number of rows freed', coalesce(freed::text, 'null')
                USING ERRCODE = 'external_routine_invocation_exception';
        END IF;
        PERFORM set_config('lock_timeout', v_wait, true);
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        GET STACKED DIAGNOSTICS failure = MESSAGE_TEXT, v_state = RETURNED_SQLSTATE;
        failure := format('%s (%s)', failure, v_state);
        freed := NULL;
    END;
END
$function$;
COMMENT ON FUNCTION muster_run_hook(registry_hook, bigint[]) IS 'Runs one hook for leases, in a subtransaction, and returns the number of rows that it freed, or why it failed.';

--- function muster_run_hooks(registry_hook[], integer)
CREATE OR REPLACE FUNCTION muster_run_hooks(p_hooks registry_hook[], p_limit integer)
 RETURNS TABLE(hook text, deaths integer, released integer, freed bigint, elapsed_ms double precision, failure text)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    v_names    text[] := ARRAY(SELECT one.name FROM unnest(p_hooks) AS one);
    v_all      text[] := ARRAY(SELECT every.name FROM registry_hook AS every);
    v_now      timestamptz := muster_now();
    v_attempts integer;
    v_claimed  bigint[];
    v_ids      bigint[];
    v_hook     registry_hook;
    v_began    timestamptz;
    v_ran      record;
BEGIN
    IF cardinality(v_names) = 0 THEN
        RETURN;
    END IF;
    SELECT death.attempts INTO v_attempts
    FROM registry_death AS death
    WHERE death.released_at IS NULL AND NOT death.hooks_done @> v_names
      AND (death.next_attempt_at IS NULL OR death.next_attempt_at <= v_now)
    ORDER BY death.attempts, death.lease_id
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_claimed := ARRAY(
        SELECT death.lease_id
        FROM registry_death AS death
        WHERE death.released_at IS NULL AND NOT death.hooks_done @> v_names AND death.attempts = v_attempts
          AND (death.next_attempt_at IS NULL OR death.next_attempt_at <= v_now)
        ORDER BY death.lease_id
        LIMIT greatest(1, p_limit / (10 ^ (v_attempts % 4))::integer)
        FOR UPDATE SKIP LOCKED
    );
    FOREACH v_hook IN ARRAY p_hooks
    LOOP
        v_ids := ARRAY(
            SELECT death.lease_id
            FROM registry_death AS death
            WHERE death.lease_id = ANY (v_claimed) AND NOT v_hook.name = ANY (death.hooks_done)
            ORDER BY death.lease_id
        );
        CONTINUE WHEN cardinality(v_ids) = 0;
        v_began := clock_timestamp();
        v_ran := muster_run_hook(v_hook, v_ids);
        hook := v_hook.name;
        deaths := cardinality(v_ids);
        released := 0;
        freed := coalesce(v_ran.freed, 0);
        elapsed_ms := extract(epoch FROM clock_timestamp() - v_began) * 1000;
        failure := v_ran.failure;
        IF v_ran.failure IS NULL THEN
            WITH marked AS (
                UPDATE registry_death AS death
                SET hooks_done = death.hooks_done || v_hook.name,
                    freed = coalesce(death.freed, 0) + CASE WHEN death.lease_id = v_ids[1] THEN v_ran.freed ELSE 0 END,
                    released_at = CASE WHEN death.hooks_done || v_hook.name @> v_all THEN muster_now() END
                WHERE death.lease_id = ANY (v_ids)
                RETURNING death.released_at
            )
            SELECT count(marked.released_at) INTO released FROM marked;
        ELSE
            UPDATE registry_death AS death
            SET attempts = death.attempts + 1,
                next_attempt_at = muster_now() + least(30, 2 ^ least(death.attempts, 5)) * interval '1 second',
                last_error = left(format('hook %s: %s', v_hook.name, v_ran.failure), 1000)
            WHERE death.lease_id = ANY (v_ids);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$function$;
COMMENT ON FUNCTION muster_run_hooks(registry_hook[], integer) IS 'Runs these hooks for at most p_limit deaths that are due, and marks them in the same transaction.';

--- function muster_same_database(cluster_metadata)
CREATE OR REPLACE FUNCTION muster_same_database(p_cluster cluster_metadata)
 RETURNS boolean
 LANGUAGE sql
AS $function$
    SELECT coalesce(p_cluster.timeline = muster_timeline(), true) AND coalesce(p_cluster.system_id = muster_system_id(), true);
$function$;
COMMENT ON FUNCTION muster_same_database(cluster_metadata) IS 'Whether this is the database that was written last, as far as the engine tells.';

--- function muster_same_owner(registry_instance, muster_operation)
CREATE OR REPLACE FUNCTION muster_same_owner(p_row registry_instance, p_op muster_operation)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT p_row.logical_id = p_op.logical_id
       AND p_row.node_id IS NOT DISTINCT FROM p_op.node_id
       AND p_row.pid IS NOT DISTINCT FROM p_op.pid
       AND coalesce(
           muster_owner_agrees(p_row.owner, p_op.identity),
           (p_row.node_id IS NOT NULL AND p_row.pid IS NOT NULL)
           OR (p_row.ip_address IS NOT DISTINCT FROM p_op.ip_address AND p_row.port IS NOT DISTINCT FROM p_op.port)
       );
$function$;
COMMENT ON FUNCTION muster_same_owner(registry_instance, muster_operation) IS 'Whether a registration comes from the owner of the row, and for the same process.';

--- function muster_saved_horizon(timestamp with time zone)
CREATE OR REPLACE FUNCTION muster_saved_horizon(p_now timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE sql
AS $function$
    SELECT least(min(saved_up_to), p_now) FROM registry_daemon
    WHERE last_flush <= p_now + (SELECT evicted_after_ms FROM muster_limits()) * interval '1 millisecond';
$function$;
COMMENT ON FUNCTION muster_saved_horizon(timestamp with time zone) IS 'Up to when every daemon has saved the beats that it has heard.';

--- function muster_session_traces()
CREATE OR REPLACE FUNCTION muster_session_traces()
 RETURNS text
 LANGUAGE sql
AS $function$
    SELECT md5(concat_ws('|',
        (SELECT string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_settings),
        current_setting('musterd.session', true),
        (SELECT string_agg(name || prepare_time::text || statement, ',' ORDER BY name) FROM pg_prepared_statements),
        (SELECT string_agg(name, ',' ORDER BY name) FROM pg_cursors),
        (SELECT string_agg(channel, ',' ORDER BY channel) FROM pg_listening_channels() AS channel),
        (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
        (SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema())
    ));
$function$;
COMMENT ON FUNCTION muster_session_traces() IS 'What a hook could leave in the session that calls it, as one text that is compared before and after.';

--- function muster_sql_caller()
CREATE OR REPLACE FUNCTION muster_sql_caller()
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
    SELECT 'sql/' || session_user;
$function$;
COMMENT ON FUNCTION muster_sql_caller() IS 'The identity of a direct SQL caller, sql/ROLE.';

--- function muster_stamp_epoch()
CREATE OR REPLACE FUNCTION muster_stamp_epoch()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
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
    VALUES (v_number, NEW.current_epoch, muster_now(), v_revision, 'written by hand', muster_sql_caller());
    IF v_number > 1 THEN
        PERFORM muster_audit(
            'rotate', muster_sql_caller(), 'epoch ' || v_number,
            jsonb_build_object('epoch', NEW.current_epoch, 'reason', 'written by hand'), v_revision);
    END IF;
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
$function$;
COMMENT ON FUNCTION muster_stamp_epoch() IS 'Gives an epoch that was written by hand its number, its revision and its place in the history.';
REVOKE ALL ON FUNCTION muster_stamp_epoch() FROM PUBLIC;

--- function muster_stamp_row()
CREATE OR REPLACE FUNCTION muster_stamp_row()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_cluster cluster_metadata;
    v_stack   text;
    v_silent  boolean := false;
BEGIN
    -- Before anything waits for the cluster row. A replicated beat comes here too, with every column named.
    IF TG_OP = 'UPDATE' THEN
        IF to_jsonb(NEW) - 'last_heartbeat' = to_jsonb(OLD) - 'last_heartbeat' THEN
            RETURN NEW;
        ELSIF NEW.lease_id <> OLD.lease_id THEN
            RAISE EXCEPTION 'lease_id cannot be changed by hand (instance %, from % to %)',
                OLD.instance_id, OLD.lease_id, NEW.lease_id
                USING ERRCODE = muster_error_code('invalid'),
                      HINT = 'A lease id is a fencing token, granted once: end the lease with set_instance_status(..., ''dead''), then call register_instance().';
        ELSIF NEW.epoch_number <> OLD.epoch_number AND NEW.cluster_epoch = OLD.cluster_epoch THEN
            RAISE EXCEPTION 'epoch_number follows from cluster_epoch and cannot be changed by hand (instance %, from % to %)',
                OLD.instance_id, OLD.epoch_number, NEW.epoch_number
                USING ERRCODE = muster_error_code('invalid'),
                      HINT = 'Change cluster_epoch, or call register_instance() in the current epoch.';
        END IF;
        IF NEW.status = 'dead' AND OLD.status <> 'dead' THEN
            GET DIAGNOSTICS v_stack = PG_CONTEXT;
            -- The name alone: the text around it is in the language of the server's messages.
            v_silent := v_stack ~ '\mexpire_stale_instances\M';
            IF v_silent THEN
                -- Without the lock: the loop of SeedCore looks at all silent rows again and again.
                SELECT * INTO v_cluster FROM cluster_metadata WHERE id = 1;
                IF NOT muster_may_expire(OLD, v_cluster, muster_now()) THEN
                    RETURN NULL;
                END IF;
            END IF;
        END IF;
    END IF;
    v_cluster := muster_lock_cluster();
    IF v_silent AND NOT muster_may_expire(OLD, v_cluster, muster_now()) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.instance_id <> OLD.instance_id THEN
        UPDATE cluster_metadata SET history_id = gen_random_uuid() WHERE id = 1;
    END IF;
    IF TG_OP = 'INSERT' OR NEW.cluster_epoch <> OLD.cluster_epoch THEN
        NEW.epoch_number := coalesce(
            (SELECT epoch.epoch_number FROM registry_epoch AS epoch WHERE epoch.cluster_epoch = NEW.cluster_epoch), 0);
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.lease_id := v_cluster.revision + 1;
        NEW.owner := coalesce(NEW.owner, muster_sql_caller());
    ELSIF OLD.status = 'dead' AND NEW.status <> 'dead' THEN
        RAISE EXCEPTION 'instance % is dead', OLD.instance_id
            USING ERRCODE = muster_error_code('expired'), HINT = 'Dead is final: call register_instance().';
    END IF;
    IF NEW.status = 'dead' AND NEW.death_reason IS NULL THEN
        NEW.stopped_at := coalesce(NEW.stopped_at, muster_now());
        NEW.death_reason := CASE
            WHEN NOT v_silent THEN 'operator'
            WHEN NEW.cluster_epoch <> v_cluster.current_epoch THEN 'old_epoch'
            ELSE 'stale'
        END;
        IF v_silent THEN
            NEW.death_deadline := muster_deadline(OLD.last_heartbeat, OLD.ttl_ms);
        END IF;
        NEW.death_decided_by := muster_sql_caller();
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.status_since := coalesce(NEW.status_since, muster_now());
    ELSIF NEW.status <> OLD.status AND NEW.status_since IS NOT DISTINCT FROM OLD.status_since THEN
        NEW.status_since := muster_now();
        NEW.status_reason := nullif(NEW.status_reason, OLD.status_reason);
    END IF;
    NEW.revision := v_cluster.revision + 1;
    PERFORM muster_advance(NEW.revision);
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION muster_stamp_row() IS 'Gives a row that was inserted or changed by hand the revision it needs to be noticed.';
REVOKE ALL ON FUNCTION muster_stamp_row() FROM PUBLIC;

--- function muster_system_id()
CREATE OR REPLACE FUNCTION muster_system_id()
 RETURNS text
 LANGUAGE sql
AS $function$SELECT system_identifier::text FROM pg_control_system()$function$;
COMMENT ON FUNCTION muster_system_id() IS 'Identifies the PostgreSQL cluster: differs in a copy restored from a dump. Null where the engine does not tell.';

--- function muster_timeline()
CREATE OR REPLACE FUNCTION muster_timeline()
 RETURNS text
 LANGUAGE sql
AS $function$SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)$function$;
COMMENT ON FUNCTION muster_timeline() IS 'Timeline of the write-ahead log: changes with every failover and recovery. Null where the engine does not tell.';

--- function muster_window_allowance(bigint, bigint)
CREATE OR REPLACE FUNCTION muster_window_allowance(p_live bigint, p_reaped bigint)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT greatest(greatest(window_deaths_min, ceil(p_live * window_deaths_percent / 100.0)::bigint) - p_reaped, 0)
    FROM muster_limits();
$function$;
COMMENT ON FUNCTION muster_window_allowance(bigint, bigint) IS 'How many more leases may expire in a window in which p_reaped of p_live leases have expired.';

--- function muster_writers()
CREATE OR REPLACE FUNCTION muster_writers()
 RETURNS SETOF regrole
 LANGUAGE sql
 STABLE
 SET search_path FROM CURRENT
AS $function$
    SELECT DISTINCT acl.grantee::regrole
    FROM pg_class AS class
    CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
    WHERE class.oid = 'registry_instance'::regclass
      AND acl.privilege_type = 'UPDATE'
      AND acl.grantee NOT IN (0, class.relowner)
$function$;
COMMENT ON FUNCTION muster_writers() IS 'Roles that may update registry_instance by a grant of their own.';

--- function register_instance(uuid, text, uuid, text, text, text, inet, integer)
CREATE OR REPLACE FUNCTION register_instance(p_instance_id uuid, p_logical_id text, p_cluster_epoch uuid, p_actor_name text, p_serve_route text, p_node_id text, p_ip inet, p_pid integer)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
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
    -- An upsert, as in SeedCore: PostgreSQL's grants say who may call this.
    v_op.may_move := true;
    PERFORM muster_apply_one(v_op);
END
$function$;
COMMENT ON FUNCTION register_instance(uuid, text, uuid, text, text, text, inet, integer) IS 'Registers an instance as starting in the current epoch, with the default TTL of 15 s.';
REVOKE ALL ON FUNCTION register_instance(uuid, text, uuid, text, text, text, inet, integer) FROM PUBLIC;

--- function set_current_epoch(uuid)
CREATE OR REPLACE FUNCTION set_current_epoch(new_epoch uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_verdict text;
BEGIN
    SELECT verdict INTO v_verdict FROM muster_rotate_epoch(new_epoch, NULL, 'set_current_epoch', muster_sql_caller());
    IF v_verdict = 'epoch_reused' THEN
        RAISE EXCEPTION 'epoch % was in use before', new_epoch
            USING ERRCODE = muster_error_code(v_verdict),
                  HINT = 'Epochs are never reused; take a fresh UUID.';
    END IF;
END
$function$;
COMMENT ON FUNCTION set_current_epoch(uuid) IS 'Begins the epoch new_epoch.';
REVOKE ALL ON FUNCTION set_current_epoch(uuid) FROM PUBLIC;

--- function set_instance_health(uuid, instancestatus, text)
CREATE OR REPLACE FUNCTION set_instance_health(p_instance_id uuid, p_status instancestatus, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
DECLARE
    v_op muster_operation;
BEGIN
    IF p_instance_id IS NULL OR p_status IS NULL THEN
        RAISE EXCEPTION 'p_instance_id and p_status are required' USING ERRCODE = muster_error_code('invalid');
    END IF;
    PERFORM muster_check_text('p_reason', p_reason, 256);
    v_op.op := 'status';
    v_op.instance_id := p_instance_id;
    v_op.status := p_status;
    v_op.status_reason := nullif(p_reason, '');
    PERFORM muster_apply_one(v_op);
END
$function$;
COMMENT ON FUNCTION set_instance_health(uuid, instancestatus, text) IS 'Changes the status, with the reason for it.';
REVOKE ALL ON FUNCTION set_instance_health(uuid, instancestatus, text) FROM PUBLIC;

--- function set_instance_status(uuid, instancestatus)
CREATE OR REPLACE FUNCTION set_instance_status(p_instance_id uuid, p_status instancestatus)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path FROM CURRENT
AS $function$
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
$function$;
COMMENT ON FUNCTION set_instance_status(uuid, instancestatus) IS 'Changes the status.';
REVOKE ALL ON FUNCTION set_instance_status(uuid, instancestatus) FROM PUBLIC;

--- view active_instance
CREATE OR REPLACE VIEW active_instance AS
 SELECT DISTINCT ON (instance.logical_id) instance.instance_id,
    instance.logical_id,
    instance.cluster_epoch,
    instance.status,
    instance.actor_name,
    instance.serve_route,
    instance.node_id,
    instance.ip_address,
    instance.pid,
    instance.started_at,
    instance.stopped_at,
    instance.last_heartbeat,
    instance.lease_id,
    instance.revision,
    instance.epoch_number,
    instance.ttl_ms,
    instance.port,
    instance.labels,
    instance.version,
    instance.replaces_lease_id,
    instance.death_reason,
    instance.death_deadline,
    instance.death_decided_by,
    instance.owner,
    instance.status_reason,
    instance.status_since
   FROM registry_instance instance
     JOIN cluster_metadata cluster ON cluster.current_epoch = instance.cluster_epoch
  WHERE instance.status = 'alive'::instancestatus
  ORDER BY instance.logical_id, (muster_deadline(instance.last_heartbeat, instance.ttl_ms::bigint) < muster_now()), instance.started_at, instance.instance_id;
COMMENT ON VIEW active_instance IS 'The best live instance of each logical id: not overdue before overdue, then the longest serving, then the lowest instance id. The same order as a daemon''s Resolve.';

--- view active_instances
CREATE OR REPLACE VIEW active_instances AS
 SELECT instance.instance_id,
    instance.logical_id,
    instance.cluster_epoch,
    instance.status,
    instance.actor_name,
    instance.serve_route,
    instance.node_id,
    instance.ip_address,
    instance.pid,
    instance.started_at,
    instance.stopped_at,
    instance.last_heartbeat,
    instance.lease_id,
    instance.revision,
    instance.epoch_number,
    instance.ttl_ms,
    instance.port,
    instance.labels,
    instance.version,
    instance.replaces_lease_id,
    instance.death_reason,
    instance.death_deadline,
    instance.death_decided_by,
    instance.owner,
    instance.status_reason,
    instance.status_since
   FROM registry_instance instance
     JOIN cluster_metadata cluster ON cluster.current_epoch = instance.cluster_epoch
  WHERE instance.status = 'alive'::instancestatus;
COMMENT ON VIEW active_instances IS 'All instances that are alive in the current epoch.';

--- trigger cluster_metadata_stamp_insert on cluster_metadata
CREATE TRIGGER cluster_metadata_stamp_insert AFTER INSERT ON cluster_metadata FOR EACH ROW EXECUTE FUNCTION muster_stamp_epoch();
COMMENT ON TRIGGER cluster_metadata_stamp_insert ON cluster_metadata IS 'A first epoch inserted by hand is one like any other.';

--- trigger cluster_metadata_stamp_update on cluster_metadata
CREATE TRIGGER cluster_metadata_stamp_update BEFORE UPDATE OF current_epoch ON cluster_metadata FOR EACH ROW WHEN (new.current_epoch <> old.current_epoch AND new.epoch_number = old.epoch_number) EXECUTE FUNCTION muster_stamp_epoch();
ALTER TABLE cluster_metadata ENABLE ALWAYS TRIGGER cluster_metadata_stamp_update;
COMMENT ON TRIGGER cluster_metadata_stamp_update ON cluster_metadata IS 'An epoch changed by hand is a rotation like any other.';

--- trigger registry_instance_deleted on registry_instance
CREATE TRIGGER registry_instance_deleted AFTER DELETE ON registry_instance REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION muster_note_deletion();
ALTER TABLE registry_instance ENABLE ALWAYS TRIGGER registry_instance_deleted;
COMMENT ON TRIGGER registry_instance_deleted ON registry_instance IS 'After any deletion of rows, readers learn that they have to reload.';

--- trigger registry_instance_died on registry_instance
CREATE TRIGGER registry_instance_died AFTER UPDATE OF status, lease_id ON registry_instance FOR EACH ROW WHEN (old.status <> 'dead'::instancestatus AND (new.status = 'dead'::instancestatus OR new.lease_id <> old.lease_id) AND current_setting('muster.deaths_recorded'::text, true) IS DISTINCT FROM pg_trigger_depth()::text) EXECUTE FUNCTION muster_record_death();
COMMENT ON TRIGGER registry_instance_died ON registry_instance IS 'Every death is recorded, whatever declared it.';

--- trigger registry_instance_died_commit on registry_instance
CREATE TRIGGER registry_instance_died_commit AFTER UPDATE OF status ON registry_instance FOR EACH STATEMENT EXECUTE FUNCTION muster_release_at_commit();
COMMENT ON TRIGGER registry_instance_died_commit ON registry_instance IS 'Runs the hooks of mode commit for the deaths of the statement.';

--- trigger registry_instance_stamp_insert on registry_instance
CREATE TRIGGER registry_instance_stamp_insert BEFORE INSERT ON registry_instance FOR EACH ROW WHEN (new.revision IS NULL) EXECUTE FUNCTION muster_stamp_row();
ALTER TABLE registry_instance ENABLE ALWAYS TRIGGER registry_instance_stamp_insert;
COMMENT ON TRIGGER registry_instance_stamp_insert ON registry_instance IS 'A row inserted by hand goes through the same revision as any other.';

--- trigger registry_instance_stamp_update on registry_instance
CREATE TRIGGER registry_instance_stamp_update BEFORE UPDATE OF instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid, started_at, stopped_at, lease_id, epoch_number, ttl_ms, port, labels, version, replaces_lease_id, death_reason, death_deadline, death_decided_by, owner ON registry_instance FOR EACH ROW WHEN (new.revision = old.revision) EXECUTE FUNCTION muster_stamp_row();
ALTER TABLE registry_instance ENABLE ALWAYS TRIGGER registry_instance_stamp_update;
COMMENT ON TRIGGER registry_instance_stamp_update ON registry_instance IS 'A row changed by hand goes through the same revision as any other. Beats change no column named here.';

--- trigger registry_instance_truncated on registry_instance
CREATE TRIGGER registry_instance_truncated AFTER TRUNCATE ON registry_instance FOR EACH STATEMENT EXECUTE FUNCTION muster_break_history();
ALTER TABLE registry_instance ENABLE ALWAYS TRIGGER registry_instance_truncated;
COMMENT ON TRIGGER registry_instance_truncated ON registry_instance IS 'A truncation leaves no tombstones.';
