//! The objects that a migration makes, read from its text.
//!
//! Detection compares a database with each migration object by object. A list kept by hand beside the files would fall
//! behind them, so the statements are read instead: our own files, one statement to a line start, as `migrations/README.md`
//! asks. A test holds what is read to `migrations/schema.sql`.

use crate::schema::Kind;

/// An object that a migration makes, or a table that it adds columns to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) kind: Kind,
    /// As in the snapshot; of a function, the name alone.
    pub(crate) name: String,
    /// The columns that a table gets.
    pub(crate) columns: Vec<String>,
    /// Whether the table itself is made, and not only extended.
    pub(crate) is_new: bool,
}

/// Reads the objects that a text makes.
pub(crate) fn of(sql: &str) -> Vec<Made> {
    let mut made: Vec<Made> = Vec::new();
    let mut lines = sql.lines().peekable();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().filter(|word| !SKIPPED.contains(word)).collect();
        let name = |at: usize| words.get(at).map(|word| bare(word)).unwrap_or_default();
        match words.as_slice() {
            ["CREATE", "TABLE", ..] => {
                let columns = columns(&mut lines, |line| line.starts_with(')'), |line| line.strip_prefix("    "));
                push(&mut made, Kind::Table, name(2), columns, true);
            }
            ["ALTER", "TABLE", _] => {
                let added = |line: &str| line.trim_start().strip_prefix("ADD COLUMN ").map(str::to_owned);
                let mut columns = Vec::new();
                while let Some(column) = lines.peek().and_then(|line| added(line)) {
                    columns.push(bare(&column));
                    lines.next();
                }
                if !columns.is_empty() {
                    push(&mut made, Kind::Table, name(2), columns, false);
                }
            }
            ["CREATE", "TYPE", ..] => push(&mut made, Kind::Type, name(2).to_lowercase(), Vec::new(), true),
            ["CREATE", "VIEW", ..] => push(&mut made, Kind::View, name(2), Vec::new(), true),
            ["CREATE", "FUNCTION", ..] => push(&mut made, Kind::Function, name(2), Vec::new(), true),
            ["CREATE", "INDEX", index, "ON", table, ..] => {
                push(&mut made, Kind::Index, format!("{} on {}", bare(index), bare(table)), Vec::new(), true);
            }
            ["CREATE", "TRIGGER", trigger, ..] => {
                let trigger = bare(trigger);
                let on = |line: &str| line.split_whitespace().skip_while(|word| *word != "ON").nth(1).map(bare);
                let table = on(line).or_else(|| lines.by_ref().find_map(on)).unwrap_or_default();
                push(&mut made, Kind::Trigger, format!("{trigger} on {table}"), Vec::new(), true);
            }
            _ => {}
        }
    }
    made
}

/// Words that say nothing about which object it is.
const SKIPPED: [&str; 8] = ["OR", "REPLACE", "UNIQUE", "IF", "NOT", "EXISTS", "CONCURRENTLY", "CONSTRAINT"];

fn push(made: &mut Vec<Made>, kind: Kind, name: String, columns: Vec<String>, is_new: bool) {
    match made.iter_mut().find(|one| one.kind == kind && one.name == name) {
        Some(one) => one.columns.extend(columns),
        None => made.push(Made { kind, name, columns, is_new }),
    }
}

/// The names that lines open with, up to the one that ends the list.
fn columns<'a>(
    lines: &mut impl Iterator<Item = &'a str>,
    ends: impl Fn(&str) -> bool,
    column: impl Fn(&'a str) -> Option<&'a str>,
) -> Vec<String> {
    let lines = lines.take_while(|line| !ends(line)).filter_map(column);
    let names = lines
        .filter_map(|line| line.split(' ').next())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_'));
    names.map(str::to_owned).collect()
}

/// A name without what follows it.
fn bare(word: &str) -> String {
    word.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        migrations::embedded::{MIGRATIONS, SCHEMA},
        schema,
    };

    #[test]
    fn objects_of_all_migrations_are_those_of_the_snapshot() {
        let snapshot = schema::parse(SCHEMA);
        let made: Vec<Made> = MIGRATIONS.iter().flat_map(|migration| of(&migration.sql())).collect();
        let described = |kind: Kind, name: &str| format!("{kind:?} {}", name.split('(').next().unwrap_or_default());
        let made_names: BTreeSet<String> = made.iter().map(|one| described(one.kind, &one.name)).collect();
        let expected: BTreeSet<String> = snapshot.iter().map(|one| described(one.kind, &one.name)).collect();
        let missing: Vec<_> =
            expected.difference(&made_names).filter(|name| *name != "Table muster_migration").collect();
        assert!(missing.is_empty(), "{missing:?}");
        // 013 drops these two.
        let dropped: Vec<_> = made_names.difference(&expected).collect();
        assert_eq!(dropped.len(), 2, "{dropped:?}");
        for one in made.iter().filter(|one| one.kind == Kind::Table) {
            let table = snapshot.iter().find(|other| other.kind == Kind::Table && other.name == one.name).unwrap();
            for column in &one.columns {
                assert!(table.text.contains(&format!("    {column} ")), "{} has no {column}", one.name);
            }
        }
    }

    #[test]
    fn statements_of_each_kind_are_read() {
        let made = of("CREATE TABLE IF NOT EXISTS t (\n    a text,\n    CONSTRAINT c CHECK (a <> '')\n);\n\
                       ALTER TABLE t\n    ADD COLUMN b int,\n    ADD CONSTRAINT d CHECK (b > 0);\n\
                       CREATE UNIQUE INDEX IF NOT EXISTS i ON t (a);\nCREATE TRIGGER g\nBEFORE UPDATE OF a\nON t\nFOR EACH ROW;\n\
                       CREATE OR REPLACE FUNCTION f(a int)\n    CREATE TYPE E AS ENUM ('x');");
        let found: Vec<String> =
            made.iter().map(|one| format!("{:?} {} {:?}", one.kind, one.name, one.columns)).collect();
        let expected = ["Table t [\"a\", \"b\"]", "Index i on t []", "Trigger g on t []", "Function f []", "Type e []"];
        assert_eq!(found, expected);
    }
}
