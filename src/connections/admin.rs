//! The admin socket: gRPC for the user of the daemon and for root on this machine, without a credential.
//!
//! The kernel says which user is at the other end, so nothing that can be lost, expire or be misconfigured stands between an
//! operator on this machine and the daemon: with every token and the policy lost, this way is left. Other users get no
//! further than the mode of the file (0600), and one that does is refused by its user id.
//!
//! The file of a daemon that was killed stays behind and is replaced; a lock beside it tells it from that of a daemon that
//! runs. Nothing else than a socket is replaced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _},
        net::UnixStream as Probe,
    },
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll, ready},
};

use nix::{
    fcntl::OFlag,
    sys::stat::{Mode, fchmod},
    unistd::geteuid,
};
use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    sync::Semaphore,
};

use super::connection::Places;
use crate::{model::Origin, telemetry::Throttle};

/// Connections of the admin socket that are open at once. They take no places of other connections.
const CONNECTIONS_MAX: usize = 64;
/// Connections that wait for their accept.
const BACKLOG: u32 = 128;

/// Why there is no admin socket.
#[derive(Debug, Error)]
pub enum AdminSocketError {
    /// Another daemon serves it.
    #[error("--admin-socket: {} belongs to a daemon that runs; give this daemon another path", .0.display())]
    InUse(PathBuf),
    /// There is something else.
    #[error("--admin-socket: {} exists and is no socket; give another path, or remove it", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refuses.
    #[error("--admin-socket: cannot listen on {}: {cause}; give a path of at most 107 bytes in a directory that uid {uid} may write to, or none", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// The user of the daemon.
        uid: u32,
        /// What it says.
        cause: io::Error,
    },
}

impl AdminSocketError {
    fn refused(path: &Path, cause: impl Into<io::Error>) -> Self {
        Self::Refused { path: path.into(), uid: geteuid().as_raw(), cause: cause.into() }
    }
}

/// The socket, until dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held while the socket is served.
    _lock: File,
    places: Arc<Semaphore>,
    refusals: Throttle,
}

impl AdminSocket {
    /// Listens at `path`. Its directory is made if it is missing.
    ///
    /// # Errors
    /// [`AdminSocketError`].
    pub fn bind(path: &Path) -> Result<Self, AdminSocketError> {
        let refuse = |cause| AdminSocketError::refused(path, cause);
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(refuse)?;
        }
        let lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(AdminSocketError::NotASocket(path.into())),
            // Of another program, which takes no lock here.
            Ok(_) if Probe::connect(path).is_ok() => return Err(AdminSocketError::InUse(path.into())),
            Ok(_) => fs::remove_file(path).map_err(refuse)?,
            Err(_) => {}
        }
        let listener = listen(path).map_err(refuse)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(Self { listener, path: path.into(), _lock: lock, places, refusals: Throttle::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of a user that may use it.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(UnixStream, Places)>> {
        loop {
            let (stream, _) = ready!(self.listener.poll_accept(cx))?;
            let Some(place) = Arc::clone(&self.places).try_acquire_owned().ok() else { continue };
            let uid = stream.peer_cred()?.uid();
            if is_admitted(uid, geteuid().as_raw()) {
                return Poll::Ready(Ok((stream, Places::of_machine(place, Origin::from_hash(0)))));
            }
            if let Some(suppressed) = self.refusals.due() {
                tracing::warn!(uid, suppressed, "connection to the admin socket refused, it is of another user");
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // The lock is still held, so this is the file of this daemon. Best effort: a file that stays is replaced.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes the lock of the socket at `path`. In a directory that others may write to there can be anything under its name: a link
/// to a file that this would make, or a pipe that waits for a reader.
fn lock(path: &Path) -> Result<File, AdminSocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = options.open(name).map_err(|cause| AdminSocketError::refused(path, cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AdminSocketError::InUse(path.into())),
        Err(TryLockError::Error(cause)) => Err(AdminSocketError::refused(path, cause)),
    }
}

/// Listens at `path`, which is private from the moment it exists: it takes the mode of the socket, and a mode that is set by
/// its name could be set of another file.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// Whether a user is served by the daemon of another one.
const fn is_admitted(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn scratch() -> PathBuf {
        let directory = std::env::temp_dir().join(format!("musterd-admin-{}", uuid::Uuid::new_v4().simple()));
        directory.join("admin.sock")
    }

    #[tokio::test]
    async fn socket_of_a_dead_daemon_is_replaced_and_that_of_a_living_one_is_not() {
        let path = scratch();
        let mut first = AdminSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(AdminSocket::bind(&path), Err(AdminSocketError::InUse(_))));
        let _client = UnixStream::connect(&path).await.unwrap();
        poll_fn(|cx| first.poll_accept(cx)).await.unwrap();
        drop(first);
        assert!(!path.exists(), "a daemon that ends removes its socket");

        // As after a kill: the file is there, and no process listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(AdminSocket::bind(&path).unwrap());

        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminSocketError::InUse(_))), "another program listens");
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "kept").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminSocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn socket_is_private_from_the_moment_it_exists() {
        let path = scratch();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn links_and_pipes_of_others_at_the_paths_are_not_followed() {
        let path = scratch();
        let directory = path.parent().unwrap().to_owned();
        fs::create_dir_all(&directory).unwrap();
        let (beside, victim) = (directory.join("admin.sock.lock"), directory.join("victim"));
        symlink(&victim, &beside).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminSocketError::Refused { .. })));
        assert!(!victim.exists(), "a file was made where a link of another user points");
        fs::remove_file(&beside).unwrap();

        nix::unistd::mkfifo(&beside, Mode::S_IRWXU).unwrap();
        let (told, answer) = std::sync::mpsc::channel();
        let blocked = path.clone();
        std::thread::spawn(move || told.send(matches!(lock(&blocked), Err(AdminSocketError::Refused { .. }))));
        let answer = answer.recv_timeout(std::time::Duration::from_secs(20));
        assert_eq!(answer, Ok(true), "a pipe without a reader keeps the daemon from its start");
        fs::remove_file(&beside).unwrap();

        symlink(&victim, &path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminSocketError::NotASocket(_))));
        assert!(!victim.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn user_of_the_daemon_and_root_are_admitted_and_no_other() {
        for (uid, own, expected) in [(0, 0, true), (0, 7, true), (7, 7, true), (8, 7, false), (8, 0, false)] {
            assert_eq!(is_admitted(uid, own), expected, "{uid} at the daemon of {own}");
        }
    }
}
