//! `postmaster.pid`: who runs, or ran, on a cluster.
//!
//! PostgreSQL writes this file at its start and removes it at an orderly end. Left behind by a crash, it names a
//! process that is gone, or one that has nothing to do with it: pids are reused, in a container that is started again
//! almost certainly. So the pid alone proves nothing; a server is recognised by its program and its working directory,
//! which is always its cluster. Where that directory is hidden, the server's arguments have to name the cluster. What is
//! not proven is never signalled.
//!
//! The file is never removed here. It also names the shared memory of the crashed server, by which the next one finds
//! out that orphaned backends still write to the files.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt, lchown},
    },
    path::{Path, PathBuf},
};

use nix::{errno::Errno, sys::signal, unistd::Pid};

use super::error::{Context, Error};

/// Who is behind the pid in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// There is no file, or its process is gone.
    NoProcess,
    /// A PostgreSQL on this cluster.
    Server(Pid),
    /// A PostgreSQL of which it cannot be seen on which cluster it runs: of another user, or in a container without the right
    /// to look.
    Foreign(Pid),
    /// Another process that happens to have the pid.
    Stranger(Pid),
}

pub(super) fn path(cluster: &Path) -> PathBuf {
    cluster.join("postmaster.pid")
}

/// Finds out who is behind the file.
pub(super) fn holder(cluster: &Path) -> Result<Holder, Error> {
    let path = path(cluster);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::NoProcess),
        Err(source) => return Err(Error::Io { action: "read", path, source }),
    };
    let Some(pid) = parse_pid(&text) else { return Ok(Holder::NoProcess) };
    Ok(match signal::kill(pid, None) {
        Err(Errno::ESRCH) => Holder::NoProcess,
        Err(_) => match name_of(pid) {
            Some(name) if !is_postgres(&name) => Holder::Stranger(pid),
            _ => Holder::Foreign(pid),
        },
        Ok(()) if runs_on(pid, cluster) => Holder::Server(pid),
        Ok(()) if working_dir(pid).is_none() && is_live_postgres(pid) => Holder::Foreign(pid),
        Ok(()) => Holder::Stranger(pid),
    })
}

/// Whether this process is a PostgreSQL on the cluster. False for one that has ended and was not yet reaped.
pub(super) fn runs_on(pid: Pid, cluster: &Path) -> bool {
    let is_there = match working_dir(pid) {
        Some(dir) => dir == cluster,
        None => names(pid, cluster),
    };
    is_there && is_live_postgres(pid)
}

/// The working directory of a process. `None` if it is hidden: root in a container may not look into a process of another
/// user, and not every system has `/proc`. Empty if there is none: the process has ended.
fn working_dir(pid: Pid) -> Option<PathBuf> {
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(dir) => Some(dir),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => Path::new("/proc/self/cwd").exists().then(PathBuf::new),
    }
}

/// Whether the arguments of a process name the cluster, as ours do.
fn names(pid: Pid, cluster: &Path) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok().or_else(|| shown(pid, "command="));
    let (arguments, cluster) = (arguments.unwrap_or_default(), cluster.as_os_str().as_bytes());
    let ends =
        |at: usize| arguments.get(at + cluster.len()).is_none_or(|byte| byte.is_ascii_whitespace() || *byte == 0);
    arguments.windows(cluster.len().max(1)).enumerate().any(|(at, window)| window == cluster && ends(at))
}

fn is_live_postgres(pid: Pid) -> bool {
    !is_zombie(pid) && name_of(pid).is_some_and(|name| is_postgres(&name))
}

/// Whether the process has ended and waits to be reaped, where `/proc` tells.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
}

/// Puts our own pid into a file whose pid now belongs to a stranger.
///
/// PostgreSQL takes a living process of its own user for a running server and refuses to start, unless the process is
/// its parent. This leaves all its other checks in force, in particular that of the shared memory.
pub(super) fn disown(cluster: &Path) -> Result<(), Error> {
    let path = path(cluster);
    let text = fs::read_to_string(&path).context("read", &path)?;
    let owner = fs::metadata(&path).context("read", &path)?;
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    let new = path.with_extension("pid.new");
    fs::write(&new, format!("{}\n{rest}", std::process::id())).context("write", &new)?;
    fs::set_permissions(&new, owner.permissions()).context("write", &new)?;
    lchown(&new, Some(owner.uid()), Some(owner.gid())).context("change the owner of", &new)?;
    fs::rename(&new, &path).context("write", &path)
}

/// The pid in the first line; negative for a single-user server.
fn parse_pid(text: &str) -> Option<Pid> {
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    (pid.abs() > 1).then(|| Pid::from_raw(pid.abs()))
}

/// The name of a process's program, for which no permission is needed.
fn name_of(pid: Pid) -> Option<String> {
    if let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) {
        return Some(name);
    }
    shown(pid, "comm=").map(|name| String::from_utf8_lossy(&name).into_owned())
}

/// What `ps` shows of a process.
fn shown(pid: Pid, column: &str) -> Option<Vec<u8>> {
    let output = std::process::Command::new("ps").args(["-p", &pid.to_string(), "-o", column]).output().ok()?;
    output.status.success().then_some(output.stdout)
}

fn is_postgres(name: &str) -> bool {
    Path::new(name.trim()).file_name().is_some_and(|name| name == "postgres" || name == "postmaster")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read as _,
        path::Path,
        process::{Child, Command, Stdio},
    };

    use nix::unistd::Pid;

    use super::{Holder, holder, is_postgres, names, parse_pid, path, runs_on};

    fn pid_of(child: &Child) -> Pid {
        Pid::from_raw(child.id().try_into().unwrap())
    }

    #[test]
    fn process_that_only_works_in_the_cluster_is_a_stranger() {
        let cluster = std::env::temp_dir().join(format!("musterd-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&cluster).unwrap();
        let mut shell = Command::new("sleep").arg("60").current_dir(&cluster).spawn().unwrap();
        fs::write(path(&cluster), format!("{}\n{}\n", shell.id(), cluster.display())).unwrap();
        let found = (holder(&cluster).unwrap(), runs_on(pid_of(&shell), &cluster));
        shell.kill().unwrap();
        shell.wait().unwrap();
        fs::remove_dir_all(&cluster).unwrap();
        assert_eq!(found, (Holder::Stranger(pid_of(&shell)), false), "a signal would end it");
    }

    #[test]
    fn arguments_name_a_cluster_as_a_whole_path() {
        // It waits for a line that never comes. Once it speaks, its arguments can be read.
        let mut server = Command::new("sh")
            .args(["-c", "echo; read line", "-D", "/data/postgres"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        server.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = pid_of(&server);
        let found = ["/data/postgres", "/data/post", "/data", "/elsewhere"].map(|dir| names(pid, Path::new(dir)));
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(found, [true, false, false, false]);
    }

    #[test]
    fn the_pid_is_the_first_line() {
        let text = "12345\n/var/lib/musterd/postgres\n1700000000\n5432\n/run\n\n  1 2\nready   \n";
        assert_eq!(parse_pid(text), Some(Pid::from_raw(12345)));
        assert_eq!(parse_pid("-77\n/x\n"), Some(Pid::from_raw(77)));
    }

    #[test]
    fn nothing_that_could_signal_a_group_or_init_is_taken_for_a_pid() {
        for text in ["", "\n", "0\n", "1\n", "-1\n", "x\n", "99999999999\n"] {
            assert_eq!(parse_pid(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_server_is_known_by_its_name() {
        assert!(is_postgres("postgres\n"));
        assert!(is_postgres("/opt/homebrew/opt/postgresql@17/bin/postgres"));
        assert!(!is_postgres("sleep\n"));
    }
}
