//! How much memory this process may use: the least of the machine's and of what its control groups (v2 or v1) allow.

use std::{fs, path::Path};

/// Where nothing can be read.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// The limit by the files below `root`, which is `/` but in tests.
#[must_use]
pub fn limit(root: &Path) -> u64 {
    let read = |path: &str| fs::read_to_string(root.join(path.trim_start_matches('/'))).ok();
    let machine = read("proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(1_024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
    });
    let groups = read("proc/self/cgroup").unwrap_or_default();
    // A container may see the path of its host, below which there is nothing: its own limit is at the root then.
    let mut files =
        vec!["sys/fs/cgroup/memory.max".to_owned(), "sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned()];
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // A limit of any group above applies as well.
        files.extend(Path::new(path).ancestors().map(|group| format!("{mount}{}/{file}", group.display())));
    }
    let limits = files.iter().filter_map(|file| read(file)?.trim().parse::<u64>().ok());
    limits.chain(machine).filter(|limit| *limit > 0).min().unwrap_or(UNKNOWN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit that these files say.
    fn by(files: &[(&str, &str)]) -> u64 {
        let root = std::env::temp_dir().join(format!("musterd-memory-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&root).unwrap();
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let limit = limit(&root);
        fs::remove_dir_all(root).unwrap();
        limit
    }

    #[test]
    fn least_limit_of_machine_and_control_groups_counts() {
        let machine = ("proc/meminfo", "MemTotal:       8192000 kB\nMemFree: 1 kB\n");
        assert_eq!(by(&[]), UNKNOWN_BYTES);
        assert_eq!(by(&[machine]), 8_192_000 * 1_024);
        let v2 = ("proc/self/cgroup", "0::/kubepods/pod1/c1\n");
        let unlimited = ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n");
        assert_eq!(by(&[machine, v2, unlimited]), 8_192_000 * 1_024);
        let of_pod = ("sys/fs/cgroup/kubepods/pod1/memory.max", "536870912\n");
        assert_eq!(by(&[machine, v2, unlimited, of_pod]), 536_870_912, "of a group above");
        assert_eq!(by(&[machine, v2, ("sys/fs/cgroup/memory.max", "1000000\n")]), 1_000_000, "within a container");
        let v1 = ("proc/self/cgroup", "5:cpu,memory:/docker/a\n");
        let of_v1 = ("sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", "2000000\n");
        assert_eq!(by(&[machine, v1, of_v1]), 2_000_000);
        assert_eq!(by(&[machine, v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000")]), 3_000_000);
    }
}
