//! What memory this machine has, as far as it says.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The memory that this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// What is not taken, page cache counted as free.
    pub available_bytes: u64,
}

/// The machine's memory, or its control group's where that is less; `None` where the system does not say.
pub fn of_this_machine() -> Option<Memory> {
    under(Path::new("/"))
}

/// As [`of_this_machine`], with the system's files below `root`.
fn under(root: &Path) -> Option<Memory> {
    let machine = meminfo(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    Some(limits(root, &groups).into_iter().fold(machine, |least, limit| Memory {
        total_bytes: least.total_bytes.min(limit.total_bytes),
        available_bytes: least.available_bytes.min(limit.available_bytes),
    }))
}

fn meminfo(text: &str) -> Option<Memory> {
    let kib = |field: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total_bytes: kib("MemTotal")?, available_bytes: kib("MemAvailable")? })
}

/// The limits of every control group that this process is in, and of those around them, in either version's files.
fn limits(root: &Path, groups: &str) -> Vec<Memory> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (mount, limit, usage) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        // In a container the path may be the host's, while the mount begins at the group: then the mount itself has it.
        let mount = root.join(mount);
        let mut folder: PathBuf = mount.join(path.trim_start_matches('/'));
        while folder.starts_with(&mount) {
            limits.extend(limit_of(&folder, limit, usage));
            if !folder.pop() {
                break;
            }
        }
    }
    limits
}

fn limit_of(folder: &Path, limit: &str, usage: &str) -> Option<Memory> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" is no number, and version 1 says "no limit" by a huge one, which the machine's own total undercuts.
    let total_bytes = number(limit)?;
    let used = number(usage).unwrap_or(0);
    // File pages are charged to the group that read them first, and given back when memory is short.
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let file_pages: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(key, _)| matches!(*key, "inactive_file" | "active_file"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum();
    Some(Memory { total_bytes, available_bytes: total_bytes.saturating_sub(used.saturating_sub(file_pages)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<Memory> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        under(root.path())
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    800 kB\n");

    #[test]
    fn without_groups_it_is_the_machines() {
        let memory = machine(&[MEMINFO]).unwrap();
        assert_eq!(memory, Memory { total_bytes: 1000 * 1024, available_bytes: 800 * 1024 });
        assert_eq!(machine(&[]), None);
    }

    #[test]
    fn a_second_version_group_limits_it_and_its_file_pages_count_as_free() {
        let memory = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/box/inner\n"),
            ("sys/fs/cgroup/box/memory.max", "500000\n"),
            ("sys/fs/cgroup/box/memory.current", "300000\n"),
            ("sys/fs/cgroup/box/memory.stat", "anon 1\ninactive_file 50000\nactive_file 50000\n"),
            ("sys/fs/cgroup/box/inner/memory.max", "max\n"),
        ]);
        assert_eq!(memory, Some(Memory { total_bytes: 500_000, available_bytes: 300_000 }));
    }

    #[test]
    fn a_first_version_group_limits_it_even_where_its_path_is_the_hosts() {
        let memory = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "5:devices:/\n4:memory:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
        ]);
        assert_eq!(memory, Some(Memory { total_bytes: 400_000, available_bytes: 300_000 }));
    }

    #[test]
    fn a_group_without_a_limit_changes_nothing() {
        let memory = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
        ]);
        assert_eq!(memory.unwrap().available_bytes, 800 * 1024);
    }
}
