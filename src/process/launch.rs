//! From options to a created process.
//!
//! All that can fail without a child is done first; what fails after it leaves no child behind.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Instant, SystemTime};

use super::check;
use super::command::Command;
use super::config::{ChildOptions, Config, Group};
use super::containment::{Contained, ContainmentLevel};
use super::gate::Gate;
use super::procfs;
use super::refused::Refused;
use super::stdio::{self, Stdio};
use super::target;
use crate::sys;
use crate::sys::spawn::{Child, Creator, Plan, Setup, Step};

/// A process that was just created, and our ends of what connects us to it.
pub(super) struct Launched {
    pub(super) child: Child,
    /// See [`Leader`](super::containment::Leader).
    pub(super) child_started: Option<u64>,
    pub(super) started: SystemTime,
    /// The same moment, for what is measured from it.
    pub(super) began: Instant,
    pub(super) contained: Contained,
    pub(super) gate: Gate,
    pub(super) stdin: Option<OwnedFd>,
    /// Ends of stdout and stderr for the user.
    pub(super) piped: [Option<OwnedFd>; 2],
    /// Ends of stdout and stderr that we read.
    pub(super) captured: [Option<OwnedFd>; 2],
}

/// `detached`: it shall outlive this program.
pub(super) fn launch(config: &Config, detached: bool, creator: Creator<'_>) -> Result<Launched, Refused> {
    check::at_start(config)
        .map_err(|problem| Refused::new("check the options", io::Error::new(io::ErrorKind::InvalidInput, problem)))?;
    let contained = Contained::prepare(config.child.group, config.child.containment, config.outlives(detached));
    match launch_contained(config, detached, creator, contained) {
        // EACCES, EBUSY: say less in the status rather than fail.
        Err(refused) if refused.of_cgroup => launch_contained(config, detached, creator, Contained::walk()),
        result => result,
    }
}

fn launch_contained(
    config: &Config,
    detached: bool,
    creator: Creator<'_>,
    contained: Contained,
) -> Result<Launched, Refused> {
    let gate = Gate::open(&config.ready, config.child.passed.is_empty())
        .map_err(|error| Refused::new(format!("prepare {:?}", config.ready), error))?;
    let mut ends = Ends::new(config)?;
    ends.add_passed(config, &gate);
    let mut variables = gate.variables();
    variables.extend(contained.variable().map_err(unread)?);
    let setup = setup(config, detached, &contained, ends.child.clone())?;
    let (started, began) = (SystemTime::now(), Instant::now());
    let child = create(config, setup, &variables, creator)?;
    let walked = contained.level() == ContainmentLevel::Walk;
    let child_started = walked.then(|| procfs::entry(child.pid)).flatten().map(|entry| entry.started);
    // Our copies of the child's ends are closed here: else we would never see the end of a pipe.
    let Ends { stdin, piped, captured, keep, .. } = ends;
    drop(keep);
    Ok(Launched { child, child_started, started, began, contained, gate: gate.started(), stdin, piped, captured })
}

/// The descriptors of the child and our ends of them.
#[derive(Default)]
struct Ends {
    child: Vec<(RawFd, i32)>,
    /// What `child` points to lives until the child has it.
    keep: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    piped: [Option<OwnedFd>; 2],
    captured: [Option<OwnedFd>; 2],
}

impl Ends {
    fn new(config: &Config) -> Result<Ends, Refused> {
        let mut ends = Ends::default();
        for (number, stream) in config.stdio().iter().enumerate() {
            ends.connect(number, stream)
                .map_err(|error| Refused::new(format!("open {}{}", stdio::NAMES[number], place(stream)), error))?;
        }
        Ok(ends)
    }

    fn connect(&mut self, number: usize, stream: &Stdio) -> io::Result<()> {
        match &stream.0 {
            stdio::Kind::Inherit => return Ok(()),
            stdio::Kind::Null => self.child.push((sys::fd::null()?.as_raw_fd(), number as i32)),
            stdio::Kind::Append(path) if number == 0 => self.give(number, File::open(path)?.into()),
            stdio::Kind::Append(path) => {
                self.give(number, File::options().append(true).create(true).open(path)?.into());
            }
            stdio::Kind::Fd(fd) => self.child.push((fd.as_raw_fd(), number as i32)),
            stdio::Kind::Piped | stdio::Kind::Captured => {
                let (read, write) = sys::fd::pipe()?;
                let captured = matches!(stream.0, stdio::Kind::Captured);
                match number {
                    0 => {
                        self.give(0, read);
                        self.stdin = Some(write);
                    }
                    _ if captured => {
                        sys::fd::set_nonblocking(read.as_fd(), true)?;
                        self.give(number, write);
                        self.captured[number - 1] = Some(read);
                    }
                    _ => {
                        self.give(number, write);
                        self.piped[number - 1] = Some(read);
                    }
                }
            }
        }
        Ok(())
    }

    fn give(&mut self, number: usize, fd: OwnedFd) {
        self.child.push((fd.as_raw_fd(), number as i32));
        self.keep.push(fd);
    }

    fn add_passed(&mut self, config: &Config, gate: &Gate) {
        self.child.extend(config.child.passed.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)));
        self.child.extend(gate.passed());
        if let target::Kind::Command(command) = &config.target.0
            && let Some((fd, number)) = command.handed.take()
        {
            self.child.push((fd.as_raw_fd(), number));
            self.keep.push(fd);
        }
    }
}

fn place(stream: &Stdio) -> String {
    match &stream.0 {
        stdio::Kind::Append(path) => format!(" as `{}`", path.display()),
        stdio::Kind::Inherit | stdio::Kind::Null | stdio::Kind::Piped | stdio::Kind::Captured | stdio::Kind::Fd(_) => {
            String::new()
        }
    }
}

fn setup(config: &Config, detached: bool, contained: &Contained, fds: Vec<(RawFd, i32)>) -> Result<Setup, Refused> {
    let child = &config.child;
    let identity = Credentials::of(child)?;
    Ok(Setup {
        cgroup: contained.procs(),
        session: child.session,
        group: match child.group {
            Group::Own => Some(0),
            Group::Inherit => None,
        },
        fds,
        close_others: true,
        directory: config.directory().map(|directory| c_string(directory.as_os_str())),
        umask: child.umask,
        nice: child.nice,
        cores: child.cores.clone(),
        limits: child.limits.iter().map(|(resource, soft, hard)| (resource.as_raw(), *soft, *hard)).collect(),
        groups: identity.groups,
        gid: identity.gid,
        uid: identity.uid,
        no_new_privs: child.no_new_privs,
        parent_death: child.parent_death.filter(|_| !detached).map(|signal| signal.as_raw()),
        signal_mask: child.signal_mask.iter().fold(0, |mask, signal| mask | 1 << (signal.as_raw() - 1)),
    })
}

struct Credentials {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Vec<u32>>,
}

impl Credentials {
    fn of(child: &ChildOptions) -> Result<Credentials, Refused> {
        let mut identity = Credentials { uid: child.uid, gid: child.gid, groups: child.groups.clone() };
        if let Some(name) = &child.user {
            let step = || format!("look up user `{name}`");
            let user = sys::process::user(name).map_err(|error| Refused::new(step(), error))?;
            let unknown = || Refused::new(step(), io::Error::new(io::ErrorKind::NotFound, "no such user"));
            let user = user.ok_or_else(unknown)?;
            identity.uid.get_or_insert(user.uid);
            identity.gid.get_or_insert(user.gid);
            identity.groups.get_or_insert(user.groups);
        }
        Ok(identity)
    }
}

fn create(
    config: &Config,
    setup: Setup,
    variables: &[(&'static str, String)],
    creator: Creator<'_>,
) -> Result<Child, Refused> {
    match &config.target.0 {
        target::Kind::Command(command) => execute(config, command, setup, variables, creator),
        target::Kind::Code(code) => {
            let environment = entries(environment(config, None, variables)?);
            let made = code.make(&setup, environment, creator);
            made.map_err(|failure| Refused::of(failure, config, &setup, &[]))
        }
    }
}

fn execute(
    config: &Config,
    command: &Command,
    setup: Setup,
    variables: &[(&'static str, String)],
    creator: Creator<'_>,
) -> Result<Child, Refused> {
    let environment = environment(config, Some(command), variables)?;
    let argv0 = command.arg0.as_ref().unwrap_or(&command.program);
    let plan = Plan {
        programs: candidates(&command.program, &environment),
        argv: std::iter::once(argv0).chain(&command.args).map(|arg| c_string(arg)).collect(),
        envp: entries(environment),
        setup,
    };
    let began = Instant::now();
    loop {
        match sys::spawn::spawn(&plan, creator) {
            Ok(child) => return Ok(child),
            Err(failure)
                if failure.step == Step::Exec
                    && failure.error.raw_os_error() == Some(libc::ETXTBSY)
                    && began.elapsed() < config.child.text_busy =>
            {
                // Nothing announces that the last writer closed the file.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(failure) => return Err(Refused::of(failure, config, &plan.setup, &plan.programs)),
        }
    }
}

fn unread(error: io::Error) -> Refused {
    Refused::new("read the environment", error)
}

/// The environment of the child: that of this program now, changed by the command, the builder and us.
fn environment(
    config: &Config,
    command: Option<&Command>,
    ours: &[(&'static str, String)],
) -> Result<Vec<(OsString, OsString)>, Refused> {
    let of_command = command.map(|command| &command.environment);
    let of_builder = &config.child.environment;
    let cleared = of_builder.clear || of_command.is_some_and(|changes| changes.clear);
    let mut environment = if cleared { Vec::new() } else { sys::process::environment().map_err(unread)? };
    let changes = of_command.into_iter().filter(|_| !of_builder.clear).chain([of_builder]);
    let changes = changes.flat_map(|changes| &changes.changes).map(|(key, value)| (key.as_os_str(), value.as_deref()));
    // A program that was started by a service manager has a WATCHDOG_PID of its own: beside our interval it would tell
    // the child that the watchdog is somebody else's (sd_watchdog_enabled(3)).
    let stale = ours.iter().any(|(key, _)| *key == "NOTIFY_SOCKET");
    let stale = stale.then_some([(OsStr::new("WATCHDOG_PID"), None), (OsStr::new("WATCHDOG_USEC"), None)]);
    let ours = ours.iter().map(|(key, value)| (OsStr::new(key), Some(OsStr::new(value))));
    for (key, value) in changes.chain(stale.into_iter().flatten()).chain(ours) {
        environment.retain(|(other, _)| other != key);
        if let Some(value) = value {
            environment.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(environment)
}

/// What to execute, in order: `PATH` of the child for a name without a slash, as `execvp(3)` does.
fn candidates(program: &OsStr, environment: &[(OsString, OsString)]) -> Vec<CString> {
    if program.as_bytes().contains(&b'/') {
        return vec![c_string(program)];
    }
    let path = environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    let directories = path.as_bytes().split(|byte| *byte == b':').map(|directory| {
        // An empty entry is the current directory (environ(7)).
        if directory.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(directory)) }
    });
    directories.map(|directory| c_string(directory.join(program).as_os_str())).collect()
}

/// As `execve` takes them. They are much of what a start costs its caller: so each is written once.
fn entries(environment: Vec<(OsString, OsString)>) -> Vec<CString> {
    let entry = |(key, value): (OsString, OsString)| {
        let mut entry = key.into_vec();
        entry.reserve_exact(value.len() + 2);
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        terminated(entry)
    };
    environment.into_iter().map(entry).collect()
}

fn c_string(text: &OsStr) -> CString {
    let mut copy = Vec::with_capacity(text.len() + 1);
    copy.extend_from_slice(text.as_bytes());
    terminated(copy)
}

/// Program, arguments, variables (`PATH` among them) and directory were checked for NUL; nothing else comes here.
fn terminated(text: Vec<u8>) -> CString {
    CString::new(text).unwrap_or_else(|error| {
        let end = error.nul_position();
        CString::new(&error.into_vec()[..end]).expect("it was cut before its first NUL")
    })
}
