//! What the database holds of ours, as text: for people to read and for programs to compare.
//!
//! A chain of migrations shows how the schema came about and nowhere what it is. `migrations/schema.sql` shows what it
//! is: every type, table, index, function, view and trigger with its comments, read back from the catalogue of a freshly
//! migrated database. A test keeps it current; run that test with `MUSTERD_UPDATE_SCHEMA=1` to write it again.
//!
//! The same text, embedded, is what `musterd migrate verify` compares a live database with, and what `musterd migrate
//! up` takes a function or view from that another program has overwritten. For that it must be the same on every supported
//! server, in every schema, and in a database that is shared with others: only objects of ours are read, by their names,
//! and the name of the schema they live in does not appear.
//!
//! An object is a block of lines opened by a marker such as `--- function beat(uuid)`.

pub mod blocker;
mod catalogue;
mod kind;

use std::fmt;

use futures_util::future::try_join_all;
use tokio_postgres::{Client, Error, GenericClient, Row};

pub use self::kind::Kind;

const MARKER: &str = "--- ";

const HEADER: &str = "\
-- The current state of the schema, for reading: what all migrations together make of an empty database.
--
-- Generated from the catalogue (MUSTERD_UPDATE_SCHEMA=1 cargo test --test it schema_sql), never edited. musterd migrate
-- verify compares a live database with it, block by block.
";

/// One object of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name: with argument types for a function, with ` on ` and the table for an index or trigger.
    pub name: String,
    /// The statements that create and describe it. Those of a function or view replace it as well.
    pub text: String,
}

impl fmt::Display for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind.word(), self.name)
    }
}

/// How an object of a live database deviates.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The object as it should be, or, where nothing should be, as it is.
    pub object: Object,
    /// In what way.
    pub deviation: Deviation,
}

/// In what way an object deviates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deviation {
    /// It is not there.
    Missing,
    /// It is there and the migrations do not make it.
    Unexpected,
    /// It differs from the expected definition. For tables: which line is missing (`-`) or too many (`+`).
    Changed(Vec<String>),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.deviation {
            Deviation::Missing => write!(formatter, "{} is missing", self.object),
            Deviation::Unexpected => write!(formatter, "{} is an unexpected object", self.object),
            Deviation::Changed(lines) if lines.is_empty() => {
                write!(formatter, "{} differs from the expected definition", self.object)
            }
            Deviation::Changed(lines) => {
                write!(formatter, "{} differs from the expected definition: {}", self.object, lines.join("; "))
            }
        }
    }
}

/// Returns the whole schema in the form of `migrations/schema.sql`. Reads in a transaction of its own, so the client
/// must not be in one.
///
/// # Errors
///
/// Whatever the server objects to; a search path without any existing schema gives an empty description.
pub async fn describe(client: &Client) -> Result<String, Error> {
    client.batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let objects = match pin_search_path(client).await {
        Ok(_) => read(client).await,
        Err(error) => Err(error),
    };
    client.batch_execute("ROLLBACK").await?;
    Ok(render(&objects?))
}

/// Sets the search path, until the end of the transaction, to the schema that new objects go to, and returns its name;
/// `None` if there is no such schema.
pub(crate) async fn pin_search_path(client: &impl GenericClient) -> Result<Option<String>, Error> {
    let pin = "SELECT current_schema()::text, set_config('search_path', quote_ident(schema.name) || ', pg_temp', true)
               FROM (SELECT current_schema() AS name) AS schema
               WHERE schema.name IS NOT NULL";
    // Without a statement that is prepared first: one round trip.
    Ok(client.query_typed(pin, &[]).await?.first().map(|row| row.get(0)))
}

/// Reads all objects of ours. The caller has pinned the search path.
pub(crate) async fn read(client: &impl GenericClient) -> Result<Vec<Object>, Error> {
    let mut objects = Vec::new();
    // Sent one behind the other: one round trip for all.
    let answers = try_join_all(catalogue::QUERIES.iter().map(|(_, query)| client.query_typed(query, &[]))).await?;
    for ((kind, _), rows) in catalogue::QUERIES.into_iter().zip(answers) {
        let mut found: Vec<Object> = rows.iter().filter_map(|row| object(kind, row)).collect();
        // Here and not in SQL, where the order would be that of the database's collation.
        found.sort_by(|one, other| one.name.cmp(&other.name));
        objects.extend(found);
    }
    Ok(objects)
}

/// The server prints no definition of an object that another session has just dropped: then it is not there.
fn object(kind: Kind, row: &Row) -> Option<Object> {
    Some(Object { kind, name: row.try_get("name").ok()?, text: row.try_get("text").ok()? })
}

/// As [`read`], for the objects of others: those of the tables, views, types and functions with names that match.
pub(crate) async fn read_matching(client: &impl GenericClient, names: &str) -> Result<Vec<Object>, Error> {
    let mut objects = Vec::new();
    for (kind, query) in catalogue::QUERIES {
        let rows = client.query_typed(&catalogue::matching(query, names), &[]).await?;
        let mut found: Vec<Object> = rows.iter().filter_map(|row| object(kind, row)).collect();
        for view in found.iter_mut().filter(|object| object.kind == Kind::View) {
            view.text = without_qualifiers(&view.text);
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        objects.extend(found);
    }
    Ok(objects)
}

/// A view over one table as PostgreSQL 16 and later print it. Up to 15 the server writes the name of the table before each
/// column of such a view; our own views read more than one table, and every version writes it there.
fn without_qualifiers(view: &str) -> String {
    let mut sources = view.lines().filter_map(|line| line.trim_start().strip_prefix("FROM "));
    match (sources.next(), sources.next()) {
        (Some(table), None) if !table.contains([' ', '(']) && !view.contains(" JOIN ") => {
            view.replace(&format!("{}.", table.trim_end_matches(';')), "")
        }
        _ => view.to_owned(),
    }
}

/// The tables of the registry on which row-level security is enabled: it may hide rows from daemons and SQL callers, and
/// then an instance that exists is not found. The caller has pinned the search path.
pub(crate) async fn filtered_tables(client: &impl GenericClient) -> Result<Vec<String>, Error> {
    let filtered = "SELECT relname::text FROM pg_class
                    WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relrowsecurity
                      AND (relname ~ '^(muster|registry)_' OR relname = 'cluster_metadata')
                    ORDER BY relname";
    Ok(client.query(filtered, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Writes objects in the form of `migrations/schema.sql`.
#[must_use]
pub fn render(objects: &[Object]) -> String {
    let mut text = HEADER.to_owned();
    for object in objects {
        text.push_str(&format!("\n{MARKER}{object}\n{}", object.text));
    }
    text
}

/// Reads what [`render`] wrote.
#[must_use]
pub fn parse(text: &str) -> Vec<Object> {
    let text = text.replace("\r\n", "\n");
    let mut objects: Vec<Object> = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some((kind, name)) = line.strip_prefix(MARKER).and_then(marker) {
            objects.push(Object { kind, name, text: String::new() });
        } else if let Some(object) = objects.last_mut() {
            object.text.push_str(line);
        }
    }
    for object in &mut objects {
        // The empty line before the next marker belongs to neither.
        object.text.truncate(object.text.trim_end().len());
        object.text.push('\n');
    }
    objects
}

fn marker(rest: &str) -> Option<(Kind, String)> {
    let (word, name) = rest.trim_end().split_once(' ')?;
    Kind::ALL.iter().find(|(_, known)| *known == word).map(|(kind, _)| (*kind, name.to_owned()))
}

/// Compares object by object. What stands on a table that is not expected at all is of another application and passes.
#[must_use]
pub fn differences(expected: &[Object], live: &[Object]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for object in expected {
        let deviation = match live.iter().find(|other| same(other, object)) {
            None => Deviation::Missing,
            Some(other) if other.text == object.text => continue,
            Some(other) if object.kind == Kind::Table => {
                let lines = table_lines(&object.text, &other.text);
                if lines.is_empty() {
                    continue;
                }
                Deviation::Changed(lines)
            }
            Some(other) => Deviation::Changed(remarks(other)),
        };
        differences.push(Difference { object: object.clone(), deviation });
    }
    for object in live.iter().filter(|object| is_on_ours(object, expected)) {
        if !expected.iter().any(|other| same(other, object)) {
            differences.push(Difference { object: object.clone(), deviation: Deviation::Unexpected });
        }
    }
    differences
}

/// What the catalogue remarks on an index or a trigger that is there and out of use.
fn remarks(object: &Object) -> Vec<String> {
    if !matches!(object.kind, Kind::Index | Kind::Trigger) {
        return Vec::new();
    }
    object.text.lines().filter_map(|line| line.strip_prefix("-- ")).map(str::to_owned).collect()
}

fn same(one: &Object, other: &Object) -> bool {
    one.kind == other.kind && one.name == other.name
}

fn is_on_ours(object: &Object, expected: &[Object]) -> bool {
    match object.name.split_once(" on ") {
        Some((_, table)) => expected.iter().any(|other| other.kind == Kind::Table && other.name == table),
        None => object.kind != Kind::Table,
    }
}

/// The lines of one table's text that the other lacks, and the other way round. Their order does not count: a database
/// of SeedCore may have made its columns in another one.
fn table_lines(expected: &str, live: &str) -> Vec<String> {
    fn lines(text: &str) -> Vec<&str> {
        text.lines().map(|line| line.trim().trim_end_matches(',')).collect()
    }
    let (expected, live) = (lines(expected), lines(live));
    let missing = expected.iter().filter(|line| !live.contains(line)).map(|line| format!("- {line}"));
    let surplus = live.iter().filter(|line| !expected.contains(line)).map(|line| format!("+ {line}"));
    missing.chain(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, name: &str, text: &str) -> Object {
        Object { kind, name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn rendered_value_is_parsed_back() {
        let objects = [
            object(Kind::Table, "t", "CREATE TABLE t (\n    a text\n);\n"),
            object(
                Kind::Function,
                "f(uuid, text)",
                "CREATE OR REPLACE FUNCTION f()\n\n-- a comment\n--- no marker\n$$;\n",
            ),
        ];
        assert_eq!(parse(&render(&objects)), objects);
        assert_eq!(parse(&render(&objects).replace('\n', "\r\n")), objects);
    }

    #[test]
    fn view_over_one_table_reads_the_same_on_every_server() {
        let old =
            " SELECT t.a,\n        CASE t.b\n        END AS c\n   FROM t\n  WHERE t.a = 1\n  ORDER BY t.b DESC;\n";
        assert_eq!(without_qualifiers(old), old.replace("t.", ""));
        assert_eq!(without_qualifiers(&without_qualifiers(old)), old.replace("t.", ""));
        for kept in [" SELECT t.a\n   FROM t\n     JOIN u ON u.a = t.a;\n", " SELECT t.a\n   FROM t x(a);\n"] {
            assert_eq!(without_qualifiers(kept), kept);
        }
    }

    #[test]
    fn the_order_of_columns_is_no_difference() {
        let ours = [object(Kind::Table, "t", "CREATE TABLE t (\n    a text,\n    b text\n);\n")];
        let seed = [object(Kind::Table, "t", "CREATE TABLE t (\n    b text,\n    a text\n);\n")];
        assert!(differences(&ours, &seed).is_empty());
        let other = [object(Kind::Table, "t", "CREATE TABLE t (\n    b integer,\n    a text\n);\n")];
        let lines: Vec<String> = differences(&ours, &other).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["table t differs from the expected definition: - b text; + b integer"]);
    }

    #[test]
    fn tables_of_others_are_no_difference_but_an_index_on_ours_is() {
        let ours = [object(Kind::Table, "t", "")];
        let live = [
            object(Kind::Table, "t", ""),
            object(Kind::Table, "theirs", ""),
            object(Kind::Index, "i on theirs", ""),
            object(Kind::Index, "i on t", ""),
        ];
        let lines: Vec<String> = differences(&ours, &live).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["index i on t is an unexpected object"]);
    }
}
