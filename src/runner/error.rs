//! What can go wrong with a migration, in one line each, with the fix.

use tokio_postgres::error::SqlState;

use crate::postgres::connect::ConnectError;
use crate::schema::blocker::Blocker;

/// Why the schema could not be brought up to date, or should not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection to the database.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection was lost on the way. Whatever was under way was rolled back or is in the history.
    #[error("the connection to the database was lost during {doing}; run it again, what was committed is kept")]
    Lost {
        /// What was under way.
        doing: String,
    },
    /// The database was migrated by a newer musterd.
    #[error(
        "the database is newer than this binary: it has migration {found} ({name}) and needs a binary that knows migration \
         {needed}, this binary knows up to {known}; install the musterd that made it, or a newer one"
    )]
    Newer {
        /// The highest version in the database.
        found: i32,
        /// Its name, as the database has it.
        name: String,
        /// The highest version of this binary.
        known: i32,
        /// The version that a binary has to know.
        needed: i32,
    },
    /// A migration that was applied has another text in this binary.
    #[error(
        "migration {version} ({name}) was applied with a different text than this binary has; install the musterd that applied it, migrations must not change once released"
    )]
    Changed {
        /// Its version.
        version: i32,
        /// Its name.
        name: String,
    },
    /// Migrations are missing and we were told not to apply any.
    #[error("the database lacks {count} migration(s), the first is {first} ({name}); run musterd migrate up")]
    Pending {
        /// How many.
        count: usize,
        /// The lowest version that is missing.
        first: i32,
        /// Its name.
        name: &'static str,
    },
    /// No schema of the search path exists.
    #[error(
        "the database user has no schema to work in: none of its search_path exists; create one, or set the search_path of the user"
    )]
    NoSchema,
    /// The schema that the registry was told to be in does not exist, and the role may not make it.
    #[error(
        "there is no schema {0}, and the database user may not make it; run CREATE SCHEMA {0} as the owner of the database, or \
         grant the user CREATE on the database"
    )]
    MissingSchema(String),
    /// A table or type of the registry exists already and has another shape.
    #[error(
        "the database has tables of another shape under the names of the registry: {}; \
         change them to that shape, or use another schema (search_path) or database",
        differences.join("; ")
    )]
    Foreign {
        /// What differs, by table.
        differences: Vec<String>,
    },
    /// What is there is not the whole of what SeedCore makes, so it is not recorded as applied.
    #[error("nothing was recorded: {}; musterd migrate up {}", .found.join("; "), adoption_fix(*.foreign))]
    NotAdoptable {
        /// What is missing or has another definition, by migration.
        found: Vec<String>,
        /// Whether it is of another application.
        foreign: bool,
    },
    /// A migration would number more rows under one lock than allowed.
    #[error(
        "registry_instance has {rows} rows, more than the {allowed} of --max-rows: migration 013 locks them all for about \
         {} ms; delete the dead rows first with --purge-dead, or allow more", .rows / 50
    )]
    TooManyRows {
        /// How many there are.
        rows: i64,
        /// How many may be.
        allowed: i64,
    },
    /// The database holds a later suite of SeedCore than the one that is offered.
    #[error(
        "this database has SeedCore's layout {0}, which its own scripts maintain; the suite seedcore goes onto an empty database or layout L1"
    )]
    OtherLayout(&'static str),
    /// Daemons work with the database.
    #[error("daemons still work with this database: {}; stop them first", .0.join(", "))]
    DaemonsLive(Vec<String>),
    /// The registry was given back to SeedCore.
    #[error("the registry was given back to SeedCore at {at} by {by}; run musterd migrate up to take it over again")]
    Ejected {
        /// When.
        at: String,
        /// What gave it back.
        by: String,
    },
    /// The user lacks rights.
    #[error("missing rights for {doing}: {message}; {}", rights_fix(.owner.as_deref()))]
    MissingRights {
        /// What was under way.
        doing: String,
        /// What the server said.
        message: String,
        /// The owner of the registry's tables and this role, if it is another one and may not become the owner.
        owner: Option<Box<(String, String)>>,
    },
    /// The server takes no writes any more: sessions are read-write, so it has become a standby.
    #[error(
        "the database takes no changes during {doing}: it is a standby now; \
         wait for its promotion, or name the primary in the database url"
    )]
    ReadOnly {
        /// What was under way.
        doing: String,
    },
    /// Another session has the turn to migrate.
    #[error("another session migrates this database")]
    Queued,
    /// Another session holds the tables, or migrates, for longer than we wait.
    #[error("gave up {doing} because {}", held(.blocker.as_deref()))]
    Busy {
        /// What was under way.
        doing: String,
        /// The session, if it was found.
        blocker: Option<Box<Blocker>>,
    },
    /// A database that is to be copied holds more than the registry.
    #[error(
        "the database also holds what the copy would leave out: {names}; remove it, or move the whole cluster with \
         pg_dumpall"
    )]
    Others {
        /// Kind and name of each.
        names: String,
    },
    /// A copy is not what it was made of.
    #[error("the copy of table {table} differs from its original: {what}; nothing was replaced, run it again")]
    CopyDiffers {
        /// The table.
        table: String,
        /// In what way.
        what: &'static str,
    },
    /// Any other failure of a statement. The transaction was rolled back.
    #[error("{doing} failed and was rolled back: {message} (SQLSTATE {code})")]
    Sql {
        /// What was under way.
        doing: String,
        /// What the server said.
        message: String,
        /// Its SQLSTATE.
        code: String,
    },
    /// The driver failed in a way that is not the server's.
    #[error("{doing} failed and was rolled back")]
    Driver {
        /// What was under way.
        doing: String,
        /// What the driver said.
        source: tokio_postgres::Error,
    },
}

impl Error {
    /// Returns the exit code for a command that ends with this error: 3 cannot reach, 78 bad configuration (of the
    /// URL, the rights, or the versions that were put together), 1 any other failure.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Connect(error) => error.exit_code(),
            Self::Lost { .. } | Self::ReadOnly { .. } => 3,
            Self::Newer { .. }
            | Self::Changed { .. }
            | Self::Pending { .. }
            | Self::NoSchema
            | Self::MissingSchema(_)
            | Self::Foreign { .. }
            | Self::NotAdoptable { .. }
            | Self::TooManyRows { .. }
            | Self::DaemonsLive(_)
            | Self::OtherLayout(_)
            | Self::Ejected { .. }
            | Self::MissingRights { .. }
            | Self::Others { .. } => 78,
            Self::Queued | Self::CopyDiffers { .. } | Self::Busy { .. } | Self::Sql { .. } | Self::Driver { .. } => 1,
        }
    }

    /// Returns a function that classifies what the driver said while `doing`.
    pub(crate) fn during(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let doing = doing.into();
        move |error| {
            let Some(refusal) = error.as_db_error() else {
                return if error.is_closed()
                    || std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>())
                {
                    Self::Lost { doing }
                } else {
                    Self::Driver { doing, source: error }
                };
            };
            let message = refusal.message().replace('\n', " ");
            match *refusal.code() {
                SqlState::INSUFFICIENT_PRIVILEGE => Self::MissingRights { doing, message, owner: None },
                SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly { doing },
                SqlState::LOCK_NOT_AVAILABLE
                | SqlState::T_R_DEADLOCK_DETECTED
                | SqlState::T_R_SERIALIZATION_FAILURE => Self::Busy { doing, blocker: None },
                SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => Self::Lost { doing },
                _ => Self::Sql { doing, message, code: refusal.code().code().to_owned() },
            }
        }
    }
}

fn held(blocker: Option<&Blocker>) -> String {
    match blocker {
        Some(blocker) => format!(
            "{blocker}; end its transaction, for example with SELECT pg_terminate_backend({}), and run it again",
            blocker.pid
        ),
        None => {
            "others held the locks it needs for too long; end long transactions on the registry's tables and run it \
                 again"
                .to_owned()
        }
    }
}

const fn adoption_fix(is_foreign: bool) -> &'static str {
    if is_foreign { "refuses or replaces these objects: rename them first" } else { "makes what is missing" }
}

fn rights_fix(owner: Option<&(String, String)>) -> String {
    match owner {
        Some((owner, role)) => format!("the tables belong to {owner}: GRANT {owner} TO {role}, or run it as {owner}"),
        None => "run it as the owner of the registry's tables, or grant CREATE on the schema".to_owned(),
    }
}
