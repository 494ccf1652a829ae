//! The user that runs PostgreSQL, and the processes run as that user.
//!
//! PostgreSQL refuses to run as root, and containers and fresh machines run things as root. So a daemon that is root
//! gives every PostgreSQL process to another user; any other daemon runs them as itself. The user must be able to
//! enter the data directory, and whether it can is asked of the system (by entering it as that user), not computed
//! from mode bits: access lists and mount options count too.

use std::{
    ffi::OsStr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{Gid, Uid, User, geteuid};
use tokio::process::Command;

use super::error::{Context, Error};

/// Users that run PostgreSQL for a root daemon when nothing else is configured, best first.
const DEFAULT_USERS: [&str; 2] = ["postgres", "nobody"];

/// A user other than the daemon's own.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

/// Chooses the user that runs PostgreSQL; `None` is the daemon's own.
///
/// An existing cluster is run by its owner: PostgreSQL would refuse anyone else.
pub(super) fn choose(configured: Option<&str>, cluster: &Path) -> Result<Option<Account>, Error> {
    let owner = cluster.metadata().ok();
    let account = match configured {
        Some(name) => named(name)?,
        None if !geteuid().is_root() => None,
        None => match owner.as_ref().map(MetadataExt::uid).filter(|uid| *uid != 0) {
            Some(uid) => Some(of_owner(uid, owner.as_ref().map_or(uid, MetadataExt::gid))),
            None => Some(default_user()?),
        },
    };
    let wanted = account.as_ref().map_or_else(|| geteuid().as_raw(), |a| a.uid.as_raw());
    match owner {
        Some(owner) if owner.uid() != wanted => {
            Err(Error::Owner { path: cluster.to_path_buf(), owner: owner.uid(), wanted })
        }
        _ => Ok(account),
    }
}

/// Looks up a configured user; `None` if that is who we are.
fn named(name: &str) -> Result<Option<Account>, Error> {
    let refuse = |why| Error::User { name: name.to_owned(), why };
    let user = User::from_name(name).ok().flatten().ok_or_else(|| refuse("there is no such user"))?;
    if user.uid.is_root() {
        return Err(refuse("PostgreSQL refuses to run as root"));
    }
    match geteuid() {
        me if me == user.uid => Ok(None),
        me if me.is_root() => Ok(Some(Account { name: user.name, uid: user.uid, gid: user.gid })),
        _ => Err(refuse("only root may run it as another user")),
    }
}

/// The owner of an existing cluster, who need not have a name on this machine.
fn of_owner(uid: u32, gid: u32) -> Account {
    let uid = Uid::from_raw(uid);
    match User::from_uid(uid).ok().flatten() {
        Some(user) => Account { name: user.name, uid, gid: user.gid },
        None => Account { name: uid.to_string(), uid, gid: Gid::from_raw(gid) },
    }
}

fn default_user() -> Result<Account, Error> {
    DEFAULT_USERS.iter().find_map(|name| named(name).ok().flatten()).ok_or_else(|| Error::User {
        name: DEFAULT_USERS.join(" or "),
        why: "there is no such user, and PostgreSQL refuses to run as root; create one or run musterd as an \
              ordinary user",
    })
}

/// A process of PostgreSQL: as its user, in its own process group, with nothing inherited that changes what it does.
///
/// Its own group, because Ctrl-C in a terminal signals the whole foreground group and would stop the database before
/// the daemon has flushed into it. `PG*` variables belong to the caller's own databases (`PGDATA`, `PGPORT`,
/// `PGOPTIONS`), and the C locale makes what the programs print the same everywhere.
pub(super) fn command(program: &OsStr, account: Option<&Account>, work_dir: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    // To the service manager only the daemon itself speaks.
    command.env_remove("NOTIFY_SOCKET");
    command.env("LC_ALL", "C").current_dir(work_dir).stdin(Stdio::null()).process_group(0);
    if let Some(account) = account {
        command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
    }
    command
}

/// Makes sure that the user can enter `dir`, or its nearest ancestor that exists.
///
/// # Errors
///
/// [`Error::Unreachable`] with the first directory on the way that is closed.
pub(super) async fn check_reachable(account: Option<&Account>, dir: &Path) -> Result<(), Error> {
    let Some(account) = account else { return Ok(()) };
    let Some(existing) = dir.ancestors().find(|path| path.exists()) else { return Ok(()) };
    if may_enter(account, existing).await? {
        return Ok(());
    }
    let mut on_the_way: Vec<PathBuf> = existing.ancestors().map(Path::to_path_buf).collect();
    on_the_way.reverse();
    for path in on_the_way {
        if !may_enter(account, &path).await? {
            return Err(Error::Unreachable { user: account.name.clone(), path });
        }
    }
    Err(Error::Unreachable { user: account.name.clone(), path: existing.to_path_buf() })
}

/// Whether the user can enter a directory.
pub(super) async fn may_enter(account: &Account, dir: &Path) -> Result<bool, Error> {
    let shell = Path::new("/bin/sh");
    let mut command = command(shell.as_os_str(), Some(account), Path::new("/"));
    command.args(["-c", "cd \"$1\"", "sh"]).arg(dir).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Ok(command.status().await.context("run", shell)?.success())
}
