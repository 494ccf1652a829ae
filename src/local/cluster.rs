//! The cluster itself: how it is created, and the settings it runs with.
//!
//! `initdb` takes a second and can be killed in it, so it works in a directory with a name of its own beside the final
//! one. Only a complete, synced cluster gets the final name. A name of its own each time, because the `initdb` of a
//! killed daemon may still be writing when the next daemon starts.
//!
//! Settings come in two kinds. What musterd's promises rest on (durability, no TCP, where the socket is) is passed on
//! the command line, which nothing overrides. The rest are defaults written once into `postgresql.conf`, where an
//! operator may change them.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    account::{self, Account},
    binaries::Binaries,
    error::{Context, Error},
    layout::{self, Layout},
    log,
    options::{Durability, NAME},
};

/// `initdb` takes about a second; on a slow disk its final sync takes longer.
const INITDB_BOUND: Duration = Duration::from_secs(120);

/// What clusters in the making are called, before a random part.
const NEW_PREFIX: &str = "postgres.new-";

/// Defaults that an operator may change. `max_connections` is several times what one daemon's pool takes. The rest
/// serves a small database with many updates of the same rows: vacuum comes often and in small portions, and no
/// statement is worth compiling.
const DEFAULTS: &str = "
# Defaults of musterd, written once; change them here or with ALTER SYSTEM.
max_connections = 64
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
jit = off
autovacuum_naptime = 10s
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_cost_limit = 1000
";

/// Settings on which promises rest; the command line overrides everything else.
const FULL: [&str; 4] = ["fsync=on", "full_page_writes=on", "synchronous_commit=on", "zero_damaged_pages=off"];

/// Settings for tests, where the cluster is thrown away. A commit still reaches the operating system before it is
/// acknowledged, so that tests may kill processes. Many tests connect at once.
const FAST: [&str; 7] = [
    "fsync=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "shared_buffers=64MB",
    "max_connections=300",
    "max_wal_size=256MB",
];

/// The major version that made the cluster; `None` if there is no cluster yet.
///
/// # Errors
///
/// [`Error::NotACluster`] if there is something else.
pub(super) fn made_by(cluster: &Path) -> Result<Option<u32>, Error> {
    let path = cluster.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => match parse_major(&text) {
            Some(major) => Ok(Some(major)),
            None => Err(Error::NotACluster { path: cluster.to_path_buf() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_dir(cluster).map(Iterator::count) {
            // Nothing there, or an empty directory, which the rename replaces.
            Ok(0) | Err(_) => Ok(None),
            Ok(_) => Err(Error::NotACluster { path: cluster.to_path_buf() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(Error::NotACluster { path: cluster.to_path_buf() })
        }
        Err(source) => Err(Error::Io { action: "read", path, source }),
    }
}

/// The first number of `PG_VERSION`: `15`, or `9.6` before version 10.
fn parse_major(text: &str) -> Option<u32> {
    text.trim().split('.').next()?.parse().ok()
}

/// The cluster of a data directory: the one of an upgrade that was interrupted before its last rename, if that is all there
/// is.
pub(super) fn present(data_dir: &Path) -> PathBuf {
    let (cluster, upgraded) = (layout::cluster_in(data_dir), layout::upgraded_in(data_dir));
    if !cluster.exists() && upgraded.exists() { upgraded } else { cluster }
}

/// Gives the cluster of an interrupted upgrade its final name, if it is the only one.
pub(super) fn complete_upgrade(layout: &Layout) -> Result<(), Error> {
    let (cluster, upgraded) = (layout.cluster(), layout.upgraded());
    if present(layout.root()) == upgraded {
        fs::rename(&upgraded, &cluster).context("rename the upgraded cluster to", &cluster)?;
        sync(layout)?;
        tracing::info!(data_dir = %layout.root().display(), "interrupted upgrade of the private postgresql completed");
    }
    Ok(())
}

pub(super) fn sync(layout: &Layout) -> Result<(), Error> {
    File::open(layout.root()).and_then(|dir| dir.sync_all()).context("sync", layout.root())
}

/// Creates the cluster.
pub(super) async fn create(
    layout: &Layout,
    binaries: &Binaries,
    account: Option<&Account>,
    durability: Durability,
) -> Result<(), Error> {
    sweep(layout);
    let new = make(layout, binaries, account, durability).await?;
    let cluster = layout.cluster();
    fs::rename(new.path(), &cluster).context("rename the new cluster to", &cluster)?;
    sync(layout)
}

/// Makes a cluster beside the final one.
pub(super) async fn make(
    layout: &Layout,
    binaries: &Binaries,
    account: Option<&Account>,
    durability: Durability,
) -> Result<Unfinished, Error> {
    let new = Unfinished(layout.root().join(format!("{NEW_PREFIX}{}", uuid::Uuid::new_v4().simple())));
    layout.private_dir(&new.0, account)?;
    let initdb = binaries.initdb();
    let mut command = account::command(initdb.as_os_str(), account, &new.0);
    command.arg("-D").arg(&new.0).args(["-U", NAME, "-E", "UTF8", "--locale=C"]);
    command.args(["--auth-local=trust", "--auth-host=reject"]);
    command.arg(if durability == Durability::Fast { "--no-sync" } else { "--data-checksums" });
    let output = tokio::time::timeout(INITDB_BOUND, command.kill_on_drop(true).output())
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .context("run", &initdb)?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(Error::Initdb { status: output.status.to_string(), output: log::one_line(&said) });
    }
    append_defaults(&new.0.join("postgresql.conf"))?;
    Ok(new)
}

/// A directory that is removed unless it has been renamed.
#[derive(Debug)]
pub(super) struct Unfinished(PathBuf);

impl Unfinished {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Best effort: what stays is swept at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn append_defaults(path: &Path) -> Result<(), Error> {
    let mut file = OpenOptions::new().append(true).open(path).context("open", path)?;
    file.write_all(DEFAULTS.as_bytes()).and_then(|()| file.sync_all()).context("write", path)
}

/// What killed creations and upgrades left.
pub(super) fn unfinished(layout: &Layout) -> Vec<PathBuf> {
    let entries = fs::read_dir(layout.root()).into_iter().flatten().flatten();
    let is_unfinished = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(NEW_PREFIX.as_bytes());
    entries.filter(is_unfinished).map(|entry| entry.path()).collect()
}

/// Removes what killed creations left. Best effort: it only takes up room.
pub(super) fn sweep(layout: &Layout) {
    for path in unfinished(layout) {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "unfinished cluster not removed");
        }
    }
}

/// The server's command line after its name.
pub(super) fn arguments(cluster: &Path, socket_dir: &Path, durability: Durability) -> Vec<OsString> {
    // The list of directories is split at commas unless quoted; a quote inside is doubled.
    let mut sockets = b"unix_socket_directories=\"".to_vec();
    for byte in socket_dir.as_os_str().as_bytes() {
        sockets.extend(std::iter::repeat_n(byte, if *byte == b'"' { 2 } else { 1 }));
    }
    sockets.push(b'"');
    let sockets = OsString::from_vec(sockets);
    let always = ["listen_addresses=", "port=5432", "unix_socket_permissions=0700", "logging_collector=off"];
    let more: &[&str] = if durability == Durability::Fast { &FAST } else { &FULL };
    let settings = always.iter().chain(["log_destination=stderr"].iter()).chain(more).map(OsString::from);
    let settings = settings.chain([sockets]).flat_map(|setting| ["-c".into(), setting]);
    ["-D".into(), cluster.as_os_str().to_owned()].into_iter().chain(settings).collect()
}

#[cfg(test)]
mod tests {
    use super::parse_major;

    #[test]
    fn the_major_version_is_the_first_number() {
        assert_eq!(parse_major("15\n"), Some(15));
        assert_eq!(parse_major("9.6\n"), Some(9));
        assert_eq!(parse_major("\n"), None);
    }
}
