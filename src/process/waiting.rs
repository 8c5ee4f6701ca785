//! How callers wait for a process: on its monitor, which every turn tells.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::core::{Core, Inner, NeverReady};
use super::procfs;
use super::run::Run;
use super::state::{Event, State};
use super::status::Status;
use crate::error::{End, Error, Kind, Result};
use crate::exit::{Exit, Fault};
use crate::line::Line;
use crate::spawners::Spawners;
use crate::sys;
use crate::sys::spawn::Creator;
use crate::sys::spin::Spin;

/// For a walk, which takes milliseconds: a signal does not wait for ever for what only helps to know zombies.
pub(super) const NOTED_WITHIN: Duration = Duration::from_secs(1);
/// The same where a caller may be in a hurry.
const NOTED_AT_ONCE: Duration = Duration::from_millis(100);
/// A function may take no longer than this to its end, which is less than it takes to sleep and be woken. (`docs/measurements.md`)
const BRIEF: Duration = Duration::from_micros(200);

impl Inner {
    /// A handle of the parent is useless in its fork: its lock may be held by a thread that is not there.
    pub(super) fn check_owner(&self, operation: &'static str) -> Result<()> {
        if self.is_foreign() {
            let owner = self.owner_pid;
            return Err(Error::new(self.who(None), operation, Kind::Foreign { owner }));
        }
        Ok(())
    }

    /// Before a signal by hand. (Before those of a ladder it is done elsewhere: see `Turn::signal_all`.)
    pub(super) fn note_tree(self: &Arc<Self>) {
        let note = self.lock().run.as_ref().and_then(|run| run.contained.note(&run.leader));
        if let Some(note) = note {
            let (noted, is_noted) = mpsc::sync_channel(1);
            procfs::survey(Box::new(move |all| {
                _ = all.as_ref().map(note);
                let _ = noted.send(());
            }));
            let _ = is_noted.recv_timeout(NOTED_AT_ONCE);
        }
    }

    /// The caller's limit passed, and `missing` says what did not come.
    pub(super) fn timeout(
        &self,
        core: &Core,
        operation: &'static str,
        missing: &'static str,
        limit: Duration,
    ) -> Error {
        let (state, said) = (core.machine.state(), core.output.last_words());
        Error::new(self.who(core.pid()), operation, Kind::Timeout { missing, limit, state, said })
    }

    /// Claims the next generation, and a place among those who wait until it is ready. Exactly one of concurrent starts
    /// gets it.
    pub(super) fn begin_start(self: &Arc<Self>) -> Result<(u64, u64)> {
        self.turn(|turn| {
            turn.see_end();
            if self.handles.load(Ordering::Acquire) == 0 && !turn.core.detached {
                // A callback has only lent a handle: what it starts now, nobody would ever stop.
                return Err(Error::new(self.who(None), "start", Kind::Dropped));
            }
            if turn.core.machine.is_alive() {
                return Err(Error::new(self.who(turn.core.pid()), "start", Kind::Running));
            }
            if turn.core.overseen.is_some() {
                return Err(Error::new(self.who(None), "start", Kind::Overseen));
            }
            if turn.core.machine.is_at_rest() {
                // A start by hand does not wait until that end was told.
                turn.core.note_rest();
            }
            turn.by_hand = true;
            turn.feed(Event::Start);
            let generation = turn.core.machine.generation();
            let awaited = turn.core.await_ready(generation);
            Ok((generation, awaited))
        })
    }

    /// The error of who waited until it is ready.
    pub(super) fn not_ready(&self, why: NeverReady) -> Error {
        let end = match why {
            NeverReady::Ended(end) => end,
            NeverReady::Refused(error) => return error,
        };
        let who = self.who(Some(end.exit.pid()));
        let kind = match end.exit.fault() {
            Some(Fault::NotReady) => {
                let ready = format!("{:?}", self.config.ready);
                Kind::NotReady { ready, limit: self.config.ready_within, end }
            }
            _ => Kind::EndedEarly(end),
        };
        Error::new(who, "start", kind)
    }

    /// Creates the process on a thread that lives as long as the program, where its life is bound to ours; see
    /// [`crate::spawners`].
    pub(super) fn launch_from_here(self: &Arc<Self>, generation: u64) -> Result<u32> {
        let unbound = self.config.child.parent_death.is_none() || self.lock().detached;
        if unbound || sys::process::is_main_thread() {
            return self.launch(generation, Creator::Here);
        }
        self.launch(generation, Creator::Elsewhere(&|errand| Spawners::get().create(errand)))
    }

    /// Waits for something that comes only with or after the end of the current run; `None` when the time passed.
    ///
    /// Who waits without a limit looks after the leader itself meanwhile, if nobody else depends on it.
    pub(super) fn wait_end<T>(
        self: &Arc<Self>,
        until: Option<Instant>,
        done: impl Fn(&Core) -> Option<T>,
    ) -> Option<T> {
        if until.is_none() {
            let mut core = self.lock();
            while done(&core).is_none()
                && let Some(pidfd) = self.borrow_leader(&mut core)
            {
                drop(core);
                if self.config.is_code() {
                    let mut spin = Spin::new(BRIEF);
                    while !sys::event::is_readable(pidfd.as_fd()) && spin.goes_on() {}
                }
                sys::wait::wait_for_end(pidfd.as_fd());
                core = self.lock();
            }
        }
        self.wait(until, done)
    }

    /// Waits for any change of it; and looks itself before it gives up.
    pub(super) fn wait<T>(self: &Arc<Self>, until: Option<Instant>, done: impl Fn(&Core) -> Option<T>) -> Option<T> {
        self.core.wait(self.lock(), until, &done).or_else(|| {
            let (found, saw_end) = self.turn(|turn| {
                turn.catch_up();
                (done(&turn.core), turn.core.run.as_ref().and_then(|run| run.saw_end))
            });
            // Whose leader has ended just now is perhaps over as soon as somebody has looked who is left.
            found.or_else(|| self.core.wait(self.lock(), Some(saw_end? + MOMENT), &done))
        })
    }

    /// As [`Monitor::poll`](super::monitor::Monitor::poll).
    pub(super) fn poll<T>(self: &Arc<Self>, id: u64, waker: &Waker, done: impl FnOnce(&Core) -> Option<T>) -> Poll<T> {
        self.core.poll(|| self.lock(), id, waker, done)
    }

    /// A join begins, under that number. As std's `wait` does, it closes a piped stdin that nobody took.
    pub(super) fn begin_join(self: &Arc<Self>, id: u64) -> Joining {
        let mut core = self.lock();
        // (Of one that is being created it comes later: see `Turn::begin`.)
        let stdin = core.streams.stdin.take();
        let since = core.machine.generation();
        let exit = core.exit.as_ref().map(|(_, exit)| exit.clone());
        core.rests.begin_join(id, since, exit.as_ref());
        drop(core);
        // Not before: that may be its end.
        drop(stdin);
        Joining { inner: Arc::clone(self), id, since }
    }

    /// What a look at its end finds.
    pub(super) fn look_at_end(&self, core: &Core) -> Option<Result<Exit>> {
        let exit = core.exit.as_ref().map(|(_, exit)| exit.clone());
        self.is_over(core, core.machine.generation()).then(|| self.joined(exit))
    }

    fn joined(&self, exit: Option<Exit>) -> Result<Exit> {
        exit.ok_or_else(|| Error::new(self.who(None), "join", Kind::NeverStarted))
    }

    /// Who waits since generation `since` waits no more: it has come to rest, and its callbacks have returned; within one of them, that
    /// run is over.
    pub(super) fn is_over(&self, core: &Core, since: u64) -> bool {
        core.rests.is_settled(since) || (core.is_run_over(since) && self.is_within_callback())
    }

    pub(super) fn status(&self, core: &Core) -> Status {
        Status {
            name: Arc::clone(&self.name),
            state: core.machine.state(),
            pid: core.pid(),
            main_pid: core.run.as_ref().and_then(Run::main_pid),
            started: core.started,
            generation: core.machine.generation(),
            restarts: core.machine.restarts(),
            exit: core.exit.as_ref().map(|(_, exit)| exit.clone()),
            error: core.error.clone(),
            gave_up: core.gave_up,
            next_start: core.machine.next_start(),
            text: core.text.clone(),
            containment: core.containment,
        }
    }
}

/// A join, for as long as somebody waits.
pub(super) struct Joining {
    inner: Arc<Inner>,
    id: u64,
    since: u64,
}

impl Joining {
    /// What it returns, once it does.
    pub(super) fn end(&self, core: &Core) -> Option<Result<Exit>> {
        let end = core.rests.end_of(self.id).cloned();
        let end = end
            .or_else(|| self.inner.is_over(core, self.since).then(|| core.exit.as_ref().map(|(_, exit)| exit.clone())));
        end.map(|exit| self.inner.joined(exit))
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if let Some(mut core) = self.inner.lock_own() {
            core.rests.end_join(self.id);
        }
    }
}

/// As much as two pipes and two unfinished lines may hold is still looked at when a limit is over.
const LAST_BYTES: usize = 192 << 10;
/// For the end of a run whose leader has ended.
const MOMENT: Duration = Duration::from_millis(100);
const NO_LINE: &str = "no such line";

/// A place in the captured output, for as long as a caller waits for a line.
pub(super) struct LineReader<'a> {
    inner: &'a Arc<Inner>,
    id: u64,
    generation: u64,
    operation: &'static str,
}

impl<'a> LineReader<'a> {
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        operation: &'static str,
        until: Option<Instant>,
        limit: Duration,
    ) -> Result<LineReader<'a>> {
        if !inner.config.captures_any() {
            let problem = "its output is not captured".to_owned();
            return Err(Error::new(inner.who(None), operation, Kind::Invalid(problem)));
        }
        let mut core = inner.lock();
        // The run that is being created is the current one, and its output is not there yet.
        while core.machine.state() == State::Starting {
            let seen = core.turns();
            core = inner
                .core
                .wait_past(core, seen, until)
                .map_err(|core| inner.timeout(&core, operation, NO_LINE, limit))?;
        }
        if !core.output.is_captured() {
            return Err(Error::new(inner.who(None), operation, Kind::NeverStarted));
        }
        let generation = core.output.generation();
        let ended = core.exit.as_ref().filter(|(of, _)| *of == generation).map(|(_, exit)| exit.clone());
        let end = ended.map(|exit| core.end_of(exit));
        Ok(LineReader { inner, id: core.output.add_reader(end), generation, operation })
    }

    pub(super) fn next(&self, until: Option<Instant>, limit: Duration) -> Result<Line> {
        let operation = self.operation;
        let mut is_last = false;
        loop {
            // Under one lock: the last line and the end may come one right after the other.
            let (found, turns) = self.inner.turn(|turn| {
                let line = turn.core.output.read_line(self.id);
                turn.resume_reading();
                let found = line.map(Ok).or_else(|| self.end(&turn.core).map(Err));
                (found, turn.core.turns())
            });
            if let Some(found) = found {
                return found.map_err(|end| Error::new(self.inner.who(None), operation, Kind::Ended(end)));
            }
            if self.inner.core.wait_past(self.inner.lock(), turns, until).is_err() {
                if is_last {
                    return Err(self.timeout(limit));
                }
                is_last = true;
                self.inner.turn(|turn| turn.catch_up());
            }
        }
    }

    /// The first of those that have come until now, what is still in the pipes included; however much it prints meanwhile.
    pub(super) fn by_now(&self, mut matches: impl FnMut(&Line) -> bool) -> Option<Line> {
        let mut since = 0;
        while since < LAST_BYTES {
            let is_first = since == 0;
            let kept: Vec<Line> = {
                let output = &mut self.inner.lock().output;
                std::iter::from_fn(|| output.read_line(self.id)).collect()
            };
            let length: usize = kept.iter().map(|line| line.bytes().len() + 1).sum();
            let found = kept.into_iter().find(&mut matches);
            if found.is_some() || (length == 0 && !is_first) {
                return found;
            }
            since += if is_first { 1 } else { length };
            self.inner.turn(|turn| turn.catch_up());
        }
        None
    }

    pub(super) fn timeout(&self, limit: Duration) -> Error {
        self.inner.timeout(&self.inner.lock(), self.operation, NO_LINE, limit)
    }

    /// No line comes any more.
    fn end(&self, core: &Core) -> Option<End> {
        let over = core.output.generation() != self.generation || core.output.is_closed();
        core.output.end_for(self.id).filter(|_| over).cloned()
    }
}

impl Drop for LineReader<'_> {
    fn drop(&mut self) {
        self.inner.turn(|turn| {
            turn.core.output.remove_reader(self.id);
            turn.resume_reading();
        });
    }
}
