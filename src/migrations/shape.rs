//! Whether tables that exist already are those of SeedCore's runtime registry.
//!
//! 011 creates its tables only where they do not exist, so that a database of SeedCore passes through with its rows. A table
//! that has the right name and another shape would pass through as well, and fail much later: a `last_heartbeat` that may be
//! null is never overdue. So the columns of 011 are compared with what this binary makes. Columns that others have added
//! are no difference.

use super::{
    embedded::{FIRST, MIGRATIONS},
    objects,
};
use crate::schema::{Kind, Object};

/// The tables that exist are compared, with an enum of that name.
pub(crate) fn differences(expected: &[Object], live: &[Object]) -> Vec<String> {
    let text = |objects: &[Object], kind, name: &str| {
        objects.iter().find(|object| object.kind == kind && object.name == name).map(|object| object.text.clone())
    };
    let first = MIGRATIONS.iter().find(|migration| migration.version == FIRST).map(|first| objects::of(&first.sql()));
    let tables = first.unwrap_or_default().into_iter().filter(|made| made.kind == Kind::Table);
    let mut differences = Vec::new();
    for table in tables {
        let of = |objects: &[Object]| text(objects, Kind::Table, &table.name);
        if let (Some(expected), Some(live)) = (of(expected), of(live)) {
            differences.extend(differences_of(&table.name, &table.columns, &expected, &live));
        }
    }
    let of = |objects| text(objects, Kind::Type, "instancestatus").map(|text| text.lines().next().map(str::to_owned));
    if of(live).is_some() && of(expected) != of(live) {
        differences.push("type instancestatus: other labels".to_owned());
    }
    differences
}

/// Compares these columns of a table, and its primary key. Others, of other applications, are no difference.
pub(crate) fn differences_of(table: &str, columns: &[String], expected: &str, live: &str) -> Vec<String> {
    let mut differences = Vec::new();
    for column in columns {
        let (wanted, found) = (line(expected, column), line(live, column));
        if wanted != found {
            let found = found.as_deref().unwrap_or("missing").to_owned();
            differences.push(format!("{table}: {found} instead of {}", wanted.unwrap_or_default()));
        }
    }
    if let Some(key) = expected.lines().find_map(|line| line.split_once("PRIMARY KEY ").map(|(_, key)| key)) {
        let key = format!("PRIMARY KEY {}", key.trim_end_matches(','));
        if !live.contains(&key) {
            differences.push(format!("{table}: no {key}"));
        }
    }
    differences
}

/// The definition of a column, as the text of its table has it.
pub(crate) fn line(table: &str, column: &str) -> Option<String> {
    let lines = table.lines().take_while(|line| !line.starts_with(')'));
    let mut lines = lines.filter_map(|line| line.strip_prefix("    "));
    lines.find(|line| line.split(' ').next() == Some(column)).map(|line| line.trim_end_matches(',').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{migrations::embedded::SCHEMA, schema};

    #[test]
    fn snapshot_itself_has_the_shape_and_any_other_is_named() {
        let ours = schema::parse(SCHEMA);
        assert_eq!(differences(&ours, &ours), Vec::<String>::new());
        let mut other = ours.clone();
        for object in &mut other {
            object.text = object
                .text
                .replace("last_heartbeat timestamp with time zone NOT NULL", "last_heartbeat timestamp with time zone")
                .replace("    pid integer,", "    pid bigint,\n    extra text,")
                .replace("PRIMARY KEY (instance_id)", "UNIQUE (instance_id)")
                .replace("'draining', ", "");
        }
        let found = differences(&ours, &other);
        for expected in
            ["pid bigint instead of pid integer", "last_heartbeat", "no PRIMARY KEY (instance_id)", "labels"]
        {
            assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
        }
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(differences(&ours, &[]), [""; 0], "what is not there is no difference");
    }
}
