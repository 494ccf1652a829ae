//! Finds the server programs of PostgreSQL.
//!
//! Distributions hide them: Debian keeps several versions side by side in folders that are not on `PATH`, and so do
//! Homebrew and the packages of the PostgreSQL project. So we look everywhere, ask each what it is, and choose:
//! the version that made the cluster if there is one, else the highest. Where two places hold the same version the
//! one found first wins: `PATH` before `pg_config` before the known folders.
//!
//! Versions before the first release (`18beta1`, `19devel`) are passed over: their clusters cannot be read by the
//! release.

use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{account, error::Error, options::MAJOR_MIN};

/// `postgres --version` answers in milliseconds; whatever takes longer is no PostgreSQL.
const PROBE_BOUND: Duration = Duration::from_secs(5);

/// Folders of single versions: a parent, what its children's names begin with, and the programs' folder inside.
const VERSIONED_FOLDERS: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];
const PLAIN_FOLDERS: [&str; 3] = ["/usr/bin", "/usr/local/pgsql/bin", "/usr/local/bin"];

/// A released version of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Reads what `postgres --version` prints, such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    fn parse(printed: &str) -> Option<Self> {
        let word = printed.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let (major, minor) = word.split_once('.')?;
        let minor = minor.split('.').next()?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// The programs of one installed version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) version: Version,
}

impl Binaries {
    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }
}

/// Finds the programs for a cluster of major version `made_by`, or the best ones if there is no cluster yet.
///
/// # Errors
///
/// [`Error::NoBinaries`] if there are none, [`Error::OtherMajor`] if there are only others.
pub(super) async fn find(bin_dir: Option<&Path>, made_by: Option<u32>, cluster: &Path) -> Result<Binaries, Error> {
    let (dirs, searched) = match bin_dir {
        Some(dir) => (vec![dir.to_path_buf()], dir.display().to_string()),
        None => (candidate_dirs().await, "PATH, `pg_config --bindir` and the usual folders".to_owned()),
    };
    let mut found: Vec<Binaries> = Vec::new();
    for dir in dirs {
        match probe(&dir).await {
            Some(binaries) if !found.contains(&binaries) => found.push(binaries),
            _ => {}
        }
    }
    choose(found, made_by).map_err(|installed| match (installed, made_by) {
        (Some(installed), Some(major)) => Error::OtherMajor { path: cluster.to_path_buf(), cluster: major, installed },
        _ => Error::NoBinaries { searched },
    })
}

/// Chooses among what was found, or says which supported major versions there were.
fn choose(mut found: Vec<Binaries>, made_by: Option<u32>) -> Result<Binaries, Option<String>> {
    found.retain(|binaries| binaries.version.major >= MAJOR_MIN);
    // Stable: of equal versions the one found first stays first.
    found.sort_by_key(|binaries| std::cmp::Reverse((binaries.version.major, binaries.version.minor)));
    let position = found.iter().position(|binaries| made_by.is_none_or(|major| binaries.version.major == major));
    match position {
        Some(position) => Ok(found.swap_remove(position)),
        None if found.is_empty() => Err(None),
        None => {
            let mut majors: Vec<String> = found.iter().map(|b| format!("PostgreSQL {}", b.version.major)).collect();
            majors.dedup();
            Err(Some(majors.join(", ")))
        }
    }
}

/// Every directory worth a look, best first.
async fn candidate_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A relative entry of PATH would mean whatever directory the daemon was started in.
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    if let Some(printed) = output_of(OsStr::new("pg_config"), "--bindir").await {
        dirs.push(PathBuf::from(printed.trim()));
    }
    for (parent, prefix, inside) in VERSIONED_FOLDERS {
        let children = fs::read_dir(parent).into_iter().flatten().flatten();
        let matching = children.filter(|child| child.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
        dirs.extend(matching.map(|child| child.path().join(inside)));
    }
    dirs.extend(PLAIN_FOLDERS.iter().map(PathBuf::from));
    dirs
}

/// Asks the programs in a directory what they are; `None` if they are not all there.
async fn probe(dir: &Path) -> Option<Binaries> {
    // The real folder behind a link on PATH, so that one installation found twice is one candidate.
    let real = fs::canonicalize(dir.join("postgres")).ok()?;
    let dir = real.parent().filter(|parent| parent.join("initdb").is_file()).unwrap_or(dir);
    if !dir.join("initdb").is_file() {
        return None;
    }
    let version = Version::parse(&output_of(dir.join("postgres").as_os_str(), "--version").await?)?;
    Some(Binaries { dir: dir.to_path_buf(), version })
}

async fn output_of(program: &OsStr, argument: &str) -> Option<String> {
    let mut command = account::command(program, None, Path::new("/"));
    let output = command.arg(argument).kill_on_drop(true).output();
    let output = tokio::time::timeout(PROBE_BOUND, output).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Binaries, Version, choose};

    fn binaries(dir: &str, major: u32, minor: u32) -> Binaries {
        Binaries { dir: dir.into(), version: Version { major, minor } }
    }

    #[test]
    fn versions_are_read_from_what_the_server_prints() {
        let printed = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(Version::parse(printed), Some(Version { major: 15, minor: 18 }));
        assert_eq!(Version::parse("postgres (PostgreSQL) 9.6.24"), Some(Version { major: 9, minor: 6 }));
        assert_eq!(Version::parse("postgres (PostgreSQL) 18beta1"), None);
        assert_eq!(Version::parse("postgres (PostgreSQL) 19devel"), None);
        assert_eq!(Version::parse("something else"), None);
    }

    #[test]
    fn the_highest_version_wins_and_of_equal_ones_the_first() {
        let found = vec![binaries("/a", 15, 1), binaries("/b", 16, 2), binaries("/c", 16, 2), binaries("/d", 9, 6)];
        assert_eq!(choose(found, None), Ok(binaries("/b", 16, 2)));
    }

    #[test]
    fn an_existing_cluster_gets_the_version_that_made_it() {
        let found = vec![binaries("/a", 16, 2), binaries("/b", 14, 1), binaries("/c", 14, 9)];
        assert_eq!(choose(found.clone(), Some(14)), Ok(binaries("/c", 14, 9)));
        assert_eq!(choose(found, Some(13)), Err(Some("PostgreSQL 16, PostgreSQL 14".to_owned())));
    }

    #[test]
    fn versions_before_the_oldest_supported_do_not_count() {
        assert_eq!(choose(vec![binaries("/a", 12, 20)], None), Err(None));
    }
}
