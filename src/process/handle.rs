//! `Process`, the handle.

use std::fmt;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::builder::Builder;
use super::config::Config;
use super::core::{Core, Inner};
use super::events::Events;
use super::exited::Exited;
use super::state::{Event, State};
use super::status::Status;
use super::target::Target;
use super::waiting::LineReader;
use crate::error::{Error, Kind, Result};
use crate::exit::Exit;
use crate::line::{Line, Output};
use crate::signal::Signal;
use crate::wait::Wait;

/// How [`Process::restart`] ends the run that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RestartMode {
    /// Wait until it ends by itself. (The restart policy does not start it meanwhile.)
    Join,
    /// Climb the stop ladder.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// A process that can be started, stopped, waited for, and started again.
///
/// It is a handle: clones are the same process, every method takes `&self` and may be called from any thread at any
/// time, callbacks included. A `Process` that does not run is an empty hull, ready for the next start.
///
/// # Drop
///
/// The last handle dropped stops the process by its stop ladder, without waiting, unless it was
/// [detached](Process::detach). The crate goes on looking after the run until it is over.
///
/// # Signals and races
///
/// A signal never reaches a stranger: it goes through a pidfd. An exit is reported exactly once, whoever waits how often;
/// if another part of the program took its status, from what the kernel kept (6.15), else as
/// [`ExitReason::Lost`](crate::ExitReason::Lost).
///
/// # After a fork
///
/// In a process that `fork` copied from this one every method answers with an error
/// ([`Error::is_foreign`]) or as for a process that does not run, and dropping the handle does nothing.
///
/// ```
/// use pkit::{Command, Process};
///
/// let process = Process::new(Command::new("sh").args(["-c", "exit 7"]));
/// for _ in 0..3 {
///     process.start(true)?;
///     assert_eq!(process.join()?.code(), Some(7));
/// }
/// # Ok::<(), pkit::Error>(())
/// ```
pub struct Process {
    inner: Arc<Inner>,
}

impl Process {
    /// A process with every option at its default. Nothing is started. What is wrong with the target (a NUL in an
    /// argument, say) is told by the start.
    pub fn new(target: impl Into<Target>) -> Process {
        Process::from_config(Config::new(target.into()))
    }

    /// The options of a process; [`Builder::build`] makes it.
    pub fn builder(target: impl Into<Target>) -> Builder {
        Builder::new(target.into())
    }

    pub(super) fn from_config(config: Config) -> Process {
        Process::from_inner(&Inner::new(config))
    }

    pub(super) fn from_inner(inner: &Arc<Inner>) -> Process {
        inner.handles.fetch_add(1, Ordering::Relaxed);
        Process { inner: Arc::clone(inner) }
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Starts a run, and waits until it is ready if asked to. Returns its pid.
    ///
    /// `wait` is the caller's patience: `true` until it is ready, `false` not at all (it was created, though:
    /// its program executes, and until then this blocks), a `Duration` at most so long. With
    /// [`Ready::spawned`](crate::Ready::spawned) that is all the same.
    ///
    /// A start during the back-off of a restart policy starts at once. Every start by hand clears the policy's memory.
    ///
    /// # Errors
    ///
    /// - [`Error::is_running`]: a run is there, and nothing changes. Of concurrent starts exactly one wins.
    /// - [`Error::is_start`]: it could not be created; step and cause are in the text, nothing is left, and it may be
    ///   tried again. The restart policy leaves that to the caller.
    /// - [`Error::is_ended`]: it ended before it was ready; [`Error::exit`] says how. A restart policy goes on.
    /// - [`Error::is_timeout`]: the patience passed. The process is left as it is.
    pub fn start(&self, wait: impl Into<Wait>) -> Result<u32> {
        let until = deadline(wait.into());
        self.start_until(until)
    }

    fn start_until(&self, until: Patience) -> Result<u32> {
        self.inner.check_owner("start")?;
        let generation = self.inner.begin_start()?;
        let pid = self.inner.launch_from_here(generation)?;
        match until {
            Patience::None => Ok(pid),
            Patience::Until { at, limit } => self.wait_ready(generation, pid, at, limit),
        }
    }

    fn wait_ready(&self, generation: u64, pid: u32, at: Option<Instant>, limit: Duration) -> Result<u32> {
        let who = || self.inner.who(Some(pid));
        let waited = self.inner.wait(at, |core| {
            if core.ready >= generation {
                return Some(Ok(pid));
            }
            let over = core.machine.generation() > generation || !core.machine.is_alive();
            let exit = core.exit.as_ref().filter(|(of, _)| over && *of >= generation);
            exit.map(|(_, exit)| Err(Error::new(who(), |who| Kind::EndedEarly { who, exit: exit.clone() })))
        });
        waited.unwrap_or_else(|| Err(Error::new(who(), |who| Kind::Timeout { who, operation: "start", limit })))
    }

    /// Waits until it will not run again, and returns how its last run ended.
    ///
    /// With a restart policy that is when the policy gave up, a stop was asked for, or a clean end needs no restart. It
    /// returns after the `on_exit` callback of that run has returned; inside a callback of this process it waits for no callback,
    /// only for the end of the current run. After the end it returns at once, as often as asked, from any number of threads.
    ///
    /// Like std's `wait` it first closes a piped stdin that nobody took.
    ///
    /// # Errors
    ///
    /// [`Error::is_never_started`]: there was no run.
    pub fn join(&self) -> Result<Exit> {
        self.join_until(None).map(|exit| exit.expect("without a limit there is no time-out"))
    }

    /// [`join`](Process::join) with a limit; `None` when it passed.
    ///
    /// # Errors
    ///
    /// Those of [`join`](Process::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<Option<Exit>> {
        self.join_until(Some(limit))
    }

    fn join_until(&self, limit: Option<Duration>) -> Result<Option<Exit>> {
        self.inner.check_owner("join")?;
        let stdin = self.inner.lock().streams.stdin.take();
        drop(stdin);
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        self.inner.wait_end(until, |core| self.inner.end(core)).transpose()
    }

    /// The future of what [`join`](Process::join) returns, for any async runtime.
    ///
    /// ```
    /// use pkit::{Command, Process};
    ///
    /// let process = Process::new(Command::new("true"));
    /// process.start(true)?;
    /// let exit = smol::block_on(process.exited())?;
    /// assert!(exit.success());
    /// # Ok::<(), pkit::Error>(())
    /// ```
    pub fn exited(&self) -> Exited {
        Exited::new(self.clone())
    }

    /// Stops it by the stop ladder: by default SIGTERM to its group, SIGKILL 10 s later.
    ///
    /// It switches the restart policy off until the next start. With `false` the ladder is only begun, and climbed without
    /// the caller; with `true` this returns when [`join`](Process::join) would. What does not run is left alone; a
    /// ladder that is being climbed is not begun again.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`]: it was not gone within the limit given. The ladder goes on.
    pub fn terminate(&self, wait: impl Into<Wait>) -> Result<()> {
        self.end(Event::Stop, "terminate", deadline(wait.into()))
    }

    /// SIGKILL to its whole group, or to all of its tree if that is contained. It switches the restart policy off
    /// until the next start.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`]: it was not gone within the limit given.
    pub fn kill(&self, wait: impl Into<Wait>) -> Result<()> {
        self.end(Event::Kill, "kill", deadline(wait.into()))
    }

    fn end(&self, event: Event, operation: &'static str, until: Patience) -> Result<()> {
        self.inner.check_owner(operation)?;
        let pid = self.inner.turn(|turn| {
            let pid = turn.core.pid();
            turn.feed(event);
            pid
        });
        let Patience::Until { at, limit } = until else { return Ok(()) };
        let gone = |core: &Core| self.inner.is_over(core).then_some(());
        let timeout = || Error::new(self.inner.who(pid), |who| Kind::Timeout { who, operation, limit });
        self.inner.wait_end(at, gone).ok_or_else(timeout)
    }

    /// Sends a signal to everything that the stop ladder would reach: the group, by default. Nothing else: a stopped
    /// process is not made to go on, and no [`EventKind::Signaled`](crate::EventKind::Signaled) is told.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_running`], also when the leader has ended and others of its run have not; or what
    /// `pidfd_send_signal(2)` says, EPERM when the process changed its user.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        const OPERATION: &str = "signal";
        self.inner.check_owner(OPERATION)?;
        let core = self.inner.lock();
        let who = self.inner.who(core.pid());
        let not_running = |who| Error::new(who, |who| Kind::NotRunning { who, operation: OPERATION });
        let Some(run) = core.run.as_ref().filter(|run| run.ended.is_none()) else { return Err(not_running(who)) };
        match run.contained.signal(&run.leader, run.reaped, signal) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(not_running(who)),
            Err(source) => Err(Error::new(who, |who| Kind::Io { who, operation: OPERATION, source })),
        }
    }

    /// Ends the run that is there, if one is, and starts the next. Returns the new pid.
    ///
    /// `wait` is the patience with all of it, as for [`start`](Process::start). A new run never overlaps
    /// the one before it, so even with `false` this blocks until that one is over (as long as its stop ladder takes).
    ///
    /// # Errors
    ///
    /// Those of [`start`](Process::start); [`Error::is_running`] when somebody else's start came between.
    /// [`Error::is_timeout`] while the old run ends: no new one is started.
    pub fn restart(&self, how: RestartMode, wait: impl Into<Wait>) -> Result<u32> {
        self.inner.check_owner("restart")?;
        let until = deadline(wait.into());
        let event = match how {
            RestartMode::Join => Event::Last,
            RestartMode::Terminate => Event::Stop,
            RestartMode::Kill => Event::Kill,
        };
        let ending = match until {
            Patience::None => Patience::Until { at: None, limit: Duration::MAX },
            Patience::Until { at, limit } => Patience::Until { at, limit },
        };
        self.end(event, "restart", ending)?;
        self.start_until(until)
    }

    /// Waits until `until` says so of the status, which is looked at after every change.
    ///
    /// `until` runs on this thread with no lock held. Short-lived states may pass unseen; [`subscribe`](Process::subscribe)
    /// sees all.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`].
    ///
    /// ```
    /// # use pkit::{Command, Process, State};
    /// # use std::time::Duration;
    /// let process = Process::new(Command::new("true"));
    /// process.start(false)?;
    /// let status = process.wait_until(Duration::from_secs(5), |status| status.state == State::Idle)?;
    /// assert!(status.exit.is_some_and(|exit| exit.success()));
    /// # Ok::<(), pkit::Error>(())
    /// ```
    pub fn wait_until(&self, limit: Duration, mut until: impl FnMut(&Status) -> bool) -> Result<Status> {
        const OPERATION: &str = "wait for";
        self.inner.check_owner(OPERATION)?;
        let at = Instant::now().checked_add(limit);
        let mut core = self.inner.lock();
        loop {
            let status = self.inner.status(&core);
            let turns = core.turns;
            drop(core);
            if until(&status) {
                return Ok(status);
            }
            core = self.inner.lock();
            while core.turns == turns {
                core = match self.inner.sleep(core, at) {
                    Ok(core) => core,
                    Err(core) => {
                        let who = self.inner.who(core.pid());
                        return Err(Error::new(who, |who| Kind::Timeout { who, operation: OPERATION, limit }));
                    }
                };
            }
        }
    }

    /// Waits for a line of captured output, beginning with what is kept of the current run's.
    ///
    /// `matches` runs on this thread with no lock held. Lines wait for it: none is missed, and a child that writes
    /// more meanwhile waits too. Other consumers see the lines as well.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`]; [`Error::is_ended`] when the run is over without such a line; [`Error::is_never_started`];
    /// [`Error::is_invalid`] when nothing is captured.
    pub fn wait_for_line(&self, limit: Duration, mut matches: impl FnMut(&str) -> bool) -> Result<Line> {
        const OPERATION: &str = "wait for a line of";
        self.inner.check_owner(OPERATION)?;
        let at = Instant::now().checked_add(limit);
        let reader = LineReader::new(&self.inner, OPERATION)?;
        loop {
            match reader.next(at, limit)? {
                line if matches(&line.text()) => return Ok(line),
                _ => {}
            }
        }
    }

    /// Everything about it at this moment, consistent in itself.
    pub fn status(&self) -> Status {
        self.inner.status(&self.inner.lock())
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.inner.lock().machine.state()
    }

    /// Its pid while the leader lives; `None` from the moment its exit is known.
    pub fn pid(&self) -> Option<u32> {
        self.inner.lock().pid()
    }

    /// Whether a run is there: from the beginning of its start until nothing of it is left. A callback of its end may
    /// still be at work.
    pub fn is_alive(&self) -> bool {
        self.inner.lock().machine.is_alive()
    }

    /// How the last finished run ended.
    pub fn exit(&self) -> Option<Exit> {
        self.inner.lock().exit.as_ref().map(|(_, exit)| exit.clone())
    }

    /// How often the restart policy started it or tried to, in all the time since it was built.
    pub fn restarts(&self) -> u64 {
        self.inner.lock().machine.restarts()
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Our end of its piped stdin. It is handed out once for each run; `None` when it is not piped or was taken, by
    /// [`join`](Process::join) too, and after the end of the run.
    pub fn stdin(&self) -> Option<ChildStdin> {
        self.inner.lock().streams.stdin.take()
    }

    /// Our end of its piped stdout. It is handed out once for each run, also after the end of the run.
    pub fn stdout(&self) -> Option<ChildStdout> {
        self.inner.lock().streams.stdout.take()
    }

    /// Our end of its piped stderr. It is handed out once for each run, also after the end of the run.
    pub fn stderr(&self) -> Option<ChildStderr> {
        self.inner.lock().streams.stderr.take()
    }

    /// What is kept of the captured output of the current run, or else of the last one.
    pub fn output(&self) -> Output {
        self.inner.lock().output.snapshot(self.inner.config.capture_size())
    }

    /// Lets it outlive its handles: the last one dropped does not stop it. Called before a start, that run outlives this
    /// program too.
    ///
    /// A run that is there already was bound to the life of this program when it was created, and no
    /// other process can undo that (`prctl(2)`, PR_SET_PDEATHSIG): for that it has to be built with
    /// [`outlive_parent`](Builder::outlive_parent).
    pub fn detach(&self) {
        if !self.inner.is_foreign() {
            self.inner.lock().detached = true;
        }
    }

    /// Its events from now on.
    pub fn subscribe(&self) -> Events {
        let events = Events::new();
        self.inner.lock().subscribers.push(Arc::downgrade(events.queue()));
        events
    }
}

impl Clone for Process {
    fn clone(&self) -> Process {
        Process::from_inner(&self.inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The lock may be held for ever in a fork of our program.
        if self.inner.handles.fetch_sub(1, Ordering::AcqRel) == 1 && !self.inner.is_foreign() {
            self.inner.turn(|turn| {
                if !turn.core.detached {
                    turn.feed(Event::Stop);
                }
            });
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Process");
        out.field("name", &self.inner.name);
        if !self.inner.is_foreign() {
            let status = self.status();
            out.field("state", &status.state).field("pid", &status.pid);
        }
        out.finish_non_exhaustive()
    }
}

impl fmt::Display for Process {
    /// Its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.inner.name)
    }
}

/// How long a caller waits.
#[derive(Clone, Copy)]
enum Patience {
    None,
    /// `None`: for ever. The limit is for the error text.
    Until {
        at: Option<Instant>,
        limit: Duration,
    },
}

fn deadline(wait: Wait) -> Patience {
    match wait {
        Wait::No => Patience::None,
        Wait::Yes => Patience::Until { at: None, limit: Duration::MAX },
        Wait::For(limit) => Patience::Until { at: Instant::now().checked_add(limit), limit },
    }
}
