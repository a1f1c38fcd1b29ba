//! The child's side: takes its own rights away, then becomes the program.

use std::{
    ffi::OsString,
    fmt::Display,
    fs, io,
    os::unix::process::{CommandExt, parent_id},
    path::{Path, PathBuf},
    process::{Command, exit},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::{
    process::{Resource, Rlimit, Signal, getpid, kill_process, set_parent_process_death_signal, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
};
use serde::{Deserialize, Serialize};

use crate::syscalls;

/// What the parent asks of the helper, as JSON in its one argument.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Begins a message of the helper on standard error; the program never sees it, so it cannot write one.
    pub token: String,
    /// The process that must not die before.
    pub parent: u32,
    pub argv: Vec<String>,
    pub scratch: PathBuf,
    pub readable: Vec<PathBuf>,
    pub memory_bytes: u64,
    pub processor_seconds: u64,
    pub file_bytes: u64,
}

/// The helper's messages: what went wrong before there was a program.
pub const WALLS: &str = "walls";
pub const PROGRAM: &str = "program";

/// What every program needs: read and run, never written.
const SYSTEM: [&str; 9] =
    ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/nix/store", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"];

/// Open files at most.
const OPEN_FILES: u64 = 64;
const STACK_BYTES: u64 = 8 << 20;

pub fn confine(plan: Option<OsString>) -> ! {
    let plan = plan.and_then(|plan| plan.into_string().ok()).and_then(|plan| serde_json::from_str(&plan).ok());
    let Some(plan) = plan else {
        eprintln!("this is for a parent to call, with a plan");
        exit(2)
    };
    let plan: Plan = plan;
    match raise_walls(&plan) {
        Ok(()) if plan.argv.is_empty() => {
            // Until the parent has looked at it once: that, too, is tried out.
            let stopped = kill_process(getpid(), Signal::STOP);
            exit(i32::from(stopped.is_err()))
        }
        Ok(()) => {}
        Err(missing) => fail(&plan, WALLS, missing),
    }
    let error = become_program(&plan);
    fail(&plan, PROGRAM, error)
}

fn fail(plan: &Plan, what: &str, message: impl Display) -> ! {
    eprint!("{}{what}:{message}", plan.token);
    exit(1)
}

fn raise_walls(plan: &Plan) -> Result<(), String> {
    let step = |what: &'static str| move |error: &dyn Display| format!("{what}: {error}");
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| step("dying with the parent")(&error))?;
    if parent_id() != plan.parent {
        return Err("its parent is gone".to_owned());
    }
    // Should memory run out all the same, the kernel takes this process first.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    close_inherited().map_err(|error| step("closing inherited files (/proc must be mounted)")(&error))?;
    std::env::set_current_dir(&plan.scratch).map_err(|error| step("entering its folder")(&error))?;
    set_no_new_privs(true).map_err(|error| step("giving up new privileges")(&error))?;
    // Root without capabilities is a user like others, and gets none back when it becomes another program.
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|error| step("giving up capabilities")(&error))?;
    for (resource, limit) in [
        (Resource::Cpu, plan.processor_seconds),
        (Resource::Fsize, plan.file_bytes),
        (Resource::Nofile, OPEN_FILES),
        (Resource::Stack, STACK_BYTES),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Sigpending, 64),
    ] {
        limit_to(resource, limit).map_err(|error| step("setting limits")(&error))?;
    }
    guard_files(plan)?;
    let filter = syscalls::filter(std::process::id()).map_err(|error| step("seccomp")(&error))?;
    seccompiler::apply_filter(&filter).map_err(|error| {
        format!("seccomp, which keeps it from the network and from other processes: {error}; needed: a kernel with CONFIG_SECCOMP_FILTER")
    })
}

fn limit_to(resource: Resource, limit: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?)
}

/// Rust's own files close when another program begins; what a shell or a library left open does not.
fn close_inherited() -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in open {
        // The listing's own is among them, closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// Leaves the file system readable where named, and writable in one folder.
fn guard_files(plan: &Plan) -> Result<(), String> {
    const NEEDED: &str = "Landlock, which keeps it from the user's files";
    const ENABLE: &str = "needed: Linux 6.2 or newer with CONFIG_SECURITY_LANDLOCK and `landlock` in the list that \
                          /sys/kernel/security/lsm shows (kernel argument lsm=), and a container whose seccomp profile \
                          allows landlock_create_ruleset";
    let missing = |error: &dyn Display| format!("{NEEDED}: {error}; {ENABLE}");
    // Without the third version a file could be cut to nothing.
    const ABI_NEEDED: ABI = ABI::V3;
    let all = AccessFs::from_all(ABI_NEEDED);
    let read = AccessFs::from_read(ABI_NEEDED);
    // Neither devices, sockets and pipes by name, nor files from elsewhere.
    let own = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)
        .map_err(|error| missing(&error))?
        // What newer kernels can guard as well; seccomp has these already.
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V4)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .map_err(|error| missing(&error))?;
    let system =
        SYSTEM.iter().map(Path::new).chain(plan.readable.iter().map(PathBuf::as_path)).map(|path| (path, read));
    let devices =
        [("/dev/null"), ("/dev/zero")].map(|path| (Path::new(path), AccessFs::ReadFile | AccessFs::WriteFile));
    for (path, access) in system.chain(devices).chain([(plan.scratch.as_path(), own)]) {
        // What is not there gives no right.
        let Ok(opened) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI_NEEDED) };
        rules = rules.add_rule(PathBeneath::new(opened, access)).map_err(|error| missing(&error))?;
    }
    let status = rules.restrict_self().map_err(|error| missing(&error))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(missing(&"not enforced"));
    }
    Ok(())
}

/// Returns only where it failed.
fn become_program(plan: &Plan) -> io::Error {
    let mut command = Command::new(&plan.argv[0]);
    command
        .args(&plan.argv[1..])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", &plan.scratch)
        .env("TMPDIR", &plan.scratch)
        .env("LANG", "C.UTF-8")
        // It has no second thread.
        .env("OMP_NUM_THREADS", "1")
        .env("OPENBLAS_NUM_THREADS", "1");
    // From the next line on this process, which may map more than the program is allowed, gets no new memory: what the last
    // step needs has to lie freed in its heap.
    drop(std::hint::black_box(vec![0u8; 64 << 10]));
    if let Err(error) = limit_to(Resource::As, plan.memory_bytes) {
        return error;
    }
    command.exec()
}
