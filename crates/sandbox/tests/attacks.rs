//! Programs that try to get out, each with the wall that it met. They run in the Python that lies in the system.
//! System calls are tried by their numbers on x86-64.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{
    fs,
    io::Read,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::UnixDatagram,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use dots_sandbox::{End, Job, Limits, Outcome, Python, Sandbox, SandboxError};

const HELPER: &str = env!("CARGO_BIN_EXE_dots-sandbox");
const MIB: u64 = 1 << 20;

/// A system call by its number, in Python.
const CALL: &str = "def call(*arguments):\n    if ctypes.CDLL(None).syscall(*arguments) < 0: raise OSError";

fn python() -> Python {
    Python::new(Some(Path::new("/usr/bin/python3")), Some(Path::new(HELPER))).unwrap()
}

fn run_within(limits: Limits, program: &str) -> Outcome {
    python().run(program, b"", limits).unwrap()
}

fn run(program: &str) -> Outcome {
    run_within(Limits::default(), program)
}

fn out(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.stdout).trim().to_owned()
}

/// Runs lines of Python, each of which must raise an `OSError` (or what a refused thread raises), and checks that each did.
fn all_refused(before: &str, attempts: &[&str]) {
    let mut program = format!("import os, sys, socket, ctypes, signal, threading, fcntl, subprocess\n{before}\n");
    for attempt in attempts {
        program +=
            &format!("try:\n    {attempt}\n    print('DONE', {attempt:?})\nexcept (OSError, RuntimeError): pass\n");
    }
    let outcome = run(&(program + "print('end')"));
    assert_eq!(out(&outcome), "end", "{}", String::from_utf8_lossy(&outcome.stderr));
}

#[test]
fn an_honest_program_computes_reads_writes_and_says_so() {
    let program = "import sys, json, math, tempfile, os, random, re, asyncio, collections, decimal, fractions, itertools\n\
        async def later():\n    await asyncio.sleep(0.01); return 5\n\
        with tempfile.TemporaryDirectory() as folder:\n    \
            open(os.path.join(folder, 'a'), 'w').write('x'); os.mkdir('b'); os.rename('b', 'c'); os.symlink('c', 'd')\n    \
            assert os.listdir(folder) == ['a']\n\
        print(int(sys.stdin.read()) + asyncio.run(later()), sorted(os.listdir('.')))\nsys.exit(3)";
    let outcome = python().run(program, b"37", Limits::default()).unwrap();
    assert_eq!(out(&outcome), "42 ['c', 'd', 'program.py']", "{}", String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(outcome.end, End::Exit(3));
}

#[test]
fn the_network_cannot_be_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("datagrams");
    let datagrams = UnixDatagram::bind(&path).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    all_refused(
        &format!("path = {path:?}\n{CALL}"),
        &[
            &format!("socket.create_connection(('127.0.0.1', {port}), 1)"),
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
            "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
            "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
            "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', path)",
            "socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)[0].sendto(b'x', path)",
            // io_uring opens sockets without the call.
            "call(425, 8, ctypes.create_string_buffer(120))",
        ],
    );
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody came");
    assert!(datagrams.recv(&mut [0; 8]).is_err(), "nothing came");
}

#[test]
fn there_is_never_a_second_process_or_thread() {
    all_refused(
        CALL,
        &[
            "os.fork()",
            "subprocess.run(['/bin/true'])",
            "os.posix_spawn('/bin/true', ['true'], {})",
            "os.system('true') == 0 or call(-1)",
            "threading.Thread(target=print).start()",
            "call(57)",                   // fork
            "call(58)",                   // vfork
            "call(56, 0x11, 0, 0, 0, 0)", // clone
            "call(435, 0, 0)",            // clone3
            "call(0x40000039)",           // fork of the x32 interface
        ],
    );
    let short = Limits { time: Duration::from_millis(500), ..Limits::default() };
    let outcome = run_within(short, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass");
    assert_eq!(outcome.end, End::Time);
}

#[test]
fn memory_has_an_end() {
    let limits = Limits { memory_bytes: 128 * MIB, ..Limits::default() };
    let outcome = run_within(limits, "kept = []\nwhile True: kept.append(bytearray(1 << 20))");
    assert_eq!(outcome.end, End::Exit(1));
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("MemoryError"));
    let outcome = run_within(limits, "kept = bytearray(60 << 20)\nprint(len(kept) >> 20)");
    assert_eq!(out(&outcome), "60", "what is below the limit can be had");
    all_refused(
        &format!("import mmap\n{CALL}"),
        &[
            "os.memfd_create('x')",
            "call(29, 0, 1 << 20, 0o1666)", // shmget
            "mmap.mmap(-1, 1 << 40)",
            "open('/dev/shm/x', 'w')",
        ],
    );
}

#[test]
fn limits_are_not_raised_by_who_they_hold() {
    let outcome = run("import resource\n\
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):\n    \
            soft, hard = resource.getrlimit(limit)\n    assert 0 < soft == hard, (limit, soft, hard)\n    \
            try: resource.setrlimit(limit, (hard + 1, hard + 1)); print('raised', limit)\n    \
            except (ValueError, OSError): pass\nprint('end')");
    assert_eq!(out(&outcome), "end", "{}", String::from_utf8_lossy(&outcome.stderr));
}

#[test]
fn time_has_an_end_whatever_the_program_does_with_signals() {
    for program in [
        "while True: pass",
        "import time; time.sleep(1000)",
        "import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\nwhile True: pass",
        "import os, signal\nwhile True: os.kill(os.getpid(), signal.SIGSTOP)",
        "import sys; sys.stdin.read(); import os; os.close(1); os.close(2)\nwhile True: pass",
    ] {
        let limits = Limits { time: Duration::from_millis(700), ..Limits::default() };
        let started = Instant::now();
        assert_eq!(run_within(limits, program).end, End::Time, "{program}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn output_has_an_end() {
    for stream in ["stdout", "stderr"] {
        let limits = Limits { output_bytes: 10_000, ..Limits::default() };
        let outcome = run_within(limits, &format!("import sys\nwhile True: sys.{stream}.write('x' * 1000)"));
        assert_eq!(outcome.end, End::Output);
        assert_eq!(outcome.stdout.len() + outcome.stderr.len(), 10_000, "the first of it is kept");
    }
    let exact = Limits { output_bytes: 4, ..Limits::default() };
    assert_eq!(run_within(exact, "print('abc')").end, End::Exit(0));
}

#[test]
fn a_program_that_reads_nothing_does_not_hold_its_parent() {
    let outcome = python().run("print('here')", &vec![b'x'; 8 << 20], Limits::default()).unwrap();
    assert_eq!((out(&outcome).as_str(), outcome.end), ("here", End::Exit(0)));
    let read =
        python().run("import sys; print(len(sys.stdin.read()))", &vec![b'x'; 8 << 20], Limits::default()).unwrap();
    assert_eq!(out(&read), (8 << 20).to_string());
}

#[test]
fn files_have_an_end_in_size_and_number() {
    let one = Limits { file_bytes: MIB, ..Limits::default() };
    let outcome = run_within(
        one,
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nopen('a', 'wb').write(bytes(2 << 20))",
    );
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("File too large"));
    let all = Limits { disk_bytes: 8 * MIB, ..Limits::default() };
    let program =
        "import time\nfor i in range(1000000):\n    open(str(i), 'wb').write(bytes(1 << 20)); time.sleep(0.01)";
    assert_eq!(run_within(all, program).end, End::Disk);
    let program = "import os, time\nfor i in range(100000000): os.mkdir('d'); os.chdir('d')\ntime.sleep(100)";
    assert_eq!(run(program).end, End::Disk, "deep folders are counted too");
    all_refused("", &["[open(f'many{i}', 'w') for i in range(10)] and [os.dup(1) for _ in range(100)]"]);
}

#[test]
fn what_is_hidden_on_disk_is_counted_and_taken_away() {
    // Five files as large as one may be are more than all may be.
    let before = "import os, ctypes, time\n\
        def map_page(file, protection, flags):\n    \
            mmap = ctypes.CDLL(None).mmap; mmap.restype = ctypes.c_void_p\n    \
            assert mmap(None, ctypes.c_long(4096), protection, flags, file.fileno(), ctypes.c_long(0)) < 1 << 63\n\
        def fill(file):\n    for _ in range(16): file.write(bytes(1 << 20))\n    file.flush(); return file\n\
        def write():\n    for i in range(5): fill(open(str(i), 'wb'))\n\
        kept = []\n";
    let shared = tempfile::tempdir().unwrap();
    let helper = helper_for_all(shared.path());
    for hide in [
        // Below a folder that its owner may not list.
        "os.mkdir('h', 0o300); os.chdir('h'); write()",
        // Below a path that is longer than a path may be.
        "for _ in range(17): os.mkdir('x' * 255); os.chdir('x' * 255)\nwrite()",
        // In files that have no name, or never had one.
        "for _ in range(5): kept.append(fill(open('f', 'wb'))); os.remove('f')",
        "for _ in range(5): kept.append(fill(open(os.open('.', os.O_TMPFILE | os.O_RDWR), 'wb')))",
        // Nor a descriptor: mapped by a page each, private and to be read, or shared and to be written.
        "for _ in range(5):\n    \
            with open('f', 'w+b') as file: map_page(fill(file), 1, 2)\n    os.remove('f')",
        "for _ in range(5):\n    \
            with open('f', 'w+b') as file: map_page(fill(file), 3, 1)\n    os.remove('f')",
        // Held by a program whose file only root may read, and so only root may look at it.
        "path = os.open('sleep', os.O_CREAT | os.O_WRONLY, 0o111)\n\
            os.write(path, open('/usr/bin/sleep', 'rb').read()); os.close(path)\n\
            for _ in range(5): kept.append(fill(open('f', 'wb'))); os.remove('f'); os.set_inheritable(kept[-1].fileno(), True)\n\
            os.execv('./sleep', ['sleep', '100'])",
    ] {
        let program = format!("{before}{hide}\ntime.sleep(100)");
        for (user, group) in users() {
            let temporary = tempfile::tempdir().unwrap();
            chown(temporary.path(), Some(user), Some(group)).unwrap();
            let ran = Command::new(&helper)
                .args(["/usr/bin/python3", "-c", &program])
                .env("TMPDIR", temporary.path())
                .gid(group)
                .uid(user)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(said, "dots-sandbox: Disk\n", "user {user}: {hide}");
            assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing is left, user {user}: {hide}");
        }
    }
    all_refused(
        &format!("file = os.open('f', os.O_CREAT | os.O_RDWR)\n{CALL}"),
        // Space past a file's end, which counts for no limit on its size.
        &["os.posix_fallocate(file, 0, 4096)", "call(285, file, 1, ctypes.c_long(0), ctypes.c_long(1 << 30))"],
    );
}

/// A copy of the helper in this folder, where each user may run it.
fn helper_for_all(folder: &Path) -> PathBuf {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let helper = folder.join("helper");
    fs::copy(HELPER, &helper).unwrap();
    helper
}

/// User and group of who runs this test, and where that is root, of one who may list only what he has the right to.
fn users() -> Vec<(u32, u32)> {
    const NOBODY: (u32, u32) = (65534, 65534);
    let me = fs::metadata("/proc/self").unwrap();
    let me = (me.uid(), me.gid());
    if me.0 == 0 { vec![me, NOBODY] } else { vec![me] }
}

#[test]
fn a_removed_file_within_the_limits_can_be_used_on() {
    let outcome = run("import mmap, os, tempfile, time\n\
        with tempfile.TemporaryFile() as file, tempfile.NamedTemporaryFile() as named:\n    \
            file.write(b'x' * 4096); file.flush(); named.write(b'y'); mapped = mmap.mmap(file.fileno(), 4096)\n    \
            os.mkdir('d'); os.chdir('d'); os.rmdir('../d'); started = time.monotonic(); time.sleep(0.3)\n    \
            print(mapped[:2], time.monotonic() - started < 1)");
    assert_eq!(out(&outcome), "b'xx' True", "{}", String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(outcome.end, End::Exit(0));
}

#[test]
fn the_rest_of_the_disk_is_not_written() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "precious").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
    all_refused(
        &format!(
            "home = {:?}; file = home + '/file'; os.symlink(file, 'link'); os.symlink(home, 'folder')",
            home.path()
        ),
        &[
            "open(file, 'w')",
            "open(file, 'a')",
            "open('link', 'w')",
            "open('folder/new', 'w')",
            "os.open(file, os.O_RDONLY | os.O_TRUNC)",
            "os.truncate(file, 0)",
            "os.remove(file)",
            "os.rename(file, 'mine')",
            "os.rename('program.py', home + '/theirs')",
            "os.link(file, 'hard')",
            "os.mkdir(home + '/new')",
            "os.chmod(file, 0)",
            "os.chmod(home, 0)",
            "os.utime(file, (0, 0))",
            "os.chown(file, 1, 1)",
            "os.setxattr(file, 'user.x', b'x')",
            "os.mkfifo('pipe')",
            "open('/usr/x', 'w')",
            "open('/tmp/x', 'w')",
            "open('/dev/kmsg', 'w')",
            "open('/proc/self/oom_score_adj', 'w')",
            "os.chroot('.')",
        ],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn the_users_files_and_the_systems_secrets_are_not_read() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("key"), "secret").unwrap();
    all_refused(
        &format!("home = {:?}; os.symlink(home + '/key', 'link')", home.path()),
        &[
            "open(home + '/key').read()",
            "open('link').read()",
            "os.listdir(home)",
            "os.listdir('/')",
            "os.listdir('/root')",
            "os.listdir('/home')",
            "open('/etc/shadow').read()",
            "open('/etc/passwd').read()",
            "open('/proc/self/environ').read()",
            &format!("open('/proc/{}/environ').read()", std::process::id()),
            &format!("open('/proc/{}/mem').read()", std::process::id()),
            "os.listdir('/proc')",
            "open('/dev/mem')",
        ],
    );
}

#[test]
fn nothing_of_the_parent_is_inherited() {
    let program = "import os\n\
        def is_open(fd):\n    try: os.fstat(fd); return True\n    except OSError: return False\n\
        print(sorted(os.environ)); print([fd for fd in range(3, 64) if is_open(fd)])";
    let ran = Command::new("bash")
        .args(["-c", "exec 7</etc/shadow; exec \"$0\" /usr/bin/python3 -c \"$1\"", HELPER, program])
        .env("SECRET", "s3cret")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(!text.contains("SECRET") && text.contains("'HOME'"), "{text} {}", String::from_utf8_lossy(&ran.stderr));
    assert!(text.ends_with("[]\n"), "no file of a parent stays open: {text}");
}

#[test]
fn other_processes_are_out_of_reach() {
    let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
    let me = std::process::id();
    let them = victim.id();
    all_refused(
        &format!("me = {me}; them = {them}; r, w = os.pipe()\n{CALL}"),
        &[
            "os.kill(me, 9)",
            "os.kill(them, 9)",
            "os.kill(os.getppid(), 9)",
            "os.kill(0, 9)",
            "os.kill(-1, 9)",
            "os.killpg(os.getpgrp(), 9)",
            "call(200, them, 9)",             // tkill
            "call(234, them, them, 9)",       // tgkill
            "call(129, them, 9, 0)",          // rt_sigqueueinfo
            "call(434, them, 0)",             // pidfd_open
            "call(101, 16, them, 0, 0)",      // ptrace
            "call(310, them, 0, 0, 0, 0, 0)", // process_vm_readv
            "fcntl.fcntl(r, 8, them)",        // F_SETOWN
            "fcntl.fcntl(r, 10, 9)",          // F_SETSIG
            "os.setpriority(os.PRIO_PROCESS, them, 19)",
            "os.sched_setaffinity(them, {0})",
            "call(302, them, 7, 0, 0)", // prlimit64
            "os.setsid()",
        ],
    );
    assert!(victim.try_wait().unwrap().is_none(), "it lives");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let outcome = run("import os; os.kill(os.getpid(), 9)");
    assert_eq!(outcome.end, End::Signal(9), "itself it may kill");
}

#[test]
fn rights_do_not_come_back() {
    all_refused(
        CALL,
        &[
            "os.setuid(0) if os.getuid() else call(-1)",
            "call(272, 0x10000000)",    // unshare of a user namespace
            "call(308, 0, 0)",          // setns
            "call(165, 0, 0, 0, 0, 0)", // mount
            "call(155, 0, 0)",          // pivot_root
            "call(126, 0, 0)",          // capset
            "call(157, 1, 0, 0, 0, 0)", // prctl PR_SET_PDEATHSIG
            "call(157, 4, 1, 0, 0, 0)", // prctl PR_SET_DUMPABLE
            "call(317, 1, 0, 0)",       // seccomp
            "call(321, 0, 0, 0)",       // bpf
            "call(250, 0, 0, 0, 0, 0)", // keyctl
            "call(169, 0, 0, 0, 0)",    // reboot
            "call(175, 0, 0, 0)",       // init_module
        ],
    );
    // A program with the set-user bit runs as whoever started it: there is no new privilege.
    let outcome = run("import os; os.execv('/bin/su', ['su', '-c', 'id'])");
    assert!(!outcome.is_success());
}

#[test]
fn it_dies_with_its_parent() {
    // A parent that is killed cannot take the folder away.
    let temporary = tempfile::tempdir().unwrap();
    let mut parent = Command::new(HELPER)
        .args(["/usr/bin/python3", "-c", "import os\nwhile True: pass"])
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Past the helper: the walls stand and the program is Python.
    let child = until(|| children_of(parent.id()).into_iter().find(|child| child.name.starts_with("python3")));
    parent.kill().unwrap();
    parent.wait().unwrap();
    until(|| Process::of(child.id).is_none_or(|child| child.is_zombie).then_some(()));
}

/// What `/proc` says of a process.
struct Process {
    id: u32,
    parent: u32,
    name: String,
    is_zombie: bool,
}

impl Process {
    fn of(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let mut rest = rest.split(' ');
        let is_zombie = rest.next()? == "Z";
        Some(Self { id, parent: rest.next()?.parse().ok()?, name: name.to_owned(), is_zombie })
    }
}

fn children_of(parent: u32) -> Vec<Process> {
    let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(Process::of).filter(|process| process.parent == parent).collect()
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it never came");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nothing_is_left_of_a_job() {
    let programs = [
        "os.mkdir('d'); open('d/f', 'w')",
        "os.umask(0o777); os.mkdir('d'); os.mkdir('e'); open('f', 'w')",
        "for i in range(900): os.mkdir('d'); os.chdir('d')\nos._exit(0)",
        "os.symlink('/', 'root'); os.symlink('.', 'loop')\nwhile True: print('until it is killed')",
    ];
    thread::scope(|scope| {
        for program in programs {
            scope.spawn(move || {
                let outcome = run(&format!("import os; print(os.getpid(), os.getcwd(), flush=True)\n{program}"));
                let text = out(&outcome);
                let (pid, folder) = text.lines().next().and_then(|line| line.split_once(' ')).unwrap();
                assert!(!Path::new(&format!("/proc/{pid}")).exists(), "no process, and no zombie: {program}");
                assert!(!Path::new(folder).exists(), "no folder: {program}");
            });
        }
    });
    assert!(Path::new("/usr").exists());
}

#[test]
fn many_jobs_run_side_by_side_each_alone() {
    let python = python();
    thread::scope(|scope| {
        for worker in 0..4 {
            let python = &python;
            scope.spawn(move || {
                for job in 0..5 {
                    let program = format!(
                        "import os; assert os.listdir('.') == ['program.py']; open('x', 'w'); print({worker}, {job})"
                    );
                    let outcome = python.run(&program, b"", Limits::default()).unwrap();
                    assert_eq!(out(&outcome), format!("{worker} {job}"));
                }
            });
        }
    });
}

#[test]
fn a_message_of_the_helper_cannot_be_forged() {
    let outcome = run("import sys; sys.stderr.write('0' * 32 + ':walls:gone'); sys.exit(1)");
    assert_eq!(outcome.end, End::Exit(1));
}

#[test]
fn what_cannot_run_is_an_error_that_says_why() {
    let sandbox = Sandbox::new(Path::new(HELPER), &[]).unwrap();
    let run =
        |argv: &[&str]| sandbox.run(&Job { argv: argv.iter().map(|&a| a.to_owned()).collect(), ..Job::default() });
    let error = run(&["/usr/bin/no-such-program"]).unwrap_err();
    assert_eq!(error.to_string(), "/usr/bin/no-such-program: No such file or directory (os error 2)");
    let small = Limits { memory_bytes: MIB, ..Limits::default() };
    let job = Job { argv: vec!["/bin/true".to_owned()], limits: small, ..Job::default() };
    assert!(matches!(sandbox.run(&job), Err(SandboxError::Job(_))));
    let error = Python::new(Some(Path::new("/no/python")), None).unwrap_err();
    assert!(error.to_string().contains("/no/python"), "{error}");
    // A program that does not call `enter` is no helper.
    let error = Sandbox::new(Path::new("/bin/false"), &[]).unwrap_err();
    assert!(matches!(error, SandboxError::NoWalls(_)), "{error}");
}

#[test]
fn where_walls_are_refused_nothing_runs() {
    // A process that may not use Landlock, as in a container whose profile does not allow it: from inside of the sandbox.
    let helper = fs::canonicalize(HELPER).unwrap();
    let sandbox = Sandbox::new(Path::new(HELPER), std::slice::from_ref(&helper)).unwrap();
    let plan = r#"{"token":"t:","parent":PARENT,"argv":["/bin/echo","ran"],"scratch":"/usr","readable":[],"memory_bytes":100000000,"processor_seconds":1,"file_bytes":1}"#
        .replace("PARENT", &std::process::id().to_string());
    let argv = vec![helper.to_str().unwrap().to_owned(), "__sandbox".to_owned(), plan];
    let outcome = sandbox.run(&Job { argv, ..Job::default() }).unwrap();
    assert!(!outcome.is_success() && out(&outcome).is_empty());
    let error = String::from_utf8_lossy(&outcome.stderr);
    assert!(error.starts_with("t:walls:"), "{error}");
}

#[test]
fn where_what_a_program_holds_cannot_be_seen_nothing_runs() {
    let shared = tempfile::tempdir().unwrap();
    let helper = helper_for_all(shared.path());
    // The kernel shows a process to its user only if he may read the program.
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o111)).unwrap();
    let (user, group) = *users().last().unwrap();
    let ran = Command::new(&helper).args(["/bin/echo", "ran"]).gid(group).uid(user).stdin(Stdio::null()).output();
    let ran = ran.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(said.contains("measuring what a program holds") && ran.stdout.is_empty(), "{said}");
}

#[test]
fn what_a_program_says_is_read_to_its_last_byte() {
    let outcome = run("import sys; sys.stdout.write('x' * 900000); sys.stdout.flush(); import os; os._exit(0)");
    assert_eq!(outcome.stdout.len(), 900_000);
    let mut all = String::new();
    outcome.stdout.as_slice().read_to_string(&mut all).unwrap();
}
