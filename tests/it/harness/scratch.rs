//! Temporary directories with PostgreSQL servers in them, gone afterwards whatever happens.
//!
//! A test binary ends without a hook, and a test can be killed. So a small shell guards each directory: it reads from
//! a pipe whose other end only we hold. When we drop it, or end in any way, the read ends, and the guard stops the
//! servers in the directory and removes it. What even a guard could not remove (the machine went down) is swept by a
//! later run.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
};

use nix::{errno::Errno, sys::signal::kill, sys::statvfs::statvfs, unistd::Pid};

const PREFIX: &str = "musterd-test-";

/// Less room than this, and memory is no place for databases.
const SHM_BYTES_MIN: u64 = 2 << 30;

/// Stops every server at most one directory deep, then removes the directory.
const GUARD: &str = r#"
read -r _
for signal in INT QUIT KILL; do
    for file in "$1"/postgres/postmaster.pid "$1"/*/postgres/postmaster.pid; do
        [ -f "$file" ] && kill -s "$signal" "$(head -n 1 "$file")" 2>/dev/null
    done
    tries=0
    while [ "$tries" -lt 50 ]; do
        running=
        for file in "$1"/postgres/postmaster.pid "$1"/*/postgres/postmaster.pid; do
            [ -f "$file" ] && kill -0 "$(head -n 1 "$file")" 2>/dev/null && running=yes
        done
        [ -z "$running" ] && break 2
        tries=$((tries + 1))
        sleep 0.1
    done
done
# A file system of limited size may be mounted in it.
umount -l "$1/small" 2>/dev/null
rm -rf "$1"
"#;

/// A directory of a test, removed at its end.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Holds the other end of the guard's pipe.
    _guard: Child,
}

impl Scratch {
    /// Makes a directory on disk.
    pub(crate) fn on_disk() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Makes a directory in memory if there is room, else on disk.
    pub(crate) fn in_memory() -> Self {
        let shm = Path::new("/dev/shm");
        let free = statvfs(shm).map_or(0, |fs| fs.blocks_available() * fs.fragment_size());
        if free >= SHM_BYTES_MIN { Self::within(shm) } else { Self::on_disk() }
    }

    /// Makes a directory, `small` in it, on a file system of so many MiB of its own, until the directory goes. `None` where
    /// that is not allowed: it takes root.
    pub(crate) fn with_small(mebibytes: u32) -> Option<Self> {
        let scratch = Self::on_disk();
        let small = scratch.path.join("small");
        fs::create_dir(&small).unwrap();
        let size = format!("size={mebibytes}m,mode=0755");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&small).output().ok()?;
        mount.status.success().then_some(scratch)
    }

    fn within(parent: &Path) -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let path = parent.join(format!("{PREFIX}{}-{}", std::process::id(), &unique[..8]));
        fs::create_dir(&path).unwrap();
        // PostgreSQL runs as another user when the tests run as root.
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let guard = guard(&path);
        Self { path, _guard: guard }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn guard(path: &Path) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GUARD, "sh"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Its own group: Ctrl-C must not end it before it has cleaned up.
    command.current_dir("/").process_group(0).spawn().unwrap()
}

/// Guards what earlier runs left, so that it is cleaned up at once.
fn sweep() {
    for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
            if pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
                drop(guard(&entry.path()));
            }
        }
    }
}
