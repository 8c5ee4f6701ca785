//! The shell around the state machine.
//!
//! A [`Turn`] holds the lock of a process, feeds events to the machine, does the actions that come out, and when it
//! ends sets the one timer, releases the lock, and only then wakes whoever waits. Under the lock nothing blocks, no
//! callback runs and no foreign code is called: signals, waits and reads are all of the non-blocking kind.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::process::ChildStdin;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::calls::Call;
use super::containment::{Occupancy, Seen, Survey};
use super::core::{Core, Inner, NeverReady, let_go};
use super::events::{EventKind, Queue};
use super::jitter::random;
use super::monitor::{self, Guard};
use super::overseen::Overseen;
use super::procfs;
use super::refused::NO_THREAD;
use super::run::Run;
use super::state::{Action, Conclusion, Event, Notice};
use super::waiting::NOTED_WITHIN;
use crate::callbacks::Callbacks;
use crate::error::{Error, Kind};
use crate::exit::{Exit, ExitFacts};
use crate::reaper::{Reaper, Watcher};
use crate::signal::Signal;
use crate::spawners::Spawners;
use crate::sys;
use crate::sys::spawn::Creator;

/// One stay under the lock of a process.
pub(super) struct Turn<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) core: Guard<'a, Core>,
    pub(super) now: Instant,
    /// The caller starts the process itself.
    pub(super) by_hand: bool,
    /// Something that a waiter may wait for is different.
    pub(super) changed: bool,
    /// Someone who may be woken by a waker alone has an answer: a run is ready, or over, or its end was told.
    pub(super) has_news: bool,
    /// Of subscribers.
    pub(super) wakers: Vec<Waker>,
    /// Perhaps not held by their subscribers any more: dropped after the lock is released, with the wakers in them.
    pub(super) queues: Vec<Arc<Queue>>,
    /// Dropped after the lock is released: closing what a child wrote to may take its time.
    ended: Option<Run>,
    /// The same: that a stdin is closed may be the end of its run.
    unwanted: Option<ChildStdin>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(inner: &'a Arc<Inner>) -> Turn<'a> {
        let mut turn = Turn {
            inner,
            core: inner.core.lock(),
            now: Instant::now(),
            by_hand: false,
            changed: false,
            has_news: false,
            wakers: Vec::new(),
            queues: Vec::new(),
            ended: None,
            unwanted: None,
        };
        turn.take_leader_back();
        turn
    }

    /// An event of the current run, or a request.
    pub(super) fn feed(&mut self, event: Event) {
        self.changed = true;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            let stood = self.core.machine.standing();
            self.core.machine.step(event, self.now, random(), &mut actions);
            self.note_standing(stood);
            for action in actions {
                events.extend(self.perform(action));
            }
        }
        if self.core.machine.is_settled() {
            self.core.note_rest();
        }
    }

    /// An event of run number `generation`, which may be over.
    pub(super) fn feed_of(&mut self, generation: u64, event: Event) {
        if self.core.machine.generation() == generation {
            self.feed(event);
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn => return self.spawn(),
            Action::Signal(signal) => self.signal_all(signal),
            Action::Kill => self.kill_all(),
            Action::Look => return self.look_around(),
            Action::Drain => return self.drain(),
            Action::Abandon => self.abandon_output(),
            Action::Conclude(conclusion) => self.conclude(conclusion),
            Action::Announce(notice) => self.announce(notice),
        }
        None
    }

    fn spawn(&mut self) -> Option<Event> {
        if self.by_hand {
            return None;
        }
        let generation = self.core.machine.generation();
        let inner = Arc::clone(self.inner);
        // What went wrong is in the status, the events and the policy's hands.
        let job = move || {
            let _ = inner.launch(generation, Creator::Here);
            let_go(inner);
        };
        match Spawners::get().restart(job) {
            Ok(()) => None,
            Err(source) => {
                let errno = source.raw_os_error().unwrap_or(libc::EAGAIN);
                let step = NO_THREAD.to_owned();
                let error = Error::new(self.inner.who(None), "start", Kind::Start { step, source });
                self.tell_refused(generation, &error);
                Some(Event::SpawnFailed(errno))
            }
        }
    }

    /// The process was created.
    ///
    /// It is registered with the reaper under the lock: one that ends at once would else be told of before it is known
    /// here, again and again, since its pidfd stays ready.
    pub(super) fn begin(&mut self, mut run: Box<Run>) -> Result<u32, (Box<Run>, io::Error)> {
        // Of one that lasts no longer than its creation the reaper need not be told: a function, or one that was killed meanwhile.
        let has_ended = sys::event::is_readable(run.leader.pidfd.as_fd());
        if let Err(error) = run.register(self.inner, has_ended) {
            return Err((run, error));
        }
        let pid = run.pid();
        let generation = run.generation;
        run.creation = self.now.saturating_duration_since(run.began);
        self.core.started = Some(run.started);
        self.core.containment = Some(run.contained.level());
        (self.core.error, self.core.text, self.core.gave_up) = (None, None, None);
        self.core.streams = std::mem::take(&mut run.streams);
        if self.core.rests.is_joined(generation) {
            self.unwanted = self.core.streams.stdin.take();
        }
        self.core.output.begin(&self.inner.config, generation);
        run.try_at = run.gate.next_try(self.now);
        self.core.run = Some(*run);
        Reaper::get().add_child(self.inner.id, Arc::clone(self.inner) as Arc<dyn Watcher>);
        self.feed_of(generation, Event::Spawned);
        if has_ended {
            self.look_at_leader();
        }
        Ok(pid)
    }

    pub(super) fn refused(&mut self, generation: u64, errno: i32, error: &Error) {
        self.tell_refused(generation, error);
        self.feed_of(generation, Event::SpawnFailed(errno));
    }

    fn tell_refused(&mut self, generation: u64, error: &Error) {
        self.core.error = Some(error.clone());
        self.emit(EventKind::StartFailed(error.clone()));
        self.answer(generation, &Err(NeverReady::Refused(error.clone())));
    }

    fn signal_all(&mut self, signal: Signal) {
        let Some(run) = &self.core.run else { return };
        let Some(note) = run.contained.note(&run.leader) else { return self.signal_now(signal) };
        self.send_owed();
        let (inner, now) = (Arc::clone(self.inner), self.now);
        let Some(run) = &mut self.core.run else { return };
        let generation = run.generation;
        run.owed = Some((signal, now + NOTED_WITHIN));
        procfs::survey(Box::new(move |all| {
            _ = all.as_ref().map(note);
            inner.turn(|turn| {
                if turn.core.run.as_ref().is_some_and(|run| run.generation == generation) {
                    turn.send_owed();
                }
            });
            let_go(inner);
        }));
    }

    /// Who belongs was noted, or it takes too long.
    pub(super) fn send_owed(&mut self) {
        if let Some((signal, _)) = self.core.run.as_mut().and_then(|run| run.owed.take()) {
            self.signal_now(signal);
        }
    }

    fn signal_now(&mut self, signal: Signal) {
        let Some(run) = &self.core.run else { return };
        let sent = run.contained.signal(&run.leader, signal);
        if sent.is_ok() {
            // A stopped process takes a signal only when it goes on.
            let _ = run.contained.signal(&run.leader, Signal::CONT);
        }
        self.signaled(signal, sent);
    }

    /// ESRCH: there is nobody to signal.
    pub(super) fn signal_by_hand(&mut self, signal: Signal) -> io::Result<()> {
        let run = self.core.run.as_ref().filter(|run| run.ended.is_none());
        let run = run.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        run.contained.signal(&run.leader, signal)?;
        self.emit(EventKind::SignalSent(signal));
        Ok(())
    }

    fn kill_all(&mut self) {
        // In the order in which they were decided.
        self.send_owed();
        let Some(run) = &mut self.core.run else { return };
        let sent = run.contained.kill(&run.leader);
        // It is sent again to who was created meanwhile, and told once.
        let again = std::mem::replace(&mut run.killed, true);
        if !again || sent.is_err() {
            self.signaled(Signal::KILL, sent);
        }
    }

    fn signaled(&mut self, signal: Signal, sent: io::Result<()>) {
        match sent {
            Ok(()) => self.emit(EventKind::SignalSent(signal)),
            // It ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => {
                let name = Arc::clone(&self.inner.name);
                Callbacks::get().run(move || log::error!("cannot send {signal} to `{name}`: {error}"));
            }
        }
    }

    fn look_around(&mut self) -> Option<Event> {
        let run = self.core.run.as_mut()?;
        run.looks += 1;
        match run.contained.occupancy(&run.leader, run.looks) {
            Occupancy::Empty => Some(Event::Empty),
            Occupancy::Occupied => Some(Event::Occupied),
            Occupancy::Unclear => Some(Event::Unclear),
            Occupancy::Survey(is_occupied) => {
                self.inner.survey(run.generation, is_occupied);
                None
            }
            Occupancy::After(act) => {
                let (inner, generation) = (Arc::clone(self.inner), run.generation);
                Callbacks::get().run_own(move || {
                    act();
                    inner.turn(|turn| turn.feed_of(generation, Event::Empty));
                });
                None
            }
        }
    }

    fn conclude(&mut self, conclusion: Conclusion) {
        let Some(mut run) = self.core.run.take() else { return };
        run.reap();
        Reaper::get().remove_child(self.inner.id);
        let usage = run.ended.map(|ended| ended.usage).unwrap_or_default();
        let exit = Exit::from(ExitFacts {
            reason: conclusion.reason,
            core_dumped: run.ended.is_some_and(|ended| ended.core_dumped),
            pid: run.pid(),
            requested: conclusion.requested,
            forced: conclusion.forced,
            fault: conclusion.fault,
            // (A short one is over by the time when it is known to live.)
            runtime: run.creation + conclusion.runtime,
            usage,
            output_leaked: conclusion.output_leaked,
        });
        self.core.streams.stdin = None;
        self.core.output.end();
        self.emit_as(Some(run.pid()), EventKind::Exited(exit.clone()));
        // Also where it is started again in the same breath: for who waits in a callback.
        self.has_news = true;
        self.deliver_lines();
        if self.core.is_awaited(run.generation) || self.core.output.has_readers(run.generation) {
            let end = self.core.end_of(exit.clone());
            self.core.output.tell_readers(run.generation, &end);
            self.answer(run.generation, &Err(NeverReady::Ended(end)));
        }
        self.core.exit = Some((run.generation, exit.clone()));
        if self.core.machine.reports() {
            self.call(Call::Exit(run.generation, exit));
        }
        if self.inner.config.survivors.ladder().is_none() && sys::process::adopts_orphans() {
            run.leave();
        }
        self.ended = Some(run);
    }

    /// Who waits for that run to be ready is told of it, futures too.
    fn answer(&mut self, generation: u64, answer: &Result<u32, NeverReady>) {
        if self.core.is_awaited(generation) {
            self.core.answer(generation, answer);
            self.has_news = true;
        }
    }

    fn announce(&mut self, notice: Notice) {
        let kind = match notice {
            Notice::Started => {
                self.call(Call::Start);
                EventKind::Started
            }
            Notice::Ready => {
                let generation = self.core.machine.generation();
                self.close_gate();
                if let Some(pid) = self.core.run.as_ref().map(Run::pid) {
                    self.answer(generation, &Ok(pid));
                }
                self.call(Call::Ready);
                EventKind::Ready
            }
            Notice::Fault(fault) => EventKind::Fault(fault),
            Notice::Paused => EventKind::Paused,
            Notice::Continued => EventKind::Continued,
            Notice::Stopping => EventKind::Stopping,
            Notice::Backoff { due } => EventKind::Backoff(due.saturating_duration_since(self.now)),
            Notice::LeftBehind => EventKind::LeftBehind,
            Notice::GaveUp(why) => {
                self.core.gave_up = Some(why);
                let name = Arc::clone(&self.inner.name);
                let cause = self.core.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
                Callbacks::get().run(move || log::warn!("`{name}` is not started again: {why}{cause}"));
                EventKind::Failed(why)
            }
        };
        self.emit(kind);
    }

    pub(super) fn finish(mut self) {
        let of_run = self.core.run.as_ref().and_then(Run::deadline);
        let due = [self.core.machine.deadline(), of_run].into_iter().flatten().min();
        if due != self.core.timer {
            Reaper::get().set_timer(self.inner.id, self.core.timer, due, self.inner);
            self.core.timer = due;
        }
        self.inner.run_calls_if_any(&mut self.core);
        let Turn { inner, core, changed, has_news, wakers, queues, ended, unwanted, .. } = self;
        let over = has_news || (changed && !core.machine.is_alive());
        let overseer = core.overseen.as_ref().and_then(Overseen::to_tell);
        inner.core.release(core, changed, over);
        wakers.into_iter().for_each(monitor::wake);
        drop((queues, ended, unwanted));
        if let Some((overseer, place)) = overseer {
            overseer.look_at(place);
        }
    }
}

impl Inner {
    fn survey(self: &Arc<Self>, generation: u64, look: Survey) {
        let inner = Arc::clone(self);
        procfs::survey(Box::new(move |all| {
            // What cannot be looked at is not taken for empty: it is looked at again.
            match all.as_ref().map_or(Seen::Unclear, look) {
                Seen::Unclear => inner.turn(|turn| turn.feed_of(generation, Event::Unclear)),
                Seen::Occupied => inner.turn(|turn| turn.feed_of(generation, Event::Occupied)),
                Seen::Empty => inner.turn(|turn| turn.feed_of(generation, Event::Empty)),
                Seen::Again(look) => inner.survey(generation, look),
            }
            // Others wait for that thread.
            let_go(inner);
        }));
    }
}
