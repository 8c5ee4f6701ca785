//! The options of a process, and the check that they make sense.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::check;
use super::config::{Config, Group};
use super::containment::Containment;
use super::handle::Process;
use super::readiness::Ready;
use super::resource::Resource;
use super::stdio::Stdio;
use super::target::Target;
use crate::error::{Error, Kind, Result, Who};
use crate::exit::Exit;
use crate::line::Line;
use crate::policy::Restart;
use crate::signal::Signal;
use crate::stop::{Stop, Survivors};

/// The options of a [`Process`]; from [`Process::builder`].
///
/// Every option has a default, [`build`](Builder::build) checks them all and starts nothing. All of them hold for
/// every kind of target, and none of them makes a command start by `fork`.
///
/// # Example
///
/// ```
/// use pkit::{Backoff, Command, Process, Restart, Signal, Stop};
/// use std::time::Duration;
///
/// let worker = Process::builder(Command::new("sleep").arg("1000"))
///     .name("worker")
///     .restart(Restart::on_failure().limit(5, Duration::from_secs(60)))
///     .stop(Stop::signal(Signal::TERM, Duration::from_secs(3)))
///     .current_dir("/")
///     .nice(5)
///     .build()?;
/// worker.start(true)?;
/// worker.terminate(true)?;
/// # Ok::<(), pkit::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    config: Config,
}

impl Builder {
    pub(super) fn new(target: Target) -> Builder {
        Builder { config: Config::new(target) }
    }

    /// The same options for something else.
    #[cfg(feature = "tasks")]
    pub(crate) fn target(mut self, target: Target) -> Builder {
        self.config.target = target;
        self
    }

    /// For what runs once, or is started again by others.
    #[cfg(feature = "tasks")]
    pub(crate) fn check_never_restarted(&self) -> Result<()> {
        if self.config.restart() == Restart::never() {
            return Ok(());
        }
        let problem = "a restart policy is for a process, not for calls of functions".to_owned();
        Err(Error::new(Who { name: self.config.name().into(), pid: None }, "build", Kind::Invalid(problem)))
    }

    pub(crate) fn called(&self) -> String {
        self.config.name()
    }

    /// What the process is called in errors, events and logs; not empty. Default: the file name of the program, `fork`
    /// for a closure.
    pub fn name(mut self, name: &str) -> Builder {
        self.config.name = Some(name.to_owned());
        self
    }

    /// Whether, when and how often it is started again. Default: [`Restart::never`]; for a child of a [`Supervisor`](crate::Supervisor)
    /// [`Restart::always`].
    pub fn restart(mut self, restart: Restart) -> Builder {
        self.config.restart = Some(restart);
        self
    }

    /// How it is stopped. Default: SIGTERM, 10 s, SIGKILL, to the whole group.
    pub fn stop(mut self, stop: Stop) -> Builder {
        self.config.stop = stop;
        self
    }

    /// What becomes of the processes that a leader which ended by itself left in its group. Default: SIGTERM, 2 s,
    /// SIGKILL.
    pub fn survivors(mut self, survivors: Survivors) -> Builder {
        self.config.survivors = survivors;
        self
    }

    /// How it says that it is ready. Default: [`Ready::spawned`].
    pub fn ready(mut self, ready: Ready) -> Builder {
        self.config.ready = ready;
        self
    }

    /// How long it may take to become ready before the run has failed. Default: 30 s. Without meaning for
    /// [`Ready::spawned`]. Of what is tried again and again (a socket, a file, a check) the last try within it counts.
    pub fn ready_within(mut self, limit: Duration) -> Builder {
        self.config.ready_within = limit;
        self
    }

    /// How long the output of a run that is over is waited for, when someone else still holds its pipe. Default:
    /// 100 ms. [`Exit::output_leaked`] says whether it came to that.
    pub fn drain(mut self, limit: Duration) -> Builder {
        self.config.drain = limit;
        self
    }

    /// Called after each successful creation. Callbacks run on threads of their own, one at a time and in order for one
    /// process; they may call anything, block, and panic (which is logged).
    pub fn on_start(mut self, call: impl Fn(&Process) + Send + Sync + 'static) -> Builder {
        self.config.calls.on_start = Some(Arc::new(call));
        self
    }

    /// Called when a run became ready.
    pub fn on_ready(mut self, call: impl Fn(&Process) + Send + Sync + 'static) -> Builder {
        self.config.calls.on_ready = Some(Arc::new(call));
        self
    }

    /// Called exactly once for each run, when it is over. The next automatic start and [`Process::join`] wait
    /// until it returns.
    pub fn on_exit(mut self, call: impl Fn(&Process, &Exit) + Send + Sync + 'static) -> Builder {
        self.config.calls.on_exit = Some(Arc::new(call));
        self
    }

    /// Called for each line of output; stdout and stderr are [captured](Stdio::captured) unless something else was said
    /// for them.
    ///
    /// A slow callback makes the child wait once its buffer and pipe are full. Nothing is lost. So one that waits for the end of the child may wait
    /// for itself.
    pub fn on_line(mut self, call: impl Fn(&Line) + Send + Sync + 'static) -> Builder {
        self.config.calls.on_line = Some(Arc::new(call));
        self
    }

    /// Standard input, whatever the command says. Default: the command's, else null.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Builder {
        self.config.stdin = Some(stdin.into());
        self
    }

    /// Standard output, whatever the command says. Default: the command's, else captured if
    /// [`capture`](Builder::capture), [`on_line`](Builder::on_line) or [`Ready::line`] ask for it, else inherited.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Builder {
        self.config.stdout = Some(stdout.into());
        self
    }

    /// Standard error, whatever the command says. Default: as for [`stdout`](Builder::stdout).
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Builder {
        self.config.stderr = Some(stderr.into());
        self
    }

    /// [Captures](Stdio::captured) stdout and stderr, unless something else was said for them, and keeps the last
    /// `bytes` of each for [`Process::output`] (default 64 KiB where they are captured). The buffer takes 32 KiB at least
    /// once that much was written: lines of up to 16 KiB come whole.
    pub fn capture(mut self, bytes: usize) -> Builder {
        self.config.capture = Some(bytes);
        self
    }

    /// Sets an environment variable, whatever the command says of it.
    ///
    /// The rest of the environment is this program's at the moment of each start, changed by the command. What this
    /// program got from its own supervisor (`NOTIFY_SOCKET`, `LISTEN_FDS`, …) is part of it.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Builder {
        self.config.child.environment.set(key.as_ref(), value.as_ref());
        self
    }

    /// Takes a variable out of the environment.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Builder {
        self.config.child.environment.remove(key.as_ref());
        self
    }

    /// Starts from an empty environment. What the command sets, and what was set here before, is dropped as well.
    pub fn env_clear(mut self) -> Builder {
        self.config.child.environment.clear();
        self
    }

    /// The working directory. Default: this program's, at the moment of each start.
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Builder {
        self.config.child.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Passes a descriptor to the child, as number `as_fd` (3 or more, each once). All others but 0, 1 and 2 are
    /// closed in it.
    ///
    /// It stays open in this program as long as the process has handles, for the starts to come: a reader of the other
    /// end of a passed pipe sees no end of file before that.
    pub fn pass_fd(mut self, fd: OwnedFd, as_fd: i32) -> Builder {
        self.config.child.passed.push((Arc::new(fd), as_fd));
        self
    }

    /// Its process group. Default: [`Group::Own`].
    pub fn group(mut self, group: Group) -> Builder {
        self.config.child.group = group;
        self
    }

    /// Makes it lead a session of its own, without a terminal (`setsid(2)`). Default: no. Not with [`Group::Inherit`].
    pub fn session(mut self, session: bool) -> Builder {
        self.config.child.session = session;
        self
    }

    /// What of its descendants belongs to a run. Default: [`Containment::Group`]. [`Containment::Tree`] is not for
    /// [`Group::Inherit`].
    pub fn contain(mut self, containment: Containment) -> Builder {
        self.config.child.containment = containment;
        self
    }

    /// User id (real, effective and saved). Default: inherited. Supplementary groups stay as they are unless
    /// [`groups`](Builder::groups) or [`user`](Builder::user) is set too.
    pub fn uid(mut self, uid: u32) -> Builder {
        self.config.child.uid = Some(uid);
        self
    }

    /// Group id (real, effective and saved). Default: inherited.
    pub fn gid(mut self, gid: u32) -> Builder {
        self.config.child.gid = Some(gid);
        self
    }

    /// Supplementary groups (`setgroups(2)`). Default: inherited.
    pub fn groups(mut self, groups: impl Into<Vec<u32>>) -> Builder {
        self.config.child.groups = Some(groups.into());
        self
    }

    /// Becomes a user by name: uid, gid and supplementary groups of the user database, looked up at each start. Where
    /// `uid`, `gid` or `groups` are set too, they win. The environment (`HOME`, `USER`) is left as it is. An unknown
    /// user is an error of the start.
    pub fn user(mut self, name: &str) -> Builder {
        self.config.child.user = Some(name.to_owned());
        self
    }

    /// File mode creation mask, 0 to 0o777. Default: inherited.
    pub fn umask(mut self, mask: u32) -> Builder {
        self.config.child.umask = Some(mask);
        self
    }

    /// Nice value, -20 (first served) to 19. Default: inherited from the thread that creates it (see [`crate`],
    /// Threads).
    pub fn nice(mut self, nice: i32) -> Builder {
        self.config.child.nice = Some(nice);
        self
    }

    /// The cores it may run on, from 0, at least one (`sched_setaffinity(2)`). Default: inherited (see [`crate`], Threads).
    pub fn cores(mut self, cores: impl Into<Vec<usize>>) -> Builder {
        self.config.child.cores = Some(cores.into());
        self
    }

    /// Limits a resource (`setrlimit(2)`), in the units that [`Resource`] names; `soft` is at most `hard`, `u64::MAX`
    /// is no limit. Of several for one resource the last counts. Default: inherited.
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Builder {
        self.config.child.limits.retain(|(other, ..)| *other != resource);
        self.config.child.limits.push((resource, soft, hard));
        self
    }

    /// Limits its virtual memory to so many bytes: [`rlimit`](Builder::rlimit) of [`Resource::AddressSpace`], soft and
    /// hard. It holds for each process of the run by itself.
    pub fn memory_limit(self, bytes: u64) -> Builder {
        self.rlimit(Resource::AddressSpace, bytes, bytes)
    }

    /// No program it executes can gain privileges (`PR_SET_NO_NEW_PRIVS`, `prctl(2)`). Default: no.
    pub fn no_new_privs(mut self, on: bool) -> Builder {
        self.config.child.no_new_privs = on;
        self
    }

    /// The signal it gets when this program ends, however that happens. Default: SIGKILL.
    ///
    /// The kernel forgets it when the child executes a set-user-ID program (`prctl(2)`). Descendants do not inherit it.
    pub fn on_parent_death(mut self, signal: Signal) -> Builder {
        self.config.child.parent_death = Some(signal);
        self
    }

    /// It lives on when this program ends. The last handle dropped stops it all the same, unless it is
    /// [detached](Process::detach).
    pub fn outlive_parent(mut self) -> Builder {
        self.config.child.parent_death = None;
        self
    }

    /// The signals that are blocked in it. Default: none. SIGKILL and SIGSTOP cannot be, and are left out by the
    /// kernel.
    pub fn signal_mask(mut self, blocked: impl Into<Vec<Signal>>) -> Builder {
        self.config.child.signal_mask = blocked.into();
        self
    }

    /// How long an exec is tried again while the program file is open for writing (ETXTBSY), as happens when it was
    /// just written and another thread forked meanwhile. Default: 50 ms; zero: not at all. The start blocks that long
    /// at most.
    pub fn retry_text_busy(mut self, limit: Duration) -> Builder {
        self.config.child.text_busy = limit;
        self
    }

    /// Checks the options and makes the process. Nothing is started.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`]: an option that makes no sense, alone or beside another; the text says which and why.
    pub fn build(self) -> Result<Process> {
        if let Err(problem) = check::options(&self.config) {
            return Err(Error::new(
                Who { name: self.config.name().into(), pid: None },
                "build",
                Kind::Invalid(problem),
            ));
        }
        Ok(Process::from_config(self.config))
    }
}

impl<T: Into<Target>> From<T> for Builder {
    /// Every option at its default.
    fn from(target: T) -> Builder {
        Builder::new(target.into())
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}
