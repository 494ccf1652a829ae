//! What can go wrong with a private PostgreSQL, each with the way out.
//!
//! These texts are read by someone whose daemon did not start, on one line of a terminal or a journal. So each says
//! what was found and what to do about it, and names the path, the user or the version it is about. Log lines of the
//! server are part of the text: no file has to be looked for first.

use std::{io, path::PathBuf};

use super::options::MAJOR_MIN;

/// Why a private PostgreSQL could not be created, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable server programs were found.
    #[error(
        "no PostgreSQL server programs (postgres and initdb, version {MAJOR_MIN} or later) in {searched}; install them \
         (Debian, Ubuntu: `apt-get install postgresql`; Fedora, RHEL: `dnf install postgresql-server`; \
         macOS: `brew install postgresql@17`) or name a database with --database-url"
    )]
    NoBinaries {
        /// Where they were searched.
        searched: String,
    },
    /// The cluster was made by a major version that is not installed.
    #[error(
        "{} holds a cluster of PostgreSQL {cluster}, but installed is {installed}; install PostgreSQL {cluster}, \
         move the data with `musterd local upgrade` if the installed version is newer, or choose another --data-dir",
        .path.display()
    )]
    OtherMajor {
        /// The cluster.
        path: PathBuf,
        /// Its major version.
        cluster: u32,
        /// The major versions that were found.
        installed: String,
    },
    /// Another daemon uses the data directory.
    #[error("the data directory {} is in use by another musterd (pid {pid}); stop it or choose another --data-dir",
            .path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Pid of the other daemon, or `unknown`.
        pid: String,
    },
    /// A server that we may not signal runs on the cluster.
    #[error("another PostgreSQL (pid {pid}) runs on {} and belongs to another user; stop it or choose another \
             --data-dir", .path.display())]
    Foreign {
        /// The cluster.
        path: PathBuf,
        /// Pid of the other server.
        pid: i32,
    },
    /// The orphan of a killed daemon does not stop.
    #[error("the PostgreSQL of a former musterd (pid {pid}) on {} does not stop; end it and start again",
            .path.display())]
    OrphanStays {
        /// The cluster.
        path: PathBuf,
        /// Pid of the orphan.
        pid: i32,
    },
    /// The place of the cluster is taken by something else.
    #[error("{} exists but is no PostgreSQL cluster; move it away or choose another --data-dir", .path.display())]
    NotACluster {
        /// What is there.
        path: PathBuf,
    },
    /// There is no cluster to upgrade.
    #[error("{} holds no private PostgreSQL; name the --data-dir of the daemon", .path.display())]
    NoCluster {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The programs to upgrade to are older than the cluster.
    #[error(
        "{} holds a cluster of PostgreSQL {cluster}, and the server programs found are of PostgreSQL {found}; \
         install a newer version, or name its directory with --postgres-bin-dir", .path.display()
    )]
    Older {
        /// The cluster.
        path: PathBuf,
        /// The major version that made it.
        cluster: u32,
        /// The major version of the programs.
        found: u32,
    },
    /// The programs that made the cluster are needed to read it.
    #[error(
        "{} holds a cluster of PostgreSQL {cluster}, whose server programs are not found; install PostgreSQL {cluster} \
         beside the new version, or name its directory with --old-postgres-bin-dir", .path.display()
    )]
    NoOldBinaries {
        /// The cluster.
        path: PathBuf,
        /// The major version that made it.
        cluster: u32,
    },
    /// The cluster belongs to another user than the one that is to run it.
    #[error("{} belongs to user {owner}, but PostgreSQL would run as user {wanted}; run musterd as that user, \
             or `chown -R` the directory, or choose another --data-dir", .path.display())]
    Owner {
        /// The cluster.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// The user id that would run it.
        wanted: u32,
    },
    /// The user that is to run PostgreSQL cannot be had.
    #[error("cannot run PostgreSQL as user {name}: {why}")]
    User {
        /// The user's name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The user that runs PostgreSQL cannot get to the data directory.
    #[error(
        "musterd runs as root, so PostgreSQL runs as user {user}, which cannot enter {}; choose a --data-dir that \
         {user} can reach (for example /var/lib/musterd), or run musterd as an ordinary user", .path.display()
    )]
    Unreachable {
        /// The user.
        user: String,
        /// The first directory on the way that is closed to it.
        path: PathBuf,
    },
    /// The short directory for the socket is not safe to use.
    #[error("the socket directory {} is not ours alone: {why}; remove it or choose a shorter --data-dir",
            .path.display())]
    SocketDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// `initdb` failed; what it had made was removed.
    #[error("initdb failed ({status}): {output}")]
    Initdb {
        /// Its exit status.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// The server ended while it was starting.
    #[error("PostgreSQL did not start ({status}): {tail} (all of it in {})", .log.display())]
    Exited {
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server runs but does not accept connections.
    #[error("PostgreSQL accepts no connections after {seconds} s: {tail} (all of it in {})", .log.display())]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// The last lines of its log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server answered a statement of ours with an error.
    #[error("the private PostgreSQL refused to {action}")]
    Statement {
        /// What we were about to do.
        action: &'static str,
        /// Its answer.
        source: tokio_postgres::Error,
    },
    /// The server did not answer a statement of ours in time.
    #[error("the private PostgreSQL did not answer in time when asked to {action}")]
    Unanswered {
        /// What we were about to do.
        action: &'static str,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What we were about to do.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// Adds what was tried, and on what, to an I/O error.
pub(super) trait Context<T> {
    /// `action` reads as in "cannot {action} {path}".
    fn context(self, action: &'static str, path: &std::path::Path) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &std::path::Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { action, path: path.to_path_buf(), source })
    }
}
