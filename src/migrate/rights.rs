//! Whether a role may migrate, before it tries: owners, and the right to create.

use tokio_postgres::GenericClient;

use super::{error::Error, transaction::may_become};

/// The owner of the tables; whether the session may be it; the schema; whether new objects may be made there; the role.
fn standing() -> String {
    format!(
        "SELECT (SELECT pg_get_userbyid(class.relowner)::text FROM pg_class AS class
                 WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')),
                coalesce((SELECT class.relowner = quote_ident(current_user)::regrole OR {}
                          FROM pg_class AS class
                          WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')), true),
                current_schema()::text,
                has_schema_privilege(current_schema(), 'CREATE'),
                current_user::text",
        may_become("class.relowner")
    )
}

/// Objects of the registry that do not belong to the owner of its tables, as the statements that hand them over.
const OTHER_OWNERS: &str = "
WITH owner AS (
    SELECT class.relowner AS role FROM pg_class AS class
    WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')
)
SELECT format('ALTER %s %I OWNER TO %I', CASE class.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, class.relname,
              pg_get_userbyid(owner.role)) AS statement, pg_get_userbyid(class.relowner)::text
FROM pg_class AS class CROSS JOIN owner
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace AND class.relowner <> owner.role
  AND class.relkind IN ('r', 'v')
  AND (class.relname ~ '^(muster|registry)_' OR class.relname IN ('cluster_metadata', 'active_instances', 'active_instance'))
UNION ALL
SELECT format('ALTER FUNCTION %s OWNER TO %I', proc.oid::regprocedure, pg_get_userbyid(owner.role)),
       pg_get_userbyid(proc.proowner)::text
FROM pg_proc AS proc CROSS JOIN owner
WHERE proc.pronamespace = quote_ident(current_schema())::regnamespace AND proc.proowner <> owner.role
  AND (proc.proname ~ '^muster_' OR proc.proname IN ('set_current_epoch', 'register_instance', 'set_instance_status', 'beat',
       'expire_stale_instances', 'expire_old_epoch_instances', 'assert_lease', 'alive_at', 'set_instance_health'))
UNION ALL
SELECT format('ALTER TYPE %I OWNER TO %I', typ.typname, pg_get_userbyid(owner.role)), pg_get_userbyid(typ.typowner)::text
FROM pg_type AS typ CROSS JOIN owner
WHERE typ.typnamespace = quote_ident(current_schema())::regnamespace AND typ.typowner <> owner.role
  AND typ.typname = 'instancestatus'
ORDER BY 1";

/// What belongs to another role than the tables, each with the statement that hands it over.
pub(super) async fn other_owners(client: &impl GenericClient) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client.query_typed(OTHER_OWNERS, &[]).await?;
    rows.iter()
        .map(|row| Ok(format!("belongs to {}; {}", row.try_get::<_, String>(1)?, row.try_get::<_, String>(0)?)))
        .collect()
}

/// What keeps the role of the session from migrating, each with the statement that helps.
pub(super) async fn lacking(client: &impl GenericClient) -> Result<Vec<String>, Error> {
    let rows = client.query_typed(&standing(), &[]).await.map_err(Error::during("planning"))?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let (owner, is_owner, schema): (Option<String>, bool, Option<String>) = (row.get(0), row.get(1), row.get(2));
    let (may_create, role): (Option<bool>, String) = (row.get(3), row.get(4));
    let mut lacking = Vec::new();
    match (owner, schema) {
        (Some(owner), _) if !is_owner => {
            lacking.push(format!("{role} is not the owner of the tables, {owner}; GRANT {owner} TO {role}"));
        }
        (None, Some(schema)) if may_create == Some(false) => {
            lacking.push(format!("{role} may not create objects; GRANT CREATE ON SCHEMA {schema} TO {role}"));
        }
        _ => {}
    }
    lacking.extend(other_owners(client).await.map_err(Error::during("planning"))?);
    Ok(lacking)
}
