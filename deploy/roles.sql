-- Least-privilege roles for the registry.
--
--   musterd_owner        owns every object of the registry; cannot log in
--   musterd_migrator     becomes the owner at login; for `musterd migrate up`, and not for long-running processes
--   musterd_daemon       `musterd serve --no-migrate`: reads, and calls the functions of the registry
--   musterd_reader       reads; for dashboards, reports, people
--   musterd_application  may call assert_lease(); grant it to the role of your application
--
-- A client with the daemon's password has the rights of a daemon: register, rotate, expire. It cannot delete, change or forge
-- a row, nor change the schema.
--
-- Run it in the database of the registry, as a superuser or as a role with CREATEROLE that owns the database or the
-- registry's tables, after the first `musterd migrate up`:
--
--   psql -X -v ON_ERROR_STOP=1 -f deploy/roles.sql "$ADMIN_DATABASE_URL"
--
-- Then set the passwords of the roles that log in, for example with \password musterd_daemon. Running the file again changes
-- nothing. It has to be run again only after a change of this file: objects of later migrations get these rights by default
-- privileges. It works in the first schema of the search path, "public" by default. Plain SQL, so that any client can run it.

BEGIN;

-- From PostgreSQL 16 on, the creator of a role is a member that may grant it and may not become it: what is asked for is the
-- right to become it.
DO $$
BEGIN
    PERFORM set_config('musterd.member',
        CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END, true);
    PERFORM set_config('musterd.options',
        CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN ' WITH SET TRUE, INHERIT TRUE' ELSE '' END, true);
END
$$;

-- Roles belong to the whole server, and another session may create the same roles concurrently for another database.
DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY[
        'musterd_owner NOLOGIN', 'musterd_migrator LOGIN', 'musterd_daemon LOGIN', 'musterd_reader LOGIN',
        'musterd_application NOLOGIN']
    LOOP
        CONTINUE WHEN to_regrole(split_part(v_role, ' ', 1)) IS NOT NULL;
        BEGIN
            EXECUTE 'CREATE ROLE ' || v_role;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        IF v_role = 'musterd_migrator LOGIN' THEN
            -- So that the objects that it creates belong to the owner.
            ALTER ROLE musterd_migrator SET role = 'musterd_owner';
        ELSIF v_role = 'musterd_reader LOGIN' THEN
            -- A long query prevents the removal of the old row versions that beats leave.
            ALTER ROLE musterd_reader SET statement_timeout = '60s';
            ALTER ROLE musterd_reader SET default_transaction_read_only = on;
        END IF;
    END LOOP;
    IF NOT pg_has_role('musterd_migrator', 'musterd_owner', current_setting('musterd.member')) THEN
        EXECUTE 'GRANT musterd_owner TO musterd_migrator' || current_setting('musterd.options');
    END IF;
    -- ALTER ... OWNER requires the right to become the new owner.
    IF NOT pg_has_role('musterd_owner', current_setting('musterd.member')) THEN
        EXECUTE format('GRANT musterd_owner TO %I', current_user) || current_setting('musterd.options');
    END IF;
END
$$;

-- The schema. SECURITY DEFINER functions trust its objects, so PUBLIC must not have CREATE on it; up to PostgreSQL 14 it has
-- on "public". Other roles that create objects in the schema need an explicit GRANT CREATE.
DO $$
DECLARE
    v_schema text := quote_ident(current_schema());
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO musterd_migrator, musterd_daemon, musterd_reader', current_database());
    IF EXISTS (
        SELECT FROM pg_namespace AS space CROSS JOIN LATERAL aclexplode(coalesce(space.nspacl, acldefault('n', space.nspowner))) AS acl
        WHERE space.oid = v_schema::regnamespace AND acl.grantee = 0 AND acl.privilege_type = 'CREATE'
    ) THEN
        RAISE WARNING 'PUBLIC loses the right to create objects in schema %', v_schema
            USING HINT = format('If other applications create objects there, grant it to their roles: GRANT CREATE ON SCHEMA %s TO ...', v_schema);
    END IF;
    EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM PUBLIC', v_schema);
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %s TO musterd_owner', v_schema);
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO musterd_migrator, musterd_daemon, musterd_reader, musterd_application', v_schema);
END
$$;

-- Existing objects are transferred to the owner. In a database of SeedCore, the former owner becomes a member of it, so that
-- SeedCore's own deployments keep their rights.
DO $$
DECLARE
    v_object record;
BEGIN
    FOR v_object IN
        SELECT
            'TABLE' AS kind, class.oid::regclass::text AS name, class.relowner AS owner, true AS is_data
        FROM pg_class AS class
        WHERE class.relnamespace = quote_ident(current_schema())::regnamespace
          AND class.relname IN ('cluster_metadata', 'registry_instance', 'registry_epoch', 'registry_daemon',
              'registry_daemon_loss', 'registry_suspicion', 'registry_death', 'registry_hook', 'registry_audit', 'muster_migration', 'active_instances', 'active_instance')
        UNION ALL
        SELECT 'TYPE', typ.oid::regtype::text, typ.typowner, false
        FROM pg_type AS typ
        WHERE typ.typnamespace = quote_ident(current_schema())::regnamespace
          AND typ.typname IN ('instancestatus', 'muster_operation', 'muster_outcome')
        UNION ALL
        SELECT 'FUNCTION', proc.oid::regprocedure::text, proc.proowner, false
        FROM pg_proc AS proc
        WHERE proc.pronamespace = quote_ident(current_schema())::regnamespace
          AND (proc.proname ~ '^muster_' OR proc.proname IN (
              'set_current_epoch', 'register_instance', 'set_instance_status', 'beat', 'expire_stale_instances',
              'expire_old_epoch_instances', 'assert_lease', 'alive_at', 'set_instance_health'))
    LOOP
        IF v_object.owner <> 'musterd_owner'::regrole THEN
            IF NOT pg_has_role(v_object.owner, 'musterd_owner', current_setting('musterd.member')) THEN
                EXECUTE format('GRANT musterd_owner TO %s', v_object.owner::regrole) || current_setting('musterd.options');
            END IF;
            EXECUTE format('ALTER %s %s OWNER TO musterd_owner', v_object.kind, v_object.name);
        END IF;
        IF v_object.is_data THEN
            EXECUTE format('GRANT SELECT ON %s TO musterd_daemon, musterd_reader', v_object.name);
        ELSIF v_object.kind = 'FUNCTION' THEN
            CASE
                -- Hooks are a matter of the owner alone.
                WHEN v_object.name ~ '(^|\.)muster_hook_(set|remove)\(' THEN
                    NULL;
                WHEN v_object.name ~ '(^|\.)muster_now\(' THEN
                    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO musterd_daemon, musterd_reader', v_object.name);
                WHEN v_object.name ~ '(^|\.)muster_' THEN
                    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO musterd_daemon', v_object.name);
                WHEN v_object.name ~ '(^|\.)alive_at\(' THEN
                    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO musterd_reader', v_object.name);
                WHEN v_object.name ~ '(^|\.)assert_lease\(' THEN
                    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO musterd_application', v_object.name);
                ELSE
                    NULL;
            END CASE;
        END IF;
    END LOOP;
END
$$;

-- Default privileges for the objects that later migrations create as the owner.
DO $$
DECLARE
    v_schema text := quote_ident(current_schema());
BEGIN
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE musterd_owner IN SCHEMA %s
        GRANT SELECT ON TABLES TO musterd_daemon, musterd_reader', v_schema);
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE musterd_owner IN SCHEMA %s
        GRANT EXECUTE ON FUNCTIONS TO musterd_daemon', v_schema);
END
$$;

COMMIT;
