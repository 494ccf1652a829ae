//! Whether a role may migrate, before it tries: owners, and the right to create.

use tokio_postgres::GenericClient;

use crate::runner::transaction::may_become;

/// The owner of the tables; whether the role may be it; the schema; whether new objects may be made there; the role. `role` is
/// an expression.
fn standing(role: &str) -> String {
    format!(
        "SELECT (SELECT pg_get_userbyid(class.relowner)::text FROM pg_class AS class
                 WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')),
                coalesce((SELECT class.relowner = quote_ident({role})::regrole OR {}
                          FROM pg_class AS class
                          WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')), true),
                current_schema()::text,
                has_schema_privilege({role}, current_schema(), 'CREATE'),
                {role}::text",
        may_become(role, "class.relowner")
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

/// What the role of a session may do to the schema.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Rights {
    /// The role.
    pub role: String,
    /// The owner of the registry's tables, if there are any.
    pub owner: Option<String>,
    /// What the role lacks to migrate, with the statement that gives it.
    pub lacking: Option<String>,
    /// What belongs to another role than the tables, each with the statement that hands it over.
    pub other_owners: Vec<String>,
}

/// Reads them, of the role of the session or of another one.
pub(super) async fn read(client: &impl GenericClient, role: Option<&str>) -> Result<Rights, tokio_postgres::Error> {
    let rows = client.query_typed(OTHER_OWNERS, &[]).await?;
    let other_owners = rows
        .iter()
        .map(|row| Ok(format!("belongs to {}; {}", row.try_get::<_, String>(1)?, row.try_get::<_, String>(0)?)))
        .collect::<Result<_, tokio_postgres::Error>>()?;
    let role = role.map_or("current_user".to_owned(), |role| format!("'{}'::name", role.replace('\'', "''")));
    let rows = client.query_typed(&standing(&role), &[]).await?;
    let Some(row) = rows.first() else { return Ok(Rights { other_owners, ..Rights::default() }) };
    let (owner, is_owner, schema): (Option<String>, bool, Option<String>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (may_create, role): (Option<bool>, String) = (row.try_get(3)?, row.try_get(4)?);
    let lacking = match (&owner, schema) {
        (Some(owner), _) if !is_owner => {
            Some(format!("{role} is not the owner of the tables, {owner}; GRANT {owner} TO {role}"))
        }
        (None, Some(schema)) if may_create == Some(false) => {
            Some(format!("{role} may not create objects; GRANT CREATE ON SCHEMA {schema} TO {role}"))
        }
        _ => None,
    };
    Ok(Rights { role, owner, lacking, other_owners })
}
