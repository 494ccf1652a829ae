//! What is there, whatever the history says: each migration compared with the database, object by object.
//!
//! SeedCore records nothing, its suite has been renumbered, and its scripts went on after errors, so neither a history nor
//! a number proves anything, and half of a migration is the normal case. Identity is a name and a definition: an object that
//! has one of our names and a definition that neither we nor SeedCore make is another application's.

use tokio_postgres::GenericClient;

use crate::{
    migrations::{
        embedded::{MIGRATIONS, SCHEMA},
        forms::{self, Layout},
        objects::{self, Made},
        shape,
    },
    runner::{
        error::Error,
        history::{self, State, Status},
    },
    schema::{self, Kind, Object},
};

/// How much of a migration is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// All of it, with a known definition.
    Present,
    /// Some of it, or an object with the definition of another migration.
    Partial,
    /// Nothing.
    Absent,
    /// An object has one of our names and a definition that is neither ours nor SeedCore's.
    Foreign,
}

impl Presence {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Partial => "partial",
            Self::Absent => "absent",
            Self::Foreign => "foreign",
        }
    }
}

/// What was found of one migration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Detected {
    /// What the history says.
    pub recorded: Status,
    /// How much is there.
    pub presence: Presence,
    /// Objects and columns that are not there; empty if nothing is.
    pub missing: Vec<String>,
    /// Objects with another definition.
    pub different: Vec<String>,
}

impl Detected {
    /// One line: number, presence, and the objects that keep it from being present.
    #[must_use]
    pub fn describe(&self) -> String {
        let list = |word: &str, names: &[String]| {
            if names.is_empty() { String::new() } else { format!("{word} {}", names.join(", ")) }
        };
        let details = [list("missing", &self.missing), list("other definition:", &self.different)];
        let details: Vec<String> = details.into_iter().filter(|text| !text.is_empty()).collect();
        let head = format!("{:03} {}", self.recorded.version, self.presence.word());
        if details.is_empty() { head } else { format!("{head}: {}", details.join("; ")) }
    }
}

/// What objects a database of each layout has and no other. Nothing is ever dropped by SeedCore, so several may answer.
const LAYOUTS: &str = "
SELECT EXISTS (SELECT FROM pg_proc AS proc WHERE proc.pronamespace = space.oid
               AND proc.proname IN ('create_graph_embed_task_v2', 'create_graph_rag_task_v2')),
       EXISTS (SELECT FROM pg_proc AS proc WHERE proc.pronamespace = space.oid
               AND proc.proname = 'create_graph_embed_task' AND proc.pronargs = 5),
       EXISTS (SELECT FROM pg_class AS class WHERE class.relnamespace = space.oid AND class.relkind = 'r'
               AND class.relname = 'source_registrations')
       OR EXISTS (SELECT FROM pg_attribute AS field JOIN pg_class AS class ON class.oid = field.attrelid
                  WHERE class.relnamespace = space.oid AND NOT field.attisdropped
                    AND (class.relname, field.attname)
                        IN (('organ_registry', 'specialization'), ('agent_registry', 'last_seen_at')))
FROM pg_namespace AS space
WHERE space.nspname = current_schema()";

/// What was found in a database.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Detection {
    /// The schema that was looked at: the one that holds the registry, or would.
    pub schema: String,
    /// Each migration, by number.
    pub migrations: Vec<Detected>,
    /// The layouts of SeedCore whose objects are there; several after an upgrade of SeedCore.
    pub layouts: Vec<Layout>,
}

impl Detection {
    /// Whether anything is recorded as applied and is not there as this binary makes it.
    #[must_use]
    pub fn has_drift(&self) -> bool {
        let mut migrations = self.migrations.iter();
        migrations.any(|one| match one.recorded.state {
            State::Applied => one.presence != Presence::Present,
            State::Changed => true,
            State::Pending | State::Unknown | State::Ejected => false,
        })
    }
}

/// Compares every migration of this binary. The caller has pinned the search path.
pub(super) async fn detect(client: &impl GenericClient) -> Result<Detection, Error> {
    let doing = "detecting what is there";
    let statuses = history::read(client).await?;
    let live = schema::read(client).await.map_err(Error::during(doing))?;
    let found = client.query_typed("SELECT current_schema()::text", &[]).await.map_err(Error::during(doing))?;
    let schema = found.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
    Ok(Detection { schema, migrations: judge(statuses, &live), layouts: layouts(client).await? })
}

/// The layouts of SeedCore whose objects are there.
pub(crate) async fn layouts(client: &impl GenericClient) -> Result<Vec<Layout>, Error> {
    let found = client.query_typed(LAYOUTS, &[]).await.map_err(Error::during("detecting what is there"))?;
    let is = |column: usize| found.first().is_some_and(|row| row.get(column));
    let layouts = [Layout::L1, Layout::L2, Layout::L3].into_iter().enumerate();
    Ok(layouts.filter(|(column, _)| is(*column)).map(|(_, layout)| layout).collect())
}

fn judge(statuses: Vec<Status>, live: &[Object]) -> Vec<Detected> {
    let expected = schema::parse(SCHEMA);
    let made: Vec<(i32, Made)> = MIGRATIONS
        .iter()
        .flat_map(|migration| objects::of(&migration.sql()).into_iter().map(|made| (migration.version, made)))
        .collect();
    let survey = Survey { expected: &expected, live, made: &made };
    statuses.into_iter().map(|recorded| survey.look_at(recorded)).collect()
}

/// What one migration is compared with.
struct Survey<'a> {
    expected: &'a [Object],
    live: &'a [Object],
    made: &'a [(i32, Made)],
}

impl Survey<'_> {
    fn look_at(&self, recorded: Status) -> Detected {
        let (mut missing, mut different, mut found, mut is_foreign) = (Vec::new(), Vec::new(), 0, false);
        for (_, made) in self.made.iter().filter(|(version, _)| *version == recorded.version) {
            match self.compare(recorded.version, recorded.state == State::Applied, made) {
                Verdict::Same => found += 1,
                Verdict::Skip => {}
                Verdict::Missing(names) => {
                    found += usize::from(!made.is_new && names.len() < made.columns.len());
                    missing.extend(names);
                }
                Verdict::Later(name) => different.push(name),
                Verdict::Foreign(names) => {
                    is_foreign = true;
                    different.extend(names);
                }
            }
        }
        let is_empty = self.made.iter().all(|(version, _)| *version != recorded.version);
        let presence = match (is_foreign, found, missing.len() + different.len()) {
            // It makes no object that could tell, only rights or data.
            _ if is_empty && recorded.state == State::Applied => Presence::Present,
            (true, ..) => Presence::Foreign,
            (_, 0, _) => Presence::Absent,
            (_, _, 0) => Presence::Present,
            _ => Presence::Partial,
        };
        if presence == Presence::Absent {
            (missing, different) = (Vec::new(), Vec::new());
        }
        Detected { recorded, presence, missing, different }
    }

    fn compare(&self, version: i32, is_applied: bool, made: &Made) -> Verdict {
        let makers = || self.made.iter().filter(|(_, other)| other.kind == made.kind && other.name == made.name);
        let (first, last) = (makers().next(), makers().next_back());
        let is_first = first.is_some_and(|(other, _)| *other == version);
        let is_last = last.is_some_and(|(other, _)| *other == version);
        if made.kind == Kind::Table {
            return self.compare_table(is_applied, made);
        }
        let ours = find(self.expected, made);
        let object = match ours {
            // Of several functions of a name, the one with our parameters.
            Some(ours) => self.live.iter().find(|object| object.kind == ours.kind && object.name == ours.name),
            None => find(self.live, made),
        };
        let Some(object) = object else {
            // 013 takes away two indexes of 011.
            let is_superseded = made.kind == Kind::Index && ours.is_none() && self.has_leases();
            return if is_superseded { Verdict::Skip } else { Verdict::Missing(vec![described(made)]) };
        };
        let is_ours = ours.is_some_and(|ours| ours.text == object.text || is_same(ours, object));
        match (is_ours, is_first, is_last) {
            (true, ..) => Verdict::Same,
            (_, true, false) if is_applied || forms::is_known(object) => Verdict::Same,
            (_, true, true) if !is_applied && forms::is_known(object) => Verdict::Same,
            (_, true, _) if !is_applied => Verdict::Foreign(vec![object.to_string()]),
            (_, _, true) => Verdict::Later(object.to_string()),
            _ => Verdict::Skip,
        }
    }

    fn compare_table(&self, is_applied: bool, made: &Made) -> Verdict {
        let (Some(live), Some(ours)) = (find(self.live, made), find(self.expected, made)) else {
            return Verdict::Missing(vec![described(made)]);
        };
        let has = |column: &String| shape::line(&live.text, column).is_some();
        let missing: Vec<String> = made.columns.iter().filter(|column| !has(column)).cloned().collect();
        if !made.is_new || is_applied {
            let missing: Vec<String> = missing.iter().map(|column| format!("column {}.{column}", made.name)).collect();
            return if missing.is_empty() { Verdict::Same } else { Verdict::Missing(missing) };
        }
        let foreign = shape::differences_of(&made.name, &made.columns, &ours.text, &live.text);
        if foreign.is_empty() { Verdict::Same } else { Verdict::Foreign(foreign) }
    }

    /// Whether 013 has run, by its first column.
    fn has_leases(&self) -> bool {
        let table = |object: &&Object| object.kind == Kind::Table && object.name == "registry_instance";
        self.live.iter().find(table).is_some_and(|table| shape::line(&table.text, "lease_id").is_some())
    }
}

/// What became of one object.
enum Verdict {
    /// There, with a definition that is known.
    Same,
    /// Of no weight: a later migration has made it otherwise.
    Skip,
    Missing(Vec<String>),
    /// There, with a definition that this migration replaces, or has replaced.
    Later(String),
    Foreign(Vec<String>),
}

fn find<'a>(objects: &'a [Object], made: &Made) -> Option<&'a Object> {
    objects.iter().find(|object| {
        object.kind == made.kind
            && match made.kind {
                Kind::Function => object.name.split('(').next() == Some(made.name.as_str()),
                _ => object.name == made.name,
            }
    })
}

/// Comments are no part of what a type, an index or a trigger is.
fn is_same(ours: &Object, live: &Object) -> bool {
    fn bare(object: &Object) -> Vec<&str> {
        object.text.lines().filter(|line| !line.starts_with("COMMENT ON ")).collect()
    }
    matches!(ours.kind, Kind::Type | Kind::Index | Kind::Trigger) && bare(ours) == bare(live)
}

fn described(made: &Made) -> String {
    format!("{} {}", made.kind.word(), made.name)
}
