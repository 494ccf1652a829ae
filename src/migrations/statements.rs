//! Longer statements about a registry as a whole: what its ejection asks and grants, and what its repair keeps.

/// Daemons that may still hold beats.
pub(crate) const LIVE: &str = "
SELECT daemon.address || ' (last flush ' || date_trunc('second', daemon.last_flush)::text || ')'
FROM registry_daemon AS daemon
CROSS JOIN muster_limits() AS limits
WHERE daemon.last_flush > muster_now() - make_interval(secs => limits.evicted_after_ms / 1000.0)
ORDER BY 1";

/// The rights that the functions have without musterd: everything is called as its caller, and open to PUBLIC.
pub(crate) const RIGHTS: &str = "
DO $$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = quote_ident(current_schema())::regnamespace
          AND proname IN ('set_current_epoch', 'register_instance', 'set_instance_status', 'beat',
                          'expire_stale_instances', 'expire_old_epoch_instances')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', v_function);
    END LOOP;
END
$$";

/// What a view has beyond its definition: its owner and the rights that were granted on it, as statements.
pub(crate) const BELONGINGS: &str = "
SELECT format('ALTER VIEW %I OWNER TO %I', class.relname, pg_get_userbyid(class.relowner))
FROM pg_class AS class
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace AND class.relname = $1
UNION ALL
SELECT format('GRANT %s ON %I TO %s%s', acl.privilege_type, class.relname,
              CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
              CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class AS class
CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace AND class.relname = $1
  AND acl.grantee <> class.relowner";

/// Schemas with the two tables of a registry.
pub(crate) const REGISTRIES: &str = "
SELECT space.nspname::text FROM pg_namespace AS space
WHERE space.nspname !~ '^pg_'
  AND (SELECT count(*) FROM pg_class AS class WHERE class.relnamespace = space.oid AND class.relkind IN ('r', 'p')
       AND class.relname IN ('registry_instance', 'cluster_metadata')) = 2
ORDER BY 1";
