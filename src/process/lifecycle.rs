//! Starting, awaiting and ending a process.

use std::time::{Duration, Instant};

use super::core::Core;
use super::futures::{BecomesReady, Exited};
use super::handle::Process;
use super::monitor;
use super::state::Event;
use super::status::Status;
use super::waiting::LineReader;
use crate::error::{Error, Kind, Result};
use crate::exit::Exit;
use crate::line::Line;
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

impl Process {
    /// Starts a run, and waits until it is ready if asked to. Returns its pid.
    ///
    /// `wait` is the caller's patience: `true` until it is ready, `false` not at all (it was created, though:
    /// its program executes, and until then this blocks), a `Duration` at most so long. With
    /// [`Ready::spawned`](crate::Ready::spawned) that is all the same.
    ///
    /// A start during the back-off of a restart policy starts at once. Every start by hand clears the policy's memory.
    ///
    /// An error that comes after the creation (`is_ended`, `is_timeout`) stops nothing: a restart policy goes on as long
    /// as there is a handle, and the process may be up a moment later. Whoever gives up at such an error and keeps a
    /// handle calls [`terminate`](Process::terminate) before passing it on; a `?` that drops the last handle stops it
    /// too.
    ///
    /// In async code start with `false`, and await [`ready`](Process::ready).
    ///
    /// # Errors
    ///
    /// - [`Error::is_running`]: a run is there, and nothing changes. Of concurrent starts exactly one wins.
    /// - [`Error::is_dropped`]: in a callback, after the last handle was dropped.
    /// - [`Error::is_not_created`]: it could not be created; step and cause are in the text, nothing is left, and it may be
    ///   tried again. The restart policy leaves that to the caller.
    /// - [`Error::is_ended`]: it ended before it was ready; [`Error::exit`] says how, the text also what its last captured
    ///   line was. [`Error::is_not_ready`] too: it was stopped because it was not ready in time. A restart policy goes on.
    /// - [`Error::is_timeout`]: the patience passed. The process is left as it is.
    pub fn start(&self, wait: impl Into<Wait>) -> Result<u32> {
        self.start_until(deadline(wait.into()))
    }

    fn start_until(&self, until: Patience) -> Result<u32> {
        self.inner.check_owner("start")?;
        let (generation, awaited) = self.inner.begin_start()?;
        let started = self.inner.launch_from_here(generation);
        let result = match until {
            Patience::None => started,
            Patience::Until { at, limit } => started.and_then(|_| self.wait_ready(awaited, at, limit)),
        };
        self.inner.lock().await_no_more(awaited);
        result
    }

    /// The first half of [`start`](Process::start) with `true`, for who then does what makes it ready. What
    /// [`end_start`](Process::end_start), the other half, waits for.
    #[cfg(feature = "tasks")]
    pub(crate) fn begin_start(&self) -> Result<u64> {
        self.inner.check_owner("start")?;
        let (generation, awaited) = self.inner.begin_start()?;
        self.inner.launch_from_here(generation).inspect_err(|_| self.inner.lock().await_no_more(awaited))?;
        Ok(awaited)
    }

    #[cfg(feature = "tasks")]
    pub(crate) fn end_start(&self, awaited: u64) -> Result<u32> {
        let result = self.wait_ready(awaited, None, Duration::MAX);
        self.inner.lock().await_no_more(awaited);
        result
    }

    fn wait_ready(&self, awaited: u64, at: Option<Instant>, limit: Duration) -> Result<u32> {
        match self.inner.wait(at, |core| core.answer_of(awaited)) {
            Some(answer) => answer.map_err(|end| self.inner.not_ready(end)),
            None => Err(self.inner.timeout(&self.inner.lock(), "start", "not ready", limit)),
        }
    }

    /// The future of what [`start`](Process::start) with `true` waits for, for any async runtime: the readiness of the run
    /// that is there now. It returns the pid.
    ///
    /// # Example
    ///
    /// ```
    /// use pkit::{Command, Process, Ready};
    ///
    /// let server = Process::builder(Command::new("sh").args(["-c", "echo listening; exec sleep 1000"]))
    ///     .ready(Ready::line("listening"))
    ///     .build()?;
    /// server.start(false)?;
    /// let pid = smol::block_on(server.ready())?;
    /// assert_eq!(server.pid(), Some(pid));
    /// # Ok::<(), pkit::Error>(())
    /// ```
    pub fn ready(&self) -> BecomesReady {
        BecomesReady::new(self.clone())
    }

    /// Waits until it will not run again, and returns how its last run ended.
    ///
    /// With a restart policy that is when the policy gave up, a stop was asked for, or a clean end needs no restart. It
    /// returns after the `on_exit` callback of that run has returned; inside a callback of this process it waits for no
    /// callback, only for the end of the current run. After the end it returns at once, as often as asked, from any
    /// number of threads.
    ///
    /// Like std's `wait` it first closes a piped stdin that nobody took, that of the current run: each run that a restart policy starts has one of
    /// its own, to be taken or closed by [`stdin`](Process::stdin).
    ///
    /// # Errors
    ///
    /// [`Error::is_never_started`]: there was no run.
    pub fn join(&self) -> Result<Exit> {
        self.join_until(None).map(|exit| exit.expect("without a limit there is no time-out"))
    }

    /// [`join`](Process::join) with a limit; `None` when it passed. With a limit of zero it is a look, which leaves a piped stdin alone, as std's
    /// `try_wait` does.
    ///
    /// # Errors
    ///
    /// Those of [`join`](Process::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<Option<Exit>> {
        self.join_until(Some(limit))
    }

    fn join_until(&self, limit: Option<Duration>) -> Result<Option<Exit>> {
        self.inner.check_owner("join")?;
        if limit.is_some_and(|limit| limit.is_zero()) {
            self.inner.turn(|turn| turn.see_end());
            return self.inner.look_at_end(&self.inner.lock()).transpose();
        }
        let joining = self.inner.begin_join(monitor::new_id());
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        self.inner.wait_end(until, |core| joining.end(core)).transpose()
    }

    /// The future of what [`join`](Process::join) returns, for any async runtime.
    ///
    /// # Example
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
    /// It switches the restart policy off until the next start. With `false` the ladder is only begun, and climbed
    /// without the caller; with `true` this returns when [`join`](Process::join) would. What does not run is left
    /// alone; a ladder that is being climbed is not begun again. So several are stopped side by side with `false` for
    /// all of them first, then `true` for each: see [the end of your program](crate#the-end-of-your-program).
    /// Where the leader has ended, and those whom it left behind are being stopped ([`Survivors`](crate::Survivors)), the ladder goes on that
    /// comes to SIGKILL earlier.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`]: it was not gone within the limit given. That is the caller's patience: the ladder goes on, no faster
    /// for it.
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
        if event == Event::Kill {
            self.inner.note_tree();
        }
        let since = self.inner.turn(|turn| {
            turn.request(event);
            turn.core.machine.generation()
        });
        let Patience::Until { at, limit } = until else { return Ok(()) };
        let is_gone = |core: &Core| self.inner.is_over(core, since);
        let gone = |core: &Core| is_gone(core).then_some(());
        if self.inner.wait_end(at, gone).is_some() {
            return Ok(());
        }
        self.inner.turn(|turn| {
            if is_gone(&turn.core) {
                return Ok(());
            }
            if event == Event::Last {
                // Nobody waits for its end any more: the process is left as it was, with its policy.
                turn.feed_of(since, Event::NotLast);
            }
            Err(self.inner.timeout(&turn.core, operation, "not gone", limit))
        })
    }

    /// Sends a signal to everything that the stop ladder would reach: the group, by default. Nothing else: a stopped
    /// process is not made to go on. It is told as [`EventKind::SignalSent`](crate::EventKind::SignalSent).
    ///
    /// # Errors
    ///
    /// [`Error::is_not_running`], also when the leader has ended and others of its run have not; or what
    /// `pidfd_send_signal(2)` says, EPERM when the process changed its user.
    ///
    /// # Example
    ///
    /// SIGKILL sent like this is a crash, which the restart policy answers:
    ///
    /// ```
    /// use pkit::{Command, Process, Restart, Signal, State};
    /// use std::time::Duration;
    ///
    /// let service = Process::builder(Command::new("sleep").arg("1000")).restart(Restart::on_failure()).build()?;
    /// service.start(true)?;
    /// let before = service.status().generation;
    /// service.signal(Signal::KILL)?;
    /// let limit = Duration::from_secs(10);
    /// service.wait_until(limit, |status| status.generation > before && status.state == State::Ready)?;
    /// # Ok::<(), pkit::Error>(())
    /// ```
    pub fn signal(&self, signal: Signal) -> Result<()> {
        const OPERATION: &str = "signal";
        self.inner.check_owner(OPERATION)?;
        self.inner.note_tree();
        let (pid, sent) = self.inner.turn(|turn| {
            turn.see_end();
            (turn.core.pid(), turn.signal_by_hand(signal))
        });
        sent.map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => Error::new(self.inner.who(pid), OPERATION, Kind::NotRunning),
            _ => Error::new(self.inner.who(pid), OPERATION, Kind::Io(source)),
        })
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
        self.inner.check_not_overseen("restart")?;
        let until = deadline(wait.into());
        let event = match how {
            RestartMode::Join => Event::Last,
            RestartMode::Terminate => Event::Stop,
            RestartMode::Kill => Event::Kill,
        };
        let ending = match until {
            // The end is waited for in any case: no run overlaps the one before it.
            Patience::None => deadline(Wait::Yes),
            Patience::Until { .. } => until,
        };
        self.end(event, "restart", ending)?;
        self.start_until(until)
    }

    /// Waits until `until` says so of the status, which is looked at after every change.
    ///
    /// `until` runs on this thread with no lock held. Short-lived states may pass unseen;
    /// [`subscribe`](Process::subscribe) sees all. It waits for that and nothing else: who waits until it is ready asks whether it has failed as well
    /// (`matches!(status.state, State::Ready | State::Failed)`).
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`].
    ///
    /// # Example
    ///
    /// ```
    /// use pkit::{Command, Process, State};
    /// use std::time::Duration;
    ///
    /// let process = Process::new(Command::new("true"));
    /// process.start(false)?;
    /// let status = process.wait_until(Duration::from_secs(5), |status| status.state == State::Idle)?;
    /// assert!(status.exit.is_some_and(|exit| exit.success()));
    /// # Ok::<(), pkit::Error>(())
    /// ```
    pub fn wait_until(&self, limit: Duration, mut until: impl FnMut(&Status) -> bool) -> Result<Status> {
        const OPERATION: &str = "wait for";
        self.inner.check_owner(OPERATION)?;
        self.inner.watch_for_stops();
        let at = Instant::now().checked_add(limit);
        let (mut core, mut is_last) = (self.inner.lock(), false);
        loop {
            let status = self.inner.status(&core);
            let turns = core.turns();
            drop(core);
            if until(&status) {
                return Ok(status);
            }
            core = self.inner.lock();
            // However fast it changes meanwhile.
            let waited = if is_past(at) { Err(core) } else { self.inner.core.wait_past(core, turns, at) };
            core = match waited {
                Ok(core) => core,
                Err(core) if is_last => {
                    return Err(self.inner.timeout(&core, OPERATION, "the condition did not hold", limit));
                }
                Err(core) => {
                    drop(core);
                    is_last = true;
                    self.inner.turn(|turn| turn.catch_up());
                    self.inner.lock()
                }
            };
        }
    }

    /// Waits for a line of captured output, beginning with what is kept of the current run's.
    ///
    /// It has no memory: the next call begins there again, and may find the same line. For each line once and in order
    /// there is [`Builder::on_line`](crate::Builder::on_line).
    ///
    /// `matches` gets the text; which stream it came on is in the [`Line`] that is returned. It runs on this thread with no
    /// lock held. Lines wait for it: none is missed, and a child that writes more meanwhile waits too. Other consumers see
    /// the lines as well. What has come when `limit` is over is still looked at: as far as there is room for it, where less than 64 KiB are kept and
    /// another consumer has not taken them yet.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`]; [`Error::is_ended`] when the run is over without such a line;
    /// [`Error::is_never_started`]; [`Error::is_invalid`] when nothing is captured.
    pub fn wait_for_line(&self, limit: Duration, mut matches: impl FnMut(&str) -> bool) -> Result<Line> {
        const OPERATION: &str = "wait for a line of";
        self.inner.check_owner(OPERATION)?;
        let at = Instant::now().checked_add(limit);
        let reader = LineReader::new(&self.inner, OPERATION, at, limit)?;
        let mut matches = |line: &Line| matches(&line.text());
        loop {
            let line = reader.next(at, limit)?;
            if matches(&line) {
                return Ok(line);
            }
            if is_past(at) {
                return reader.by_now(matches).ok_or_else(|| reader.timeout(limit));
            }
        }
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

fn is_past(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at <= Instant::now())
}

fn deadline(wait: Wait) -> Patience {
    match wait {
        Wait::No => Patience::None,
        Wait::Yes => Patience::Until { at: None, limit: Duration::MAX },
        Wait::For(limit) => Patience::Until { at: Instant::now().checked_add(limit), limit },
    }
}
