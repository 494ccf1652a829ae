-- 012: functions of the runtime registry, with the signatures SQL callers rely on.
--
-- Names, parameter names, order and return types are an interface: an existing database already has these functions,
-- and CREATE OR REPLACE accepts nothing else. The bodies here do what that system's own do, known faults included, so
-- that a database stopped at 012 behaves as its callers know it. Later migrations replace every body: 014
-- set_current_epoch; 016 register_instance, set_instance_status and beat; 017 expire_stale_instances and
-- expire_old_epoch_instances. The tests run each fault against this state to prove that they would notice it.
--
-- Oldest head: 019.

CREATE OR REPLACE FUNCTION set_current_epoch(new_epoch uuid)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT pg_try_advisory_lock(42) THEN
        RAISE EXCEPTION 'set_current_epoch: could not acquire advisory lock';
    END IF;
    INSERT INTO cluster_metadata (id, current_epoch)
    VALUES (1, new_epoch)
    ON CONFLICT (id) DO UPDATE SET current_epoch = excluded.current_epoch, updated_at = now();
    PERFORM pg_advisory_unlock(42);
END
$$;

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
LANGUAGE sql
AS $$
    INSERT INTO registry_instance (
        instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid
    )
    VALUES (
        p_instance_id, p_logical_id, p_cluster_epoch, 'starting', p_actor_name, p_serve_route, p_node_id, p_ip, p_pid
    )
    ON CONFLICT (instance_id) DO UPDATE SET last_heartbeat = now();
$$;

CREATE OR REPLACE FUNCTION set_instance_status(p_instance_id uuid, p_status InstanceStatus)
RETURNS void
LANGUAGE sql
AS $$
    UPDATE registry_instance
    SET status = p_status,
        stopped_at = CASE WHEN p_status IN ('dead', 'draining') THEN now() ELSE stopped_at END
    WHERE instance_id = p_instance_id;
$$;

CREATE OR REPLACE FUNCTION beat(p_instance_id uuid)
RETURNS void
LANGUAGE sql
AS $$
    UPDATE registry_instance SET last_heartbeat = now() WHERE instance_id = p_instance_id;
$$;

CREATE OR REPLACE FUNCTION expire_stale_instances(p_timeout_seconds integer DEFAULT 15)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_expired integer;
BEGIN
    UPDATE registry_instance
    SET status = 'dead', stopped_at = coalesce(stopped_at, now())
    WHERE status <> 'dead'
      AND last_heartbeat < now() - make_interval(secs => p_timeout_seconds);
    GET DIAGNOSTICS v_expired = ROW_COUNT;
    RETURN v_expired;
END
$$;

CREATE OR REPLACE FUNCTION expire_old_epoch_instances()
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_expired integer;
BEGIN
    UPDATE registry_instance AS instance
    SET status = 'dead', stopped_at = coalesce(instance.stopped_at, now())
    FROM cluster_metadata AS cluster
    WHERE cluster.current_epoch <> instance.cluster_epoch
      AND instance.status <> 'dead';
    GET DIAGNOSTICS v_expired = ROW_COUNT;
    RETURN v_expired;
END
$$;
