//! The parent's side: starts the helper, feeds and reads the program, and ends it at a limit.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid},
};

use crate::{
    CONFINE, End, Job, Limits, Outcome, SandboxError,
    confine::{PROGRAM, Plan, WALLS},
    scratch::Scratch,
};

/// How often the program is stopped, and what it takes of the disk measured.
const LOOK: Duration = Duration::from_millis(25);
/// How often a program that is to stop is asked whether it has. It does so at once, or at the end of its system call.
const STOP: Duration = Duration::from_micros(100);
/// How long output may still come after the end: all of it is in the pipes by then.
const DRAIN: Duration = Duration::from_secs(1);
/// Less, and an interpreter does not start.
const LEAST_MEMORY: u64 = 64 << 20;

/// The program's process: killed and waited for, whatever happens to us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(helper: &Path, readable: &[PathBuf], job: &Job) -> Result<Outcome, SandboxError> {
    let Limits { time, memory_bytes, file_bytes, .. } = job.limits;
    if memory_bytes < LEAST_MEMORY {
        let wrong = format!("memory of a job: expected at least {LEAST_MEMORY} bytes, found {memory_bytes}");
        return Err(SandboxError::Job(wrong));
    }
    if job.argv.iter().any(|argument| argument.contains('\0')) {
        return Err(SandboxError::Job("an argument of a job: expected none with a zero byte".to_owned()));
    }
    let scratch = Scratch::new(&job.files)?;
    let plan = Plan {
        token: token()?,
        parent: std::process::id(),
        argv: job.argv.clone(),
        scratch: scratch.path().to_owned(),
        readable: readable.to_vec(),
        memory_bytes,
        processor_seconds: time.as_secs().saturating_add(2),
        file_bytes,
    };
    let argument = serde_json::to_string(&plan).map_err(|error| SandboxError::Job(format!("a job: {error}")))?;
    let started = Instant::now();
    let child = Command::new(helper)
        .args([CONFINE, &argument])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| SandboxError::NoWalls(format!("{}: {error}", helper.display())))?;
    let mut running = Running(child);
    let seen = watch(&mut running.0, job, &scratch, started)?;
    let _ = running.0.kill();
    let status = running.0.wait()?;
    let time = started.elapsed();
    if let Some(error) = helpers_message(&seen.stderr, &plan) {
        return Err(error);
    }
    if job.argv.is_empty() && seen.limit == Some(End::Disk) {
        let (helper, missing) =
            (helper.display(), "measuring what a program holds: expected to read a child's /proc/PID");
        return Err(SandboxError::NoWalls(format!("{missing}; needed: a helper that its user may read ({helper})")));
    }
    if job.argv.is_empty() && !status.success() {
        return Err(SandboxError::NoWalls(format!("{} ended with {status}", helper.display())));
    }
    let end = seen.limit.unwrap_or_else(|| end_of(status));
    Ok(Outcome { end, stdout: seen.stdout, stderr: seen.stderr, time })
}

/// What was seen of the program.
struct Seen {
    /// The limit that it met, as one of [`End`]'s.
    limit: Option<End>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Follows the program to its end, or to the limit that it met.
fn watch(child: &mut Child, job: &Job, scratch: &Scratch, started: Instant) -> Result<Seen, SandboxError> {
    let limits = job.limits;
    let pid = Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
    let mut stdin = child.stdin.take().map(OwnedFd::from).map(std::fs::File::from);
    let mut to_write: &[u8] = &job.stdin;
    let mut out = Stream::new(child.stdout.take().map(OwnedFd::from), limits.output_bytes)?;
    let mut err = Stream::new(child.stderr.take().map(OwnedFd::from), limits.output_bytes)?;
    if let Some(stdin) = &stdin {
        ioctl_fionbio(stdin, true).map_err(io::Error::from)?;
    }
    let deadline = started + limits.time;
    let mut gone_since: Option<Instant> = None;
    let mut next_look = started + LOOK;
    let mut is_stopping = false;
    let limit = loop {
        if to_write.is_empty() {
            stdin = None;
        }
        let now = Instant::now();
        let until = gone_since.map_or(deadline, |gone| gone + DRAIN);
        let look = match gone_since {
            Some(_) => LOOK,
            None if is_stopping => STOP,
            None => next_look.saturating_duration_since(now),
        };
        let wait = until.saturating_duration_since(now).min(look);
        if let Some(write) = poll_once(&ended, gone_since.is_none(), stdin.as_ref(), [&out, &err], wait)? {
            if write && let Some(pipe) = &mut stdin {
                match pipe.write(to_write) {
                    Ok(written) => to_write = &to_write[written..],
                    Err(error) if is_later(&error) => {}
                    // It reads no more.
                    Err(_) => to_write = &[],
                }
            }
            out.read()?;
            err.read()?;
        }
        if out.is_over || err.is_over {
            break Some(End::Output);
        }
        let now = Instant::now();
        if gone_since.is_none() {
            // Also true of one that died unreaped: it is a zombie until waited for.
            if is_ready(&ended)? {
                gone_since = Some(now);
            } else if now >= deadline {
                break Some(End::Time);
            }
        }
        if gone_since.is_some() {
            if scratch.is_over(limits, None)? {
                break Some(End::Disk);
            }
        } else if !is_stopping && now >= next_look {
            kill_process(pid, Signal::STOP).map_err(io::Error::from)?;
            is_stopping = true;
        } else if is_stopping && has_stopped(pid)? {
            if scratch.is_over(limits, Some(pid))? {
                break Some(End::Disk);
            }
            kill_process(pid, Signal::CONT).map_err(io::Error::from)?;
            is_stopping = false;
            next_look = Instant::now() + LOOK;
        }
        if gone_since.is_some_and(|gone| (out.pipe.is_none() && err.pipe.is_none()) || now >= gone + DRAIN) {
            break None;
        }
    };
    Ok(Seen { limit, stdout: out.bytes, stderr: err.bytes })
}

/// Waits until something happened: whether the program reads on, or nothing where the time passed.
fn poll_once(
    ended: &OwnedFd,
    is_running: bool,
    stdin: Option<&std::fs::File>,
    streams: [&Stream; 2],
    wait: Duration,
) -> io::Result<Option<bool>> {
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(4);
    if let Some(stdin) = stdin {
        fds.push(PollFd::new(stdin, PollFlags::OUT));
    }
    if is_running {
        fds.push(PollFd::new(ended, PollFlags::IN));
    }
    let open = streams.iter().filter_map(|stream| stream.pipe.as_ref());
    fds.extend(open.map(|pipe| PollFd::from_borrowed_fd(as_fd(pipe), PollFlags::IN)));
    let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&wait)) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(stdin.is_some() && !fds[0].revents().is_empty())),
        Err(error) if error == rustix::io::Errno::INTR => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn as_fd(file: &std::fs::File) -> BorrowedFd<'_> {
    file.as_fd()
}

fn is_ready(fd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error == rustix::io::Errno::INTR => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether it has stopped since this was last asked.
fn has_stopped(pid: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    match waitid(WaitId::Pid(pid), options) {
        Ok(status) => Ok(status.is_some()),
        Err(error) if error == rustix::io::Errno::INTR => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// One of the program's two outputs, read as it comes and no further than its limit.
struct Stream {
    pipe: Option<std::fs::File>,
    bytes: Vec<u8>,
    limit: usize,
    is_over: bool,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>, limit: usize) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe: pipe.map(Into::into), bytes: Vec::new(), limit, is_over: false })
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let room = self.limit - self.bytes.len();
                    self.bytes.extend_from_slice(&buffer[..count.min(room)]);
                    if count > room {
                        self.is_over = true;
                        return Ok(());
                    }
                }
                Err(error) if is_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A word that the program cannot guess.
fn token() -> Result<String, SandboxError> {
    let mut random = [0u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + ":")
}

/// What the helper said went wrong before there was a program.
fn helpers_message(stderr: &[u8], plan: &Plan) -> Option<SandboxError> {
    let text = String::from_utf8_lossy(stderr);
    let (what, message) = text.split_once(&plan.token)?.1.split_once(':')?;
    match what {
        WALLS => Some(SandboxError::NoWalls(message.to_owned())),
        PROGRAM => Some(SandboxError::NoProgram { program: plan.argv.first()?.clone(), reason: message.to_owned() }),
        _ => None,
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        // The limit on processor time, which the clock comes before but for a machine that stood still.
        (None, Some(libc::SIGXCPU)) => End::Time,
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}
