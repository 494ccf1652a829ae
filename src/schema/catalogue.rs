//! The catalogue queries behind [`super::read`]: each returns `name` and `text` of the objects of one kind.
//!
//! They use what every server from version 13 on prints alike: the pretty forms of the `pg_get_*def` functions, which
//! leave out the schema of what is on the search path. The search path is pinned to ours, so the schema's name does
//! not appear. What follows a name pattern is ours by name; a table that merely has such a name is told apart later,
//! by not being in the snapshot.

use super::kind::Kind;

/// One query for each kind, in the order in which the snapshot shows them.
pub(super) const QUERIES: [(Kind, &str); 6] = [
    (Kind::Type, TYPES),
    (Kind::Table, TABLES),
    (Kind::Index, INDEXES),
    (Kind::Function, FUNCTIONS),
    (Kind::View, VIEWS),
    (Kind::Trigger, TRIGGERS),
];

/// The conditions that select the objects of the registry, each with the name that it is about.
const OURS: [(&str, &str); 5] = [
    ("(typ.typname ~ '^(muster|registry)_' OR typ.typname = 'instancestatus')", "typ.typname"),
    ("(class.relname ~ '^(muster|registry)_' OR class.relname = 'cluster_metadata')", "class.relname"),
    ("(owner.relname ~ '^(muster|registry)_' OR owner.relname = 'cluster_metadata')", "owner.relname"),
    (
        "(class.relname ~ '^(muster|registry)_' OR class.relname IN ('active_instances', 'active_instance'))",
        "class.relname",
    ),
    (OUR_FUNCTIONS, "proc.proname"),
];

const OUR_FUNCTIONS: &str = "(
      proc.proname ~ '^muster_'
      OR proc.proname IN (
          'set_current_epoch', 'register_instance', 'set_instance_status', 'beat', 'expire_stale_instances',
          'expire_old_epoch_instances', 'assert_lease', 'alive_at', 'set_instance_health'
      )
  )";

/// One of the queries for the objects whose names match instead.
pub(super) fn matching(query: &str, names: &str) -> String {
    OURS.iter().fold(query.to_owned(), |query, (ours, name)| query.replace(ours, &format!("{name} ~ '{names}'")))
}

/// Enums and composite types, with their comments.
const TYPES: &str = r#"
SELECT
    typ.typname::text AS name,
    CASE typ.typtype
        WHEN 'e' THEN format(E'CREATE TYPE %I AS ENUM (%s);\n', typ.typname, (
            SELECT string_agg(quote_literal(label.enumlabel), ', ' ORDER BY label.enumsortorder)
            FROM pg_enum AS label
            WHERE label.enumtypid = typ.oid
        ))
        ELSE format(E'CREATE TYPE %I AS (\n%s\n);\n', typ.typname, (
            SELECT string_agg(
                format('    %I %s', field.attname, format_type(field.atttypid, field.atttypmod)), E',\n' ORDER BY field.attnum
            )
            FROM pg_attribute AS field
            WHERE field.attrelid = typ.typrelid AND field.attnum > 0 AND NOT field.attisdropped
        ))
    END
    || coalesce('COMMENT ON TYPE ' || quote_ident(typ.typname) || ' IS '
        || quote_literal(obj_description(typ.oid, 'pg_type')) || E';\n', '') AS text
FROM pg_type AS typ
LEFT JOIN pg_class AS class ON class.oid = typ.typrelid
WHERE typ.typnamespace = quote_ident(current_schema())::regnamespace
  AND (typ.typname ~ '^(muster|registry)_' OR typ.typname = 'instancestatus')
  AND (typ.typtype = 'e' OR (typ.typtype = 'c' AND class.relkind = 'c'))"#;

/// Tables with columns, constraints, storage parameters and all comments. One column or constraint to a line.
const TABLES: &str = r#"
SELECT
    class.relname::text AS name,
    format(E'CREATE TABLE %I (\n', class.relname)
    || (
        SELECT string_agg('    ' || line.text, E',\n' ORDER BY line.rank, line.position, line.text COLLATE pg_catalog."C")
        FROM (
            SELECT
                1 AS rank,
                field.attnum AS position,
                format('%I %s', field.attname, format_type(field.atttypid, field.atttypmod))
                || CASE WHEN field.attnotnull THEN ' NOT NULL' ELSE '' END
                || coalesce(' DEFAULT ' || pg_get_expr(value.adbin, value.adrelid, true), '') AS text
            FROM pg_attribute AS field
            LEFT JOIN pg_attrdef AS value ON value.adrelid = field.attrelid AND value.adnum = field.attnum
            WHERE field.attrelid = class.oid AND field.attnum > 0 AND NOT field.attisdropped
            UNION ALL
            SELECT
                2,
                position(con.contype::text IN 'pucfx'),
                format('CONSTRAINT %I %s', con.conname, pg_get_constraintdef(con.oid, true))
            FROM pg_constraint AS con
            WHERE con.conrelid = class.oid AND con.contype IN ('p', 'u', 'c', 'f', 'x')
        ) AS line
    )
    || E'\n)'
    || coalesce(E'\nWITH (' || (
        SELECT string_agg(option.text, ', ' ORDER BY option.text COLLATE pg_catalog."C")
        FROM unnest(class.reloptions) AS option (text)
    ) || ')', '')
    || E';\n'
    || coalesce('COMMENT ON TABLE ' || quote_ident(class.relname) || ' IS '
        || quote_literal(obj_description(class.oid, 'pg_class')) || E';\n', '')
    || coalesce((
        SELECT string_agg(
            format('COMMENT ON COLUMN %I.%I IS ', class.relname, field.attname)
            || quote_literal(col_description(class.oid, field.attnum)) || E';\n',
            '' ORDER BY field.attnum
        )
        FROM pg_attribute AS field
        WHERE field.attrelid = class.oid AND field.attnum > 0 AND NOT field.attisdropped
    ), '') AS text
FROM pg_class AS class
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace
  AND class.relkind = 'r'
  AND (class.relname ~ '^(muster|registry)_' OR class.relname = 'cluster_metadata')"#;

/// Indexes of those tables, except the ones that a constraint brought along; one whose build failed shows it.
const INDEXES: &str = r#"
SELECT
    class.relname || ' on ' || owner.relname AS name,
    pg_get_indexdef(class.oid, 0, true) || E';\n'
    || CASE WHEN index.indisvalid THEN '' ELSE E'-- it is invalid\n' END
    || coalesce('COMMENT ON INDEX ' || quote_ident(class.relname) || ' IS '
        || quote_literal(obj_description(class.oid, 'pg_class')) || E';\n', '') AS text
FROM pg_index AS index
JOIN pg_class AS class ON class.oid = index.indexrelid
JOIN pg_class AS owner ON owner.oid = index.indrelid
WHERE owner.relnamespace = quote_ident(current_schema())::regnamespace
  AND owner.relkind = 'r'
  AND (owner.relname ~ '^(muster|registry)_' OR owner.relname = 'cluster_metadata')
  AND NOT EXISTS (SELECT FROM pg_constraint AS con WHERE con.conindid = class.oid AND con.contype IN ('p', 'u', 'x'))"#;

/// Functions. The server prints the schema before the name whatever the search path is, and a pinned search path by
/// the schema's name: both are taken out, so that the text creates the function wherever it is run. One that runs with
/// the rights of its owner must not be open to PUBLIC: that it is not belongs to its text, and so does not get lost
/// in a dump without privileges.
const FUNCTIONS: &str = r#"
SELECT
    proc.proname || '(' || oidvectortypes(proc.proargtypes) || ')' AS name,
    CASE WHEN 'search_path=' || current_setting('search_path') = ANY (proc.proconfig)
        THEN regexp_replace(definition.text, E'\n SET search_path TO [^\n]*\n', E'\n SET search_path FROM CURRENT\n')
        ELSE definition.text
    END
    || E';\n'
    || coalesce(format('COMMENT ON FUNCTION %I(%s) IS ', proc.proname, oidvectortypes(proc.proargtypes))
        || quote_literal(obj_description(proc.oid, 'pg_proc')) || E';\n', '')
    || CASE WHEN proc.prosecdef AND NOT EXISTS (
            SELECT FROM aclexplode(coalesce(proc.proacl, acldefault('f', proc.proowner))) AS acl WHERE acl.grantee = 0)
        THEN format(E'REVOKE ALL ON FUNCTION %I(%s) FROM PUBLIC;\n', proc.proname, oidvectortypes(proc.proargtypes))
        ELSE ''
    END AS text
FROM pg_proc AS proc
CROSS JOIN LATERAL (
    SELECT 'CREATE OR REPLACE FUNCTION ' || substr(
        rtrim(pg_get_functiondef(proc.oid), E'\n'),
        length('CREATE OR REPLACE FUNCTION ' || quote_ident(current_schema()) || '.') + 1
    ) AS text
) AS definition
WHERE proc.pronamespace = quote_ident(current_schema())::regnamespace
  AND proc.prokind = 'f'
  AND (
      proc.proname ~ '^muster_'
      OR proc.proname IN (
          'set_current_epoch', 'register_instance', 'set_instance_status', 'beat', 'expire_stale_instances',
          'expire_old_epoch_instances', 'assert_lease', 'alive_at', 'set_instance_health'
      )
  )"#;

/// Views.
const VIEWS: &str = r#"
SELECT
    class.relname::text AS name,
    format(E'CREATE OR REPLACE VIEW %I AS\n', class.relname) || pg_get_viewdef(class.oid, true) || E'\n'
    || coalesce('COMMENT ON VIEW ' || quote_ident(class.relname) || ' IS '
        || quote_literal(obj_description(class.oid, 'pg_class')) || E';\n', '') AS text
FROM pg_class AS class
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace
  AND class.relkind = 'v'
  AND (class.relname ~ '^(muster|registry)_' OR class.relname IN ('active_instances', 'active_instance'))"#;

/// Triggers of our tables; one that is switched off shows it.
const TRIGGERS: &str = r#"
SELECT
    trig.tgname || ' on ' || owner.relname AS name,
    pg_get_triggerdef(trig.oid, true) || E';\n'
    || CASE trig.tgenabled
        WHEN 'O' THEN ''
        WHEN 'A' THEN format(E'ALTER TABLE %I ENABLE ALWAYS TRIGGER %I;\n', owner.relname, trig.tgname)
        ELSE format(E'-- its state is %L\n', trig.tgenabled)
    END
    || coalesce(format('COMMENT ON TRIGGER %I ON %I IS ', trig.tgname, owner.relname)
        || quote_literal(obj_description(trig.oid, 'pg_trigger')) || E';\n', '') AS text
FROM pg_trigger AS trig
JOIN pg_class AS owner ON owner.oid = trig.tgrelid
WHERE owner.relnamespace = quote_ident(current_schema())::regnamespace
  AND (owner.relname ~ '^(muster|registry)_' OR owner.relname = 'cluster_metadata')
  AND NOT trig.tgisinternal"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_can_be_asked_for_other_names() {
        for (_, query) in QUERIES {
            let other = matching(query, "^theirs$");
            assert!(
                other.contains("~ '^theirs$'") && !other.contains("muster") && !other.contains("registry_"),
                "{other}"
            );
        }
    }
}
