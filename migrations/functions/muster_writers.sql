-- muster_writers: the roles that may write to registry_instance by a grant of their own, without the owner and PUBLIC.
--
-- SeedCore's functions ran with the rights of their caller, so each of these roles could make them work. Migrations hand
-- the right to call them on, and so a migration takes no right away from an existing caller.

CREATE OR REPLACE FUNCTION muster_writers()
RETURNS SETOF regrole
LANGUAGE sql
STABLE
SET search_path FROM CURRENT
AS $$
    SELECT DISTINCT acl.grantee::regrole
    FROM pg_class AS class
    CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
    WHERE class.oid = 'registry_instance'::regclass
      AND acl.privilege_type = 'UPDATE'
      AND acl.grantee NOT IN (0, class.relowner)
$$;

COMMENT ON FUNCTION muster_writers() IS 'Roles that may update registry_instance by a grant of their own.';
