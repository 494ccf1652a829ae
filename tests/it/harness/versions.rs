//! Server programs of other major versions of PostgreSQL than the installed one, which `tests/postgresql.sh` unpacks.

use std::path::{Path, PathBuf};

/// The oldest version that is supported, and the newest.
pub(crate) const OLDEST: u32 = 13;
pub(crate) const NEWEST: u32 = 18;

/// Their directory; `None` where they are not wanted.
pub(crate) fn programs(major: u32) -> Option<PathBuf> {
    if std::env::var_os("MUSTERD_SKIP_POSTGRESQL_VERSIONS").is_some_and(|value| value == "1") {
        #[expect(clippy::print_stderr, reason = "a test that checks nothing must say so")]
        {
            eprintln!("SKIPPED: MUSTERD_SKIP_POSTGRESQL_VERSIONS is 1, so nothing is tested with PostgreSQL {major}");
        }
        return None;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/postgresql/{major}/bin"));
    assert!(
        directory.join("postgres").is_file(),
        "PostgreSQL {major} is missing: run tests/postgresql.sh {major}, or tests/run.sh, which does, or set \
         MUSTERD_SKIP_POSTGRESQL_VERSIONS=1 to leave out what needs it"
    );
    Some(directory)
}
