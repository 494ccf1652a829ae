-- A hook for SeedCore's table "tasks": when a lease ends, the running tasks that its instance has claimed are queued again.
--
-- A task belongs to the instance if its owner_id or locked_by is the instance id (with or without dashes), the lease id or the
-- actor name. It is queued for 15 s later with one attempt more, and failed at the third; owner and lock are cleared. An actor
-- name passes on to a successor: only what was claimed before the successor registered is freed, so that an instance has to
-- register before it claims.
--
-- It frees what only registered instances hold. SeedCore's dispatchers do not register by themselves:
--
--   musterd run --logical-id dispatcher --actor-name seedcore_dispatcher_0 -- python -m ...
--
-- Run it as a superuser, or as a role with CREATEROLE that owns the schema, in the database and the schema of the registry,
-- which must be that of "tasks":
--
--   psql -X -v ON_ERROR_STOP=1 -f deploy/hooks/seedcore_tasks.sql "$ADMIN_DATABASE_URL"
--
-- Running it again changes nothing. SELECT muster_hook_remove('seedcore_tasks') ends it. Plain SQL, so that any client can run
-- it.

BEGIN;

-- The path that the function keeps.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

DO $$
BEGIN
    IF to_regrole('seedcore_hook') IS NULL THEN
        CREATE ROLE seedcore_hook NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to the whole server: another session has created it for another database.
    NULL;
END
$$;

DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO seedcore_hook', current_schema());
END
$$;

GRANT SELECT, UPDATE ON tasks TO seedcore_hook;

CREATE OR REPLACE FUNCTION seedcore_release_tasks(p_lease_ids bigint[])
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_held  uuid[];
    v_freed bigint;
BEGIN
    v_held := ARRAY(
        SELECT DISTINCT task.id
        FROM tasks AS task
        CROSS JOIN LATERAL (VALUES (task.owner_id), (task.locked_by)) AS holder (name)
        JOIN (
            SELECT dead.successor_started_at, alias.name
            FROM muster_dead_leases(p_lease_ids) AS dead
            CROSS JOIN LATERAL (VALUES
                (dead.instance_id::text), (replace(dead.instance_id::text, '-', '')), (dead.lease_id::text), (dead.actor_name)
            ) AS alias (name)
        ) AS dead ON dead.name = holder.name
        WHERE task.status = 'running'
          AND (dead.successor_started_at IS NULL OR task.locked_at < dead.successor_started_at)
    );
    -- A task that a session holds is not waited for: the caller repeats all of it later.
    WITH free AS (
        SELECT task.id FROM tasks AS task WHERE task.id = ANY (v_held) AND task.status = 'running' FOR UPDATE SKIP LOCKED
    )
    UPDATE tasks AS task
    SET status = CASE WHEN task.attempts >= 2 THEN 'failed' ELSE 'queued' END::taskstatus,
        attempts = task.attempts + 1,
        run_after = now() + interval '15 seconds',
        error = CASE WHEN task.attempts >= 2 THEN 'the instance that ran it ended, for the third time' ELSE task.error END,
        owner_id = NULL,
        locked_by = NULL,
        locked_at = NULL,
        lease_expires_at = NULL
    FROM free
    WHERE free.id = task.id;
    GET DIAGNOSTICS v_freed = ROW_COUNT;
    IF EXISTS (SELECT FROM tasks AS task WHERE task.id = ANY (v_held) AND task.status = 'running') THEN
        RAISE EXCEPTION 'tasks of ended instances are locked by other sessions' USING ERRCODE = 'lock_not_available';
    END IF;
    RETURN v_freed;
END
$$;

COMMENT ON FUNCTION seedcore_release_tasks(bigint[]) IS 'Queues the running tasks of ended instances again.';
REVOKE ALL ON FUNCTION seedcore_release_tasks(bigint[]) FROM PUBLIC;

DO $$
DECLARE
    v_schema text := quote_ident(current_schema());
    v_owner  regrole := (SELECT relowner FROM pg_class WHERE oid = 'registry_death'::regclass);
BEGIN
    EXECUTE format('GRANT EXECUTE ON FUNCTION seedcore_release_tasks(bigint[]) TO %s', v_owner);
    IF (SELECT proowner FROM pg_proc WHERE oid = 'seedcore_release_tasks(bigint[])'::regprocedure) <> 'seedcore_hook'::regrole THEN
        -- Only for this statement: the owner of a function needs the right to create objects in its schema.
        EXECUTE format('GRANT CREATE ON SCHEMA %s TO seedcore_hook', v_schema);
        ALTER FUNCTION seedcore_release_tasks(bigint[]) OWNER TO seedcore_hook;
        EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM seedcore_hook', v_schema);
    END IF;
    PERFORM muster_hook_set('seedcore_tasks', v_schema || '.seedcore_release_tasks');
END
$$;

COMMIT;
