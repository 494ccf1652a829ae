//! Whether tables that exist already are those of SeedCore's runtime registry.
//!
//! 011 creates its tables only where they do not exist, so that a database of SeedCore passes through with its rows. A table
//! that has the right name and another shape would pass through as well, and fail much later: a `last_heartbeat` that may be
//! null is never overdue. So the columns of 011 are compared with what this binary makes. Columns that others have added
//! are no difference.

use tokio_postgres::GenericClient;

use super::{
    embedded::SCHEMA,
    error::Error,
    schema::{self, Kind, Object},
};

/// The columns that SeedCore's tables have, by table.
const COLUMNS: [(&str, &[&str]); 2] = [
    ("cluster_metadata", &["id", "current_epoch", "updated_at"]),
    (
        "registry_instance",
        &[
            "instance_id",
            "logical_id",
            "cluster_epoch",
            "status",
            "actor_name",
            "serve_route",
            "node_id",
            "ip_address",
            "pid",
            "started_at",
            "stopped_at",
            "last_heartbeat",
        ],
    ),
];

/// Refuses tables and an enum of another shape, after 011 has run and before it is committed.
pub(super) async fn check(client: &impl GenericClient) -> Result<(), Error> {
    let live = schema::read(client).await.map_err(Error::during("comparing the tables"))?;
    let differences = differences(&schema::parse(SCHEMA), &live);
    if differences.is_empty() { Ok(()) } else { Err(Error::Foreign { differences }) }
}

fn differences(expected: &[Object], live: &[Object]) -> Vec<String> {
    let text = |objects: &[Object], kind, name: &str| {
        objects.iter().find(|object| object.kind == kind && object.name == name).map(|object| object.text.clone())
    };
    let mut differences = Vec::new();
    for (table, columns) in COLUMNS {
        let of = |objects: &[Object]| text(objects, Kind::Table, table).unwrap_or_default();
        let (expected, live) = (of(expected), of(live));
        for column in columns {
            let (wanted, found) = (line(&expected, column), line(&live, column));
            if wanted != found {
                let found = found.as_deref().unwrap_or("missing").to_owned();
                differences.push(format!("{table}: {found} instead of {}", wanted.unwrap_or_default()));
            }
        }
        let key = format!("PRIMARY KEY ({})", columns.first().copied().unwrap_or_default());
        if !live.contains(&key) {
            differences.push(format!("{table}: no {key}"));
        }
    }
    let of = |objects| text(objects, Kind::Type, "instancestatus").map(|text| text.lines().next().map(str::to_owned));
    if of(expected) != of(live) {
        differences.push("type instancestatus: other labels".to_owned());
    }
    differences
}

/// The definition of a column, as the text of its table has it.
fn line(table: &str, column: &str) -> Option<String> {
    let lines = table.lines().take_while(|line| !line.starts_with(')'));
    let mut lines = lines.filter_map(|line| line.strip_prefix("    "));
    lines.find(|line| line.split(' ').next() == Some(column)).map(|line| line.trim_end_matches(',').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(differences(&ours, &[]).len(), 3 + 12 + 2 + 1);
    }
}
