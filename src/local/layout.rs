//! The data directory: its paths, its lock, its permissions, and where the socket goes.
//!
//! The directory belongs to the daemon. When PostgreSQL runs as another user, that user gets to pass through it (the
//! group's right to enter) and owns `postgres/` and `run/`; it cannot put anything beside them, so it cannot lead a
//! daemon that is root to a file of its choice.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use sha2::{Digest, Sha256};

use super::{
    account::{self, Account},
    error::{Context, Error},
    options::NAME,
};

/// The name of the server's socket in its directory. The port is only a part of this name.
const SOCKET_NAME: &str = ".s.PGSQL.5432";

/// The directory of the socket.
pub(super) const RUN: &str = "run";

/// Longest path of a socket, in bytes. `sun_path` holds 104 bytes on macOS and the BSDs (108 on Linux), one of them
/// the terminating NUL.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Where everything is.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Creates the data directory if it is missing and resolves its links: PostgreSQL resolves them too, and its
    /// working directory is how it is recognised.
    pub(super) fn create(data_dir: &Path) -> Result<Self, Error> {
        // Another user that runs the server must get through the parents that are created on the way.
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(data_dir).context("create the directory", data_dir)?;
        let root = fs::canonicalize(data_dir).context("resolve the directory", data_dir)?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn cluster(&self) -> PathBuf {
        cluster_in(&self.root)
    }

    pub(super) fn upgraded(&self) -> PathBuf {
        upgraded_in(&self.root)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    /// Lets the server's user pass through the data directory, if it cannot already.
    pub(super) async fn open_to(&self, account: Option<&Account>) -> Result<(), Error> {
        let Some(account) = account else { return Ok(()) };
        if account::may_enter(account, &self.root).await? {
            return Ok(());
        }
        let metadata = fs::metadata(&self.root).context("read", &self.root)?;
        if metadata.uid() == geteuid().as_raw() {
            lchown(&self.root, None, Some(account.gid.as_raw())).context("change the group of", &self.root)?;
            let mode = metadata.permissions().mode() | 0o010;
            fs::set_permissions(&self.root, Permissions::from_mode(mode)).context("change the mode of", &self.root)?;
        }
        account::check_reachable(Some(account), &self.root).await
    }

    /// Makes a directory of mode 0700 that belongs to the server's user.
    pub(super) fn private_dir(&self, dir: &Path, account: Option<&Account>) -> Result<(), Error> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).context("create the directory", dir)?;
        fs::set_permissions(dir, Permissions::from_mode(0o700)).context("change the mode of", dir)?;
        if let Some(account) = account {
            let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
            lchown(dir, Some(uid), Some(gid)).context("change the owner of", dir)?;
        }
        Ok(())
    }

    /// Makes the directory of a socket: `name`, or a short one elsewhere if its path would be too long.
    pub(super) fn socket_dir(&self, name: &str, account: Option<&Account>) -> Result<PathBuf, Error> {
        let dir = self.root.join(name);
        if fits_a_socket(&dir) {
            self.private_dir(&dir, account)?;
            return Ok(dir);
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        // Another user could not get into our runtime directory.
        let runtime = runtime.filter(|dir| account.is_none() && dir.is_absolute() && dir.is_dir());
        let of = if name == RUN { &self.root } else { &dir };
        let short = short_socket_dir(of, runtime.as_deref());
        let owner = account.map_or_else(geteuid, |account| account.uid);
        match DirBuilder::new().mode(0o700).create(&short) {
            Ok(()) => self.private_dir(&short, account)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                check_private(&short, owner.as_raw())?;
            }
            Err(source) => return Err(Error::Io { action: "create the directory", path: short, source }),
        }
        tracing::info!(socket_dir = %short.display(), data_dir = %self.root.display(),
            "data directory path too long for a socket, using a short directory");
        Ok(short)
    }
}

/// The cluster in a data directory.
pub(super) fn cluster_in(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// The cluster of a finished upgrade that has not yet got its final name.
pub(super) fn upgraded_in(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres.upgraded")
}

/// Removes the socket of a server that has ended, and the lock beside it.
///
/// The lock holds the former server's pid, which another process may have by now; PostgreSQL would refuse to start.
pub(super) fn remove_socket(socket_dir: &Path) -> Result<(), Error> {
    for name in [SOCKET_NAME.to_owned(), format!("{SOCKET_NAME}.lock")] {
        let path = socket_dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io { action: "remove", path, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The address of a database of the server behind `socket_dir`, as `tokio-postgres` and `psql` take it.
pub(super) fn url(socket_dir: &Path, database: &str) -> String {
    let encode = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut url, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => url.push(char::from(*byte)),
                _ => url.push_str(&format!("%{byte:02X}")),
            }
            url
        })
    };
    format!("postgresql://{NAME}@{}:5432/{}", encode(socket_dir.as_os_str().as_bytes()), encode(database.as_bytes()))
}

fn fits_a_socket(dir: &Path) -> bool {
    dir.as_os_str().len() + 1 + SOCKET_NAME.len() <= SOCKET_PATH_BYTES_MAX
}

/// A short directory for the socket of a data directory, always the same one.
fn short_socket_dir(root: &Path, runtime: Option<&Path>) -> PathBuf {
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let name = digest.iter().take(8).fold("musterd-".to_owned(), |name, byte| name + &format!("{byte:02x}"));
    let preferred = runtime.map(|runtime| runtime.join(&name)).filter(|dir| fits_a_socket(dir));
    preferred.unwrap_or_else(|| Path::new("/tmp").join(name))
}

/// Makes sure that a directory in a place open to all is what we would have made: its owner owns the socket.
fn check_private(dir: &Path, owner: u32) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(dir).context("read", dir)?;
    let refuse = |why| Err(Error::SocketDir { path: dir.to_path_buf(), why });
    match () {
        () if !metadata.is_dir() => refuse("it is no directory"),
        () if metadata.uid() != owner => refuse("it belongs to another user"),
        () if metadata.permissions().mode() & 0o077 != 0 => refuse("others may enter it"),
        () => Ok(()),
    }
}

/// The right to the data directory, held until dropped. The kernel drops it when the daemon ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its effect: dropping it unlocks")] Flock<File>);

impl Lock {
    pub(super) fn acquire(layout: &Layout) -> Result<Self, Error> {
        let path = layout.root.join("musterd.lock");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match Flock::lock(file.context("open", &path)?, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0).context("write", &path)?;
                writeln!(&mut *lock, "{}", std::process::id()).context("write", &path)?;
                Ok(Self(lock))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // The pid is a courtesy: a holder that has not yet written it is a holder all the same.
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim();
                let pid = if pid.is_empty() { "unknown".to_owned() } else { pid.to_owned() };
                Err(Error::InUse { path: layout.root.clone(), pid })
            }
            Err((_, errno)) => Err(Error::Io { action: "lock", path, source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{fits_a_socket, short_socket_dir, url};

    #[test]
    fn a_socket_path_is_at_most_103_bytes() {
        // 103 bytes less the separator and the 13 bytes of the name.
        assert!(fits_a_socket(Path::new(&format!("/{}", "x".repeat(88)))));
        assert!(!fits_a_socket(Path::new(&format!("/{}", "x".repeat(89)))));
    }

    #[test]
    fn the_short_directory_is_short_and_depends_on_the_data_directory_only() {
        let (one, other) = (Path::new("/data/one"), Path::new("/data/other"));
        assert_eq!(short_socket_dir(one, None), short_socket_dir(one, None));
        assert_ne!(short_socket_dir(one, None), short_socket_dir(other, None));
        assert!(short_socket_dir(one, Some(Path::new("/run/user/1000"))).starts_with("/run/user/1000"));
        let long = "/x".repeat(60);
        assert!(fits_a_socket(&short_socket_dir(one, Some(Path::new(&long)))));
    }

    #[test]
    fn the_url_of_any_path_can_be_parsed() {
        let url = url(Path::new("/data dir/ü,'\"%/run"), "t_1");
        let config: tokio_postgres::Config = url.parse().unwrap();
        let host = tokio_postgres::config::Host::Unix("/data dir/ü,'\"%/run".into());
        assert_eq!(config.get_hosts(), [host]);
        assert_eq!((config.get_user(), config.get_dbname()), (Some("musterd"), Some("t_1")));
    }
}
