//! Which locks a migration takes, read from its statements: what an operator wants to know before it runs.

/// How long numbering one row takes, measured with 2 cores.
pub(crate) const MICROSECONDS_PER_ROW: u64 = 20;

/// Locks of tables, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    RowExclusive,
    Share,
    ShareRowExclusive,
    AccessExclusive,
}

impl Mode {
    /// The server's name for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }
}

/// The strongest lock on a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) table: String,
    pub(crate) mode: Mode,
    /// Whether its rows are rewritten.
    pub(crate) updates: bool,
}

/// Reads the locks from statements that begin at the start of a line.
pub(crate) fn of(sql: &str) -> Vec<Lock> {
    let mut locks: Vec<Lock> = Vec::new();
    let mut trigger = false;
    for line in sql.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let on = || words.iter().position(|word| *word == "ON").and_then(|at| words.get(at + 1).copied());
        let (table, mode) = match words.as_slice() {
            ["ALTER", "TABLE", table, ..] if line.starts_with("ALTER") => (Some(*table), Mode::AccessExclusive),
            ["UPDATE", table, ..] if line.starts_with("UPDATE") => (Some(*table), Mode::RowExclusive),
            ["CREATE", "INDEX" | "UNIQUE", ..] if line.starts_with("CREATE") => (on(), Mode::Share),
            // The index of a table is dropped under the lock of both, and the line does not name the table.
            ["DROP", "INDEX", ..] if line.starts_with("DROP") => (Some("registry_instance"), Mode::AccessExclusive),
            ["CREATE", "TRIGGER", ..] if line.starts_with("CREATE") => {
                trigger = on().is_none();
                (on(), Mode::ShareRowExclusive)
            }
            _ if trigger && on().is_some() => {
                trigger = false;
                (on(), Mode::ShareRowExclusive)
            }
            _ => continue,
        };
        let Some(table) = table else { continue };
        let table = table.trim_end_matches([';', '(']).to_owned();
        let updates = mode == Mode::RowExclusive;
        match locks.iter_mut().find(|lock| lock.table == table) {
            Some(lock) => (lock.mode, lock.updates) = (lock.mode.max(mode), lock.updates || updates),
            None => locks.push(Lock { table, mode, updates }),
        }
    }
    locks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::embedded::MIGRATIONS;

    #[test]
    fn locks_are_read_from_the_statements_of_a_migration() {
        let of = |version: i32| of(&MIGRATIONS.iter().find(|one| one.version == version).unwrap().sql());
        let lock = |table: &str, mode, updates| Lock { table: table.to_owned(), mode, updates };
        let found = of(13);
        assert!(found.contains(&lock("registry_instance", Mode::AccessExclusive, true)), "{found:?}");
        assert!(found.contains(&lock("cluster_metadata", Mode::AccessExclusive, true)), "{found:?}");
        assert!(of(16).contains(&lock("registry_instance", Mode::AccessExclusive, false)), "{:?}", of(16));
        assert_eq!(
            super::of("CREATE TRIGGER g\n    BEFORE INSERT ON t\n    FOR EACH ROW;")[0].mode,
            Mode::ShareRowExclusive
        );
    }
}
