//! Which schema of a database holds the registry.
//!
//! The search path of a session decides where unqualified names lead, and it can change under a running registry: a
//! schema that is named like the role comes first as soon as it exists. So the registry is looked for by its objects, in
//! all schemas, and every session of a daemon is then held to the schema that was found ([`crate::postgres::database`]).
//!
//! What is found decides: a registry that the search path leads to is used. A registry that exists elsewhere, or more
//! than one on the path, is refused: an empty second registry beside the existing one makes every instance disappear.
//! The catalogue is read directly, because name look-up hides what the role has no rights on, and an empty answer would
//! then mean "not allowed".

use tokio_postgres::{Client, SimpleQueryMessage};

/// Schemas with the two tables of a registry. Whether migrations of musterd have run there, its place on the search
/// path (0: not on it), whether it is the schema where new objects go, whether the role may use it. Then the schema where
/// new objects go. Asked as part of a session's set-up, where answers are told apart by their number of columns.
pub(crate) const SEARCH: &str = "
SELECT space.nspname,
       EXISTS (SELECT FROM pg_class AS known
               WHERE known.relnamespace = space.oid AND known.relname = 'muster_migration' AND known.relkind = 'r'),
       coalesce(array_position(current_schemas(false), space.nspname), 0),
       space.nspname = coalesce(current_schema(), ''),
       has_schema_privilege(space.oid, 'USAGE')
FROM pg_namespace AS space
WHERE space.nspname !~ '^pg_'
  AND EXISTS (SELECT FROM pg_class AS instance
              WHERE instance.relnamespace = space.oid AND instance.relname = 'registry_instance'
                AND instance.relkind IN ('r', 'p'))
  AND EXISTS (SELECT FROM pg_class AS cluster
              WHERE cluster.relnamespace = space.oid AND cluster.relname = 'cluster_metadata'
                AND cluster.relkind IN ('r', 'p'))
ORDER BY 3, 1;
SELECT current_schema(), 'current';
";
const CANDIDATE_COLUMNS: usize = 5;
const CURRENT_COLUMNS: usize = 2;

/// A schema that holds a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    schema: String,
    is_migrated: bool,
    is_on_path: bool,
    is_current: bool,
    is_usable: bool,
}

/// Why no schema can be chosen. Each text is one line with the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// More than one registry on the search path.
    #[error(
        "the search path leads to {count} registries, in the schemas {schemas}; name one of them in the database url \
         (options=-csearch_path=SCHEMA) or in ALTER ROLE ... SET search_path, and drop the other if it is empty",
        count = .0.len(), schemas = .0.join(", ")
    )]
    Several(Vec<String>),
    /// A registry exists, and the search path leads elsewhere.
    #[error(
        "the registry of this database is in schema {found}, and the search path of the session leads to schema \
         {current}; set the search path to {found} in the database url (options=-csearch_path={found}) or with ALTER \
         ROLE ... SET search_path, or use a database of its own for a second registry"
    )]
    Elsewhere {
        /// Where it is.
        found: String,
        /// Where new objects would go.
        current: String,
    },
    /// The role may not use the schema of the registry.
    #[error("the registry is in schema {0}, and the role may not use that schema; GRANT USAGE ON SCHEMA {0} to it")]
    NoUsage(String),
}

/// The schema that a session has to work in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Located {
    /// `None` if the search path has no schema at all.
    pub(crate) schema: Option<String>,
    /// Whether migrations of musterd have run there.
    pub(crate) is_migrated: bool,
}

/// Finds the schema for a session that a caller has opened: the one that holds the registry, or would.
pub(crate) async fn locate(client: &Client) -> Result<Result<Option<String>, LocateError>, tokio_postgres::Error> {
    let answer = client.simple_query(SEARCH).await?;
    Ok(read(&answer).map(|located| located.schema))
}

/// Reads the answer to [`SEARCH`].
pub(crate) fn read(answer: &[SimpleQueryMessage]) -> Result<Located, LocateError> {
    let mut candidates = Vec::new();
    let mut current = None;
    for message in answer {
        let SimpleQueryMessage::Row(row) = message else { continue };
        match row.len() {
            CURRENT_COLUMNS => current = row.get(0).map(str::to_owned),
            CANDIDATE_COLUMNS => candidates.push(Candidate {
                schema: row.get(0).unwrap_or_default().to_owned(),
                is_migrated: row.get(1) == Some("t"),
                is_on_path: row.get(2) != Some("0"),
                is_current: row.get(3) == Some("t"),
                is_usable: row.get(4) == Some("t"),
            }),
            _ => {}
        }
    }
    let schema = choose(&candidates, current)?;
    let is_migrated = candidates.iter().any(|one| one.is_migrated && Some(&one.schema) == schema.as_ref());
    Ok(Located { schema, is_migrated })
}

fn choose(candidates: &[Candidate], current: Option<String>) -> Result<Option<String>, LocateError> {
    let on_path: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.is_on_path).collect();
    if on_path.len() > 1 {
        return Err(LocateError::Several(on_path.iter().map(|one| one.schema.clone()).collect()));
    }
    let Some(one) = on_path.first().copied().or(candidates.first()) else { return Ok(current) };
    // A registry of SeedCore that is not where new objects go may not be meant; one of musterd is.
    if one.is_on_path && (one.is_current || one.is_migrated) {
        return Ok(Some(one.schema.clone()));
    }
    if !one.is_usable {
        return Err(LocateError::NoUsage(one.schema.clone()));
    }
    let current = current.unwrap_or_else(|| "(none)".to_owned());
    Err(LocateError::Elsewhere { found: one.schema.clone(), current })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(schema: &str, is_migrated: bool, is_on_path: bool, is_current: bool) -> Candidate {
        Candidate { schema: schema.to_owned(), is_migrated, is_on_path, is_current, is_usable: true }
    }

    #[test]
    fn schema_is_chosen_by_what_exists_and_where_the_path_leads() {
        let app = || Some("app".to_owned());
        let public = |migrated, on_path| candidate("public", migrated, on_path, false);
        assert_eq!(choose(&[], app()), Ok(app()), "an empty database");
        assert_eq!(choose(&[], None), Ok(None), "no schema on the path");
        assert_eq!(choose(&[candidate("app", false, true, true)], app()), Ok(app()), "SeedCore, where new objects go");
        assert_eq!(choose(&[public(true, true)], app()), Ok(Some("public".to_owned())), "ours, behind an empty schema");
        let elsewhere = LocateError::Elsewhere { found: "public".to_owned(), current: "app".to_owned() };
        assert_eq!(choose(&[public(false, true)], app()), Err(elsewhere.clone()), "SeedCore behind an empty schema");
        assert_eq!(choose(&[public(true, false)], app()), Err(elsewhere), "ours, not on the path");
        let both = [candidate("app", true, true, true), public(true, true)];
        let several = LocateError::Several(vec!["app".to_owned(), "public".to_owned()]);
        assert_eq!(choose(&both, app()), Err(several), "two on the path");
        let apart = [candidate("app", true, true, true), public(true, false)];
        assert_eq!(choose(&apart, app()), Ok(app()), "two, and the path names one");
    }

    #[test]
    fn registry_in_a_schema_without_usage_is_named_as_that() {
        let hidden = Candidate { is_usable: false, ..candidate("private", true, false, false) };
        assert_eq!(choose(&[hidden], Some("public".to_owned())), Err(LocateError::NoUsage("private".to_owned())));
    }
}
