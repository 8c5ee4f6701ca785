//! Before, between and after the runs: creating a process, reporting its end, waiting for the next start.

use std::time::Instant;

use super::machine::{Machine, Phase};
use super::protocol::{Action, Event, Notice};
use crate::policy::{History, Outcome, Verdict};

/// A stop that arrived before there was anything to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Stop,
    Kill,
}

impl Machine {
    /// What the policy says counts only as long as nobody waits for the last end.
    pub(super) fn in_force(&self, verdict: Verdict) -> Verdict {
        if self.last > 0 { Verdict::Done } else { verdict }
    }

    pub(super) fn count_last(&mut self, event: Event) {
        self.last = if event == Event::Last { self.last.saturating_add(1) } else { self.last.saturating_sub(1) };
    }

    pub(super) fn at_rest(&mut self, phase: Phase, event: Event, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::Start | Event::Launch => self.start_anew(event, out),
            Event::Permit
            | Event::Stop
            | Event::Kill
            | Event::Last
            | Event::NotLast
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
            | Event::Drained
            | Event::Reported
            | Event::Tick => phase,
        }
    }

    fn start_anew(&mut self, event: Event, out: &mut Vec<Action>) -> Phase {
        self.generation += 1;
        self.restarting = true;
        self.last = 0;
        if event == Event::Start {
            self.forget();
        }
        out.push(Action::Spawn);
        Phase::Starting { by_hand: event == Event::Start, wish: None }
    }

    /// What the policy remembers of earlier runs.
    pub(crate) fn forget(&mut self) {
        self.history = History::default();
    }

    fn start_again(&mut self, out: &mut Vec<Action>) -> Phase {
        self.generation += 1;
        self.restarts += 1;
        out.push(Action::Spawn);
        Phase::Starting { by_hand: false, wish: None }
    }

    pub(super) fn starting(
        &mut self,
        by_hand: bool,
        wish: Option<Wish>,
        event: Event,
        now: Instant,
        random: f64,
        out: &mut Vec<Action>,
    ) -> Phase {
        match event {
            Event::Spawned => self.spawned(wish, now, out),
            // A start by hand tells its caller, who decides; the policy is for what ran once.
            Event::SpawnFailed(_) if by_hand || !self.restarting => Phase::Idle,
            Event::SpawnFailed(errno) => {
                let outcome = Outcome::cannot_start(errno);
                let verdict = self.rules.restart.decide(&mut self.history, &outcome, now, random);
                self.proceed(verdict, now, out)
            }
            Event::Stop => {
                self.restarting = false;
                Phase::Starting { by_hand, wish: wish.or(Some(Wish::Stop)) }
            }
            Event::Kill => {
                self.restarting = false;
                Phase::Starting { by_hand, wish: Some(Wish::Kill) }
            }
            Event::Last | Event::NotLast => {
                self.count_last(event);
                Phase::Starting { by_hand, wish }
            }
            Event::Start
            | Event::Launch
            | Event::Permit
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
            | Event::Drained
            | Event::Reported
            | Event::Tick => Phase::Starting { by_hand, wish },
        }
    }

    pub(super) fn proceed(&mut self, verdict: Verdict, now: Instant, out: &mut Vec<Action>) -> Phase {
        match self.in_force(verdict) {
            Verdict::Done => Phase::Idle,
            Verdict::Again { at } if self.overseen => Phase::Backoff { due: at, held: true },
            Verdict::Again { at } => self.start_at(at, now, out),
            Verdict::GiveUp(why) => {
                out.push(Action::Announce(Notice::GaveUp(why)));
                Phase::Failed
            }
        }
    }

    fn start_at(&mut self, due: Instant, now: Instant, out: &mut Vec<Action>) -> Phase {
        if due <= now {
            return self.start_again(out);
        }
        out.push(Action::Announce(Notice::Backoff { due }));
        Phase::Backoff { due, held: false }
    }

    pub(super) fn reporting(&mut self, verdict: Verdict, event: Event, now: Instant, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::Reported => self.proceed(verdict, now, out),
            Event::Start | Event::Launch => self.start_anew(event, out),
            Event::Last | Event::NotLast => {
                self.count_last(event);
                Phase::Reporting { verdict }
            }
            Event::Stop | Event::Kill => {
                self.restarting = false;
                match verdict {
                    Verdict::Done | Verdict::Again { .. } => Phase::Reporting { verdict: Verdict::Done },
                    Verdict::GiveUp(why) => Phase::Reporting { verdict: Verdict::GiveUp(why) },
                }
            }
            Event::Permit
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
            | Event::Drained
            | Event::Tick => Phase::Reporting { verdict },
        }
    }

    pub(super) fn backing_off(
        &mut self,
        due: Instant,
        held: bool,
        event: Event,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Phase {
        match event {
            Event::Tick if now >= due && !held => self.start_again(out),
            Event::Permit if held => self.start_at(due, now, out),
            Event::Start | Event::Launch => self.start_anew(event, out),
            Event::Stop | Event::Kill | Event::Last => {
                self.restarting = false;
                Phase::Idle
            }
            Event::Permit
            | Event::NotLast
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
            | Event::Drained
            | Event::Reported
            | Event::Tick => Phase::Backoff { due, held },
        }
    }
}
