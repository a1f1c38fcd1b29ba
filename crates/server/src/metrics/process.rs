//! What the process takes of the machine.

use std::{fs, time::SystemTime};

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::options::PlannedMemory;

/// Memory and files, as the system counts them; nothing where there is no `/proc`.
#[derive(Debug, Default)]
pub struct ProcessMetrics {
    resident: Gauge,
    by_kind: Family<[(&'static str, &'static str); 1], Gauge>,
    open_files: Gauge,
}

impl ProcessMetrics {
    /// In `registry`.
    pub fn register(registry: &mut Registry, memory: PlannedMemory) -> Self {
        let this = Self::default();
        let fixed = |value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value as i64);
            gauge
        };
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        registry.register("dots:weights_bytes", "Weights, mapped or in memory", fixed(memory.weights_bytes));
        registry.register("dots:cache_bytes", "Keys and values, taken at start", fixed(memory.cache_bytes));
        registry.register("dots:buffers_bytes", "All else that was taken at start", fixed(memory.buffers_bytes));
        registry.register("process_start_time_seconds", "When the server started, since 1970", fixed(started));
        registry.register("process_resident_memory_bytes", "Memory that is resident", this.resident.clone());
        registry.register(
            "dots:resident_memory_bytes",
            "Memory that is resident: file is mapped weights, anon is all that was taken",
            this.by_kind.clone(),
        );
        registry.register("process_open_fds", "Open files and sockets", this.open_files.clone());
        this
    }

    /// As the process is now.
    pub fn set(&self) {
        let Ok(status) = fs::read_to_string("/proc/self/status") else { return };
        for (kind, key) in [("anon", "RssAnon:"), ("file", "RssFile:"), ("shmem", "RssShmem:")] {
            if let Some(bytes) = kibibytes(&status, key) {
                self.by_kind.get_or_create(&[("kind", kind)]).set(bytes);
            }
        }
        if let Some(bytes) = kibibytes(&status, "VmRSS:") {
            self.resident.set(bytes);
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            self.open_files.set(files.count() as i64);
        }
    }
}

/// The bytes of a line `KEY   123 kB`.
fn kibibytes(status: &str, key: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_systems_status_are_bytes() {
        let status = "VmRSS:\t    1234 kB\nRssAnon:\t      10 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(1234 << 10));
        assert_eq!(kibibytes(status, "RssAnon:"), Some(10 << 10));
        assert_eq!(kibibytes(status, "Threads:"), None);
        assert_eq!(kibibytes(status, "RssFile:"), None);
    }
}
