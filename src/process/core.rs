//! What a process is made of: its options, the one lock and what it guards, and how the reaper reaches it.
//!
//! Every change goes through a [`Turn`].
//!
//! Lock order: `docs/architecture.md`, Locks.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Instant, SystemTime};

use super::calls::Calling;
use super::captured::Captured;
use super::config::Config;
use super::containment::{Containment, ContainmentLevel};
use super::events::{Queue, Subscriber};
use super::launch;
use super::monitor::{self, Guard, Monitor};
use super::overseen::Overseen;
use super::readiness;
use super::refused::Refused;
use super::rests::Rests;
use super::run::{Channel, Run, split};
use super::state::{Event, Machine, State};
use super::turn::Turn;
use crate::callbacks::Callbacks;
use crate::error::{End, Error, Kind, Result, Who};
use crate::exit::Exit;
use crate::policy::{GiveUp, Restart};
use crate::reaper::{Reaper, Watcher};
use crate::spawners::Spawners;
use crate::sys;
use crate::sys::spawn::Creator;

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) name: Arc<str>,
    /// For the text of an error.
    pub(super) owner_pid: u32,
    /// Of the program that may touch this one; a fork of it may not.
    incarnation: u32,
    pub(super) id: u64,
    pub(super) handles: AtomicUsize,
    pub(super) core: Monitor<Core>,
}

pub(super) struct Core {
    pub(super) machine: Machine,
    pub(super) run: Option<Run>,
    pub(super) timer: Option<Instant>,
    /// The exit of the last run that is over, and its generation.
    pub(super) exit: Option<(u64, Exit)>,
    pub(super) error: Option<Error>,
    pub(super) rests: Rests,
    /// Those who wait until a run is ready.
    pub(super) awaited: Vec<Awaited>,
    pub(super) started: Option<SystemTime>,
    pub(super) containment: Option<ContainmentLevel>,
    pub(super) text: Option<String>,
    pub(super) gave_up: Option<GiveUp>,
    pub(super) streams: Streams,
    pub(super) output: Captured,
    pub(super) calling: Calling,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) detached: bool,
    pub(super) overseen: Option<Overseen>,
    /// A callback thread is trying whether it can be reached.
    pub(super) checking: bool,
}

/// Why a run will not be ready.
#[derive(Clone)]
pub(super) enum NeverReady {
    Ended(End),
    /// It could not be created.
    Refused(Error),
}

/// Someone who waits until a run is ready.
pub(super) struct Awaited {
    id: u64,
    generation: u64,
    /// Its pid, or how it ended before.
    answer: Option<Result<u32, NeverReady>>,
}

/// The user's ends of piped streams, until they are taken.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<std::process::ChildStdin>,
    pub(super) stdout: Option<std::process::ChildStdout>,
    pub(super) stderr: Option<std::process::ChildStderr>,
}

impl Inner {
    pub(super) fn new(config: Config) -> Arc<Inner> {
        let name: Arc<str> = config.name().into();
        let output = Captured::new(&config);
        let mut rules = config.rules();
        rules.reports |= output.is_delivered();
        let core = Core {
            machine: Machine::new(rules),
            run: None,
            timer: None,
            exit: None,
            error: None,
            rests: Rests::default(),
            awaited: Vec::new(),
            started: None,
            containment: None,
            text: None,
            gave_up: None,
            streams: Streams::default(),
            output,
            calling: Calling::default(),
            subscribers: Vec::new(),
            detached: false,
            overseen: None,
            checking: false,
        };
        Arc::new(Inner {
            config,
            name,
            owner_pid: sys::process::pid(),
            incarnation: sys::process::incarnation(),
            id: Reaper::get().new_id(),
            handles: AtomicUsize::new(0),
            core: Monitor::new(core),
        })
    }

    /// Who comes finds its leader looked at, and watched by the reaper, whoever has borrowed that.
    pub(super) fn lock(self: &Arc<Self>) -> Guard<'_, Core> {
        loop {
            let core = self.core.lock();
            if core.run.as_ref().is_none_or(|run| !run.is_lent) {
                return core;
            }
            drop(core);
            self.turn(|_| ());
        }
    }

    /// `None` in a fork of our program: there the lock may be held for ever, and what it guards is not ours.
    pub(super) fn lock_own(self: &Arc<Self>) -> Option<Guard<'_, Core>> {
        if self.is_foreign() { None } else { Some(self.lock()) }
    }

    pub(super) fn who(&self, pid: Option<u32>) -> Who {
        Who { name: Arc::clone(&self.name), pid }
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.incarnation != sys::process::incarnation()
    }

    /// Does something with the state machine; see the module's text.
    pub(super) fn turn<R>(self: &Arc<Self>, act: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let mut turn = Turn::new(self);
        let result = act(&mut turn);
        turn.finish();
        result
    }

    /// Creates the process of `generation`.
    pub(super) fn launch(self: &Arc<Self>, generation: u64, creator: Creator<'_>) -> Result<u32> {
        let detached = self.lock().detached;
        let launched = self.prepare_threads().and_then(|()| launch::launch(&self.config, detached, creator));
        let begun = launched.and_then(|launched| {
            let run = Box::new(Run::new(generation, launched));
            self.turn(|turn| turn.begin(run)).map_err(|(run, source)| {
                run.abolish();
                Refused::new("watch the process", source)
            })
        });
        match begun {
            Ok(pid) => {
                self.hear_of_orphans();
                Ok(pid)
            }
            Err(refused) => {
                let errno = refused.errno();
                let Refused { step, source, .. } = refused;
                let error = Error::new(self.who(None), "start", Kind::Start { step, source });
                self.turn(|turn| turn.refused(generation, errno, &error));
                Err(error)
            }
        }
    }

    /// Whether anything of this process runs on callback threads.
    pub(super) fn needs_callbacks(&self) -> bool {
        let calls = &self.config.calls;
        calls.on_start.is_some()
            || calls.on_ready.is_some()
            || calls.on_exit.is_some()
            || self.config.captures_any()
            || matches!(self.config.child.containment, Containment::Tree)
            || matches!(
                self.config.ready.kind,
                readiness::Kind::Unix(_)
                    | readiness::Kind::File(_)
                    | readiness::Kind::Check(_)
                    | readiness::Kind::Notify
            )
            || !sys::pidfd::features().group_signal
    }

    /// What a run needs besides its child is there before the child.
    fn prepare_threads(&self) -> Result<(), Refused> {
        let failed = |source| Refused::new("start the threads that look after it", source);
        Reaper::get().ensure().map_err(failed)?;
        sys::pidfd::ensure_features().map_err(failed)?;
        if self.config.restart() != Restart::never() {
            // Now: under a limit of processes a restart has only the place of the run before it, and a new thread would take that.
            Spawners::get().ensure_restarts().map_err(failed)?;
        }
        if self.needs_callbacks() { Callbacks::get().ensure().map_err(failed) } else { Ok(()) }
    }
}

impl Core {
    pub(super) fn add_subscriber(&mut self, queue: &Arc<Queue>, is_shared: bool) {
        self.subscribers.retain(|subscriber| subscriber.queue.strong_count() > 0);
        self.subscribers.push(Subscriber { queue: Arc::downgrade(queue), is_shared });
    }

    /// It rests now, or did before it was started by hand.
    pub(super) fn note_rest(&mut self) {
        let generation = self.machine.generation();
        let exit = self.exit.as_ref().map(|(_, exit)| exit);
        self.rests.note(generation, exit, self.calling.has_told(generation));
    }

    pub(super) fn is_run_over(&self, generation: u64) -> bool {
        !self.machine.is_alive() || self.machine.generation() > generation
    }

    /// The leader's, while it lives.
    pub(super) fn pid(&self) -> Option<u32> {
        self.run.as_ref().filter(|run| run.ended.is_none()).map(Run::pid)
    }

    /// How a run ended that somebody wanted more of.
    pub(super) fn end_of(&self, exit: Exit) -> End {
        let goes_on = matches!(self.machine.state(), State::Backoff | State::Starting);
        End { exit, said: self.output.last_words(), goes_on }
    }

    /// Someone waits until run number `generation` is ready; see [`answer_of`](Core::answer_of).
    pub(super) fn await_ready(&mut self, generation: u64) -> u64 {
        let id = monitor::new_id();
        self.awaited.push(Awaited { id, generation, answer: None });
        id
    }

    /// The same for the run that is there, or was ready already; `None` if there is none.
    pub(super) fn join_the_waiting(&mut self) -> Option<u64> {
        if !self.machine.is_alive() {
            return None;
        }
        let generation = self.machine.generation();
        let id = self.await_ready(generation);
        if self.machine.was_ready()
            && let Some(run) = &self.run
        {
            let pid = run.pid();
            self.answer(generation, &Ok(pid));
        }
        Some(id)
    }

    pub(super) fn is_awaited(&self, generation: u64) -> bool {
        self.awaited.iter().any(|awaited| awaited.generation == generation && awaited.answer.is_none())
    }

    /// What those are told who wait for run number `generation`. The first answer holds: a later run says nothing about
    /// it, however soon that one is ready.
    pub(super) fn answer(&mut self, generation: u64, answer: &Result<u32, NeverReady>) {
        for awaited in self.awaited.iter_mut().filter(|awaited| awaited.generation == generation) {
            awaited.answer.get_or_insert_with(|| answer.clone());
        }
    }

    pub(super) fn answer_of(&self, id: u64) -> Option<Result<u32, NeverReady>> {
        self.awaited.iter().find(|awaited| awaited.id == id)?.answer.clone()
    }

    pub(super) fn await_no_more(&mut self, id: u64) {
        self.awaited.retain(|awaited| awaited.id != id);
        if self.awaited.is_empty() {
            // An idle process keeps no room for those who do not wait.
            self.awaited = Vec::new();
        }
    }
}

impl Watcher for Inner {
    fn ready(self: Arc<Self>, key: u64) {
        let Some((generation, channel)) = split(key) else { return };
        self.turn(|turn| {
            if turn.core.run.as_ref().is_none_or(|run| run.generation != generation) {
                return;
            }
            match channel {
                Channel::Pidfd => turn.look_at_leader(),
                Channel::Stdout => turn.read_output(0),
                Channel::Stderr => turn.read_output(1),
                Channel::Gate => turn.read_gate(),
                Channel::Connect => turn.connected(),
                Channel::Main => turn.main_ended(),
            }
        });
        let_go(self);
    }

    fn due(self: Arc<Self>, now: Instant) {
        self.turn(|turn| {
            // The reaper took it out of its list, unless it was set anew meanwhile.
            if turn.core.timer.is_some_and(|at| at <= now) {
                turn.core.timer = None;
            }
            let run = turn.core.run.as_ref();
            let relook = run.and_then(|run| run.relook).is_some_and(|relook| now >= relook.at);
            let try_gate = run.and_then(|run| run.try_at).is_some_and(|at| now >= at);
            let run_owes = run.and_then(|run| run.owed).is_some_and(|(_, at)| now >= at);
            let take_orphans = run.and_then(|run| run.orphans_at).is_some_and(|at| now >= at);
            if take_orphans {
                turn.take_orphans();
            }
            if run_owes {
                turn.send_owed();
            }
            if relook {
                turn.look_at_leader();
            }
            if try_gate {
                turn.try_gate();
            }
            turn.hear_before_judging();
            turn.feed(Event::Tick);
        });
        let_go(self);
    }

    fn look(self: Arc<Self>) {
        self.turn(|turn| {
            turn.look_for_stops();
            turn.look_for_orphans();
        });
        let_go(self);
    }
}

/// A thread of ours may hold a process last. What the user's closures captured is dropped with it, and the descriptors that the
/// user gave it are closed: that may block or panic, on a callback thread.
pub(super) fn let_go(inner: Arc<Inner>) {
    if let Some(mut inner) = Arc::into_inner(inner) {
        inner.end_events();
        if inner.config.owns_what_is_the_users() {
            Callbacks::get().run(move || drop(inner));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_events();
    }
}

impl Inner {
    fn end_events(&mut self) {
        let core = self.core.get_mut();
        let alone = core.subscribers.iter().filter(|subscriber| !subscriber.is_shared);
        let queues: Vec<_> = alone.filter_map(|subscriber| subscriber.queue.upgrade()).collect();
        queues.iter().filter_map(|queue| queue.end()).for_each(monitor::wake);
    }
}
