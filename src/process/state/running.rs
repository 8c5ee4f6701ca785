//! A run: from the moment its leader lives until it is over.

use std::time::{Duration, Instant};

use super::between_runs::Wish;
use super::ladder::{Climb, Ladder};
use super::lateness::Lateness;
use super::machine::{Machine, Phase};
use super::protocol::{Action, Conclusion, Event, Notice};
use crate::exit::{ExitReason, Fault};
use crate::policy::{Outcome, Verdict};

/// How often the emptiness of a group is looked at, once someone in it outlived the leader.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(20);
/// A ladder waits so long, at most, to hear whether the leader left anyone behind: it may have been the last.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// After SIGKILL only the kernel (or a tracer, or a dead file system) can hold a process back.
const SLOW_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Run {
    since: Instant,
    pub(super) ready: Option<Instant>,
    pub(super) ready_by: Option<Instant>,
    pub(super) watchdog_by: Option<Instant>,
    pub(super) paused: bool,
    pub(super) announced_stop: bool,
    /// It announced its stop, and has to be gone by then.
    pub(super) gone_by: Option<Instant>,
    /// We end it because it did not do what it should: a failure, whatever its exit says.
    fault: Option<Fault>,
    requested: bool,
    /// When the leader ended, it was by a stop of ours.
    stopped_by_us: bool,
    pub(super) forced: bool,
    pub(super) climb: Option<Climb>,
    pub(super) lateness: Lateness,
}

#[derive(Debug)]
pub(super) struct Clearing {
    pub(super) run: Run,
    reason: ExitReason,
    ended: Instant,
    /// When to look again; `None` while an answer is awaited.
    pub(super) look: Option<Instant>,
    pause: Duration,
    /// No step of a ladder before that, until there was an answer.
    unheard: Option<Instant>,
    /// Since the leader ended.
    stop_requested: bool,
}

/// The run's processes are gone, or left alone; its pipes are not.
#[derive(Debug)]
pub(super) struct Draining {
    pub(super) run: Run,
    reason: ExitReason,
    ended: Instant,
    /// `None`: for longer than the clock can say.
    pub(super) until: Option<Instant>,
}

impl Clearing {
    /// The leader has ended, just now.
    fn new(run: Run, reason: ExitReason, now: Instant) -> Clearing {
        let unheard = now.checked_add(HEARD_WITHIN);
        Clearing { run, reason, ended: now, look: None, pause: FIRST_LOOK, unheard, stop_requested: false }
    }

    fn look_later(&mut self, now: Instant) {
        self.look = Some(now + self.pause);
        self.pause = (self.pause * 2).min(if self.run.forced { SLOW_LOOK } else { LAST_LOOK });
    }

    /// When the ladder's next step is due.
    pub(super) fn climb_due(&self) -> Option<Instant> {
        self.run.climb_due().map(|due| self.unheard.map_or(due, |until| due.max(until)))
    }
}

impl Run {
    pub(super) fn climb_due(&self) -> Option<Instant> {
        self.climb.and_then(|climb| climb.due)
    }

    pub(super) fn forget_limits(&mut self) {
        [self.ready_by, self.watchdog_by, self.gone_by] = [None; 3];
    }
}

impl Machine {
    pub(super) fn spawned(&mut self, wish: Option<Wish>, now: Instant, out: &mut Vec<Action>) -> Phase {
        let mut run = Run {
            since: now,
            ready: None,
            ready_by: self.rules.ready_within.and_then(|limit| now.checked_add(limit)),
            watchdog_by: None,
            paused: false,
            announced_stop: false,
            gone_by: None,
            fault: None,
            requested: false,
            stopped_by_us: false,
            forced: false,
            climb: None,
            lateness: Lateness::default(),
        };
        out.push(Action::Announce(Notice::Started));
        match wish {
            Some(Wish::Stop) => self.stop_up(run, now, out),
            Some(Wish::Kill) => self.kill_up(run, out),
            None => {
                if self.rules.ready_within.is_none() {
                    self.become_ready(&mut run, now, out);
                }
                Phase::Up(run)
            }
        }
    }

    fn become_ready(&self, run: &mut Run, now: Instant, out: &mut Vec<Action>) {
        run.lateness.note_heard(true, now);
        run.ready = Some(now);
        run.ready_by = None;
        run.watchdog_by = self.rules.watchdog.and_then(|limit| now.checked_add(limit));
        out.push(Action::Announce(Notice::Ready));
    }

    pub(super) fn up(&mut self, mut run: Run, event: Event, now: Instant, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::LeaderExited(reason) => {
                run.stopped_by_us = run.requested || (run.announced_stop && run.climb.is_some());
                out.push(Action::Look);
                return Phase::Clearing(Clearing::new(run, reason, now));
            }
            Event::Stop => return self.stop_up(run, now, out),
            Event::Kill => return self.kill_up(run, out),
            Event::Last | Event::NotLast => self.count_last(event),
            Event::Ready => {
                if run.ready.is_none() && run.climb.is_none() && !run.announced_stop {
                    self.become_ready(&mut run, now, out);
                }
            }
            Event::Watchdog => {
                run.lateness.note_heard(true, now);
                if run.watchdog_by.is_some() {
                    run.watchdog_by = self.rules.watchdog.and_then(|limit| now.checked_add(limit));
                }
            }
            Event::WatchdogFailed => return self.fault(run, Fault::WatchdogMissed, now, out),
            Event::AnnouncedStop => {
                // It stops by itself: neither readiness nor the watchdog has anything to say from now on. But it has no
                // longer for it than after our first signal, as with systemd: who hangs in its stop is stopped.
                if !run.announced_stop && run.climb.is_none() {
                    run.gone_by = now.checked_add(self.rules.stop.first_grace());
                }
                run.announced_stop = true;
                run.watchdog_by = None;
                run.ready_by = None;
            }
            Event::Paused => {
                if !run.paused {
                    run.paused = true;
                    out.push(Action::Announce(Notice::Paused));
                }
            }
            Event::Continued => {
                if run.paused {
                    run.paused = false;
                    out.push(Action::Announce(Notice::Continued));
                }
            }
            Event::Tick => return self.tick(run, now, out),
            Event::Start
            | Event::Launch
            | Event::Permit
            | Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Empty
            | Event::Occupied
            | Event::Unclear
            | Event::Drained
            | Event::Reported => {}
        }
        Phase::Up(run)
    }

    fn tick(&mut self, mut run: Run, now: Instant, out: &mut Vec<Action>) -> Phase {
        if run.climb.is_some() {
            let due = run.climb_due();
            self.climb(&mut run, due, now, out);
        } else if run.lateness.has_passed(run.ready_by, now) {
            return self.fault(run, Fault::NotReady, now, out);
        } else if run.lateness.has_passed(run.watchdog_by, now) {
            return self.fault(run, Fault::WatchdogMissed, now, out);
        } else if run.lateness.has_passed(run.gone_by, now) {
            out.push(Action::Announce(Notice::Stopping));
            self.begin(&mut run, Ladder::Stop, now, out);
        }
        Phase::Up(run)
    }

    /// Ends a run that did not do what it should.
    fn fault(&mut self, mut run: Run, fault: Fault, now: Instant, out: &mut Vec<Action>) -> Phase {
        if run.climb.is_none() {
            run.fault = Some(fault);
            out.push(Action::Announce(Notice::Fault(fault)));
            self.begin(&mut run, Ladder::Stop, now, out);
        }
        Phase::Up(run)
    }

    fn stop_up(&mut self, mut run: Run, now: Instant, out: &mut Vec<Action>) -> Phase {
        self.restarting = false;
        run.requested = true;
        if run.climb.is_none() {
            out.push(Action::Announce(Notice::Stopping));
            self.begin(&mut run, Ladder::Stop, now, out);
        }
        Phase::Up(run)
    }

    fn kill_up(&mut self, mut run: Run, out: &mut Vec<Action>) -> Phase {
        self.restarting = false;
        run.requested = true;
        if run.climb.is_none() {
            out.push(Action::Announce(Notice::Stopping));
        }
        self.kill(&mut run, out);
        Phase::Up(run)
    }

    pub(super) fn clearing(&mut self, mut at: Clearing, event: Event, now: Instant, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::Empty => return self.drain(at, now, out),
            Event::Unclear if at.unheard.is_some_and(|until| now < until) => at.look_later(now),
            Event::Occupied | Event::Unclear => {
                at.unheard = None;
                if at.run.climb.is_none() {
                    if self.rules.survivors.ladder().is_none() {
                        return self.drain(at, now, out);
                    }
                    out.push(Action::Announce(Notice::LeftBehind));
                    self.stop_survivors(&mut at.run, at.stop_requested, now, out);
                }
                at.look_later(now);
            }
            Event::Stop => {
                self.restarting = false;
                at.stop_requested = true;
                self.hurry(&mut at.run, now, out);
            }
            Event::Last | Event::NotLast => self.count_last(event),
            Event::Kill => {
                self.restarting = false;
                self.kill(&mut at.run, out);
                at.pause = FIRST_LOOK;
                // An answer that is on its way already leads to the next look.
                at.look = at.look.map(|_| now + at.pause);
            }
            Event::Tick => {
                let due = at.climb_due();
                self.climb(&mut at.run, due, now, out);
                if at.look.is_some_and(|look| now >= look) {
                    at.look = None;
                    // A process created while we killed the others has not seen the signal.
                    if at.run.forced {
                        out.push(Action::Kill);
                    }
                    out.push(Action::Look);
                }
            }
            Event::Start
            | Event::Launch
            | Event::Permit
            | Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Ready
            | Event::Watchdog
            | Event::WatchdogFailed
            | Event::AnnouncedStop
            | Event::Paused
            | Event::Continued
            | Event::LeaderExited(_)
            | Event::Drained
            | Event::Reported => {}
        }
        Phase::Clearing(at)
    }

    fn drain(&mut self, at: Clearing, now: Instant, out: &mut Vec<Action>) -> Phase {
        out.push(Action::Drain);
        let Clearing { run, reason, ended, .. } = at;
        Phase::Draining(Draining { run, reason, ended, until: now.checked_add(self.rules.drain) })
    }

    pub(super) fn draining(
        &mut self,
        at: Draining,
        event: Event,
        now: Instant,
        random: f64,
        out: &mut Vec<Action>,
    ) -> Phase {
        match event {
            Event::Drained => self.conclude(at, false, now, random, out),
            Event::Tick if at.until.is_some_and(|until| now >= until) => {
                out.push(Action::Abandon);
                self.conclude(at, true, now, random, out)
            }
            Event::Stop | Event::Kill => {
                self.restarting = false;
                Phase::Draining(at)
            }
            Event::Last | Event::NotLast => {
                self.count_last(event);
                Phase::Draining(at)
            }
            Event::Start
            | Event::Launch
            | Event::Permit
            | Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Ready
            | Event::Watchdog
            | Event::WatchdogFailed
            | Event::AnnouncedStop
            | Event::Paused
            | Event::Continued
            | Event::LeaderExited(_)
            | Event::Empty
            | Event::Occupied
            | Event::Unclear
            | Event::Reported
            | Event::Tick => Phase::Draining(at),
        }
    }

    fn conclude(
        &mut self,
        at: Draining,
        output_leaked: bool,
        now: Instant,
        random: f64,
        out: &mut Vec<Action>,
    ) -> Phase {
        let Draining { run, reason, ended, .. } = at;
        out.push(Action::Conclude(Conclusion {
            reason,
            requested: run.requested,
            forced: run.forced,
            fault: run.fault,
            output_leaked,
            runtime: ended.saturating_duration_since(run.since),
        }));
        let verdict = if self.restarting {
            let outcome = self.outcome(&run, reason, ended);
            self.rules.restart.decide(&mut self.history, &outcome, now, random)
        } else {
            Verdict::Done
        };
        if self.rules.reports { Phase::Reporting { verdict } } else { self.proceed(verdict, now, out) }
    }

    fn outcome(&self, run: &Run, reason: ExitReason, ended: Instant) -> Outcome {
        let stable = match run.ready {
            Some(ready) => ended.saturating_duration_since(ready),
            None => Duration::ZERO,
        };
        if run.fault.is_some() {
            return Outcome::Fault { stable };
        }
        // Who announced its stop and needed our signal for it was to end, too.
        Outcome::Ended { reason, stable, stopped_by_us: run.stopped_by_us }
    }
}
