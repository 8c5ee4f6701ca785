//! The machine: its phases, what can be asked of it, and the way of an event to its phase.

use std::time::Instant;

use super::between_runs::Wish;
use super::protocol::{Action, Event, Rules, Standing};
use super::running::{Clearing, Draining, Run};
use super::shown::State;
use crate::policy::{History, Restart, Verdict};

#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) rules: Rules,
    phase: Phase,
    pub(super) generation: u64,
    pub(super) history: History,
    /// Off from an explicit stop until the next start by hand.
    pub(super) restarting: bool,
    /// So many wait for the run that is there, or whose end is being reported, to be over, and want none after it.
    pub(super) last: u32,
    pub(super) restarts: u64,
    /// Somebody else has a say in when it is started again.
    pub(super) overseen: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    Idle,
    Failed,
    Starting {
        by_hand: bool,
        wish: Option<Wish>,
    },
    Up(Run),
    Clearing(Clearing),
    Draining(Draining),
    Reporting {
        verdict: Verdict,
    },
    /// Held: nothing is due before that is permitted.
    Backoff {
        due: Instant,
        held: bool,
    },
}

impl Machine {
    pub(crate) fn new(rules: Rules) -> Machine {
        Machine {
            rules,
            phase: Phase::Idle,
            generation: 0,
            history: History::default(),
            restarting: false,
            last: 0,
            restarts: 0,
            overseen: false,
        }
    }

    /// Somebody begins, or ceases, to oversee it, with that policy from now on: while it rests.
    pub(crate) fn oversee(&mut self, overseen: bool, restart: Restart) {
        self.overseen = overseen;
        self.rules.restart = restart;
    }

    pub(crate) fn standing(&self) -> Standing {
        match self.phase {
            Phase::Idle => Standing::Resting,
            Phase::Failed => Standing::Failed,
            Phase::Backoff { held: true, .. } => Standing::Held,
            _ if self.was_ready() => Standing::Ready,
            _ => Standing::Going,
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(crate) fn state(&self) -> State {
        match &self.phase {
            Phase::Idle => State::Idle,
            Phase::Failed => State::Failed,
            Phase::Starting { .. } => State::Starting,
            Phase::Up(run) if run.climb.is_some() || run.announced_stop => State::Stopping,
            Phase::Up(run) if run.paused => State::Paused,
            Phase::Up(run) if run.ready.is_some() => State::Ready,
            Phase::Up(_) => State::Running,
            Phase::Clearing(_) | Phase::Draining(_) => State::Stopping,
            Phase::Reporting { verdict } => match self.in_force(*verdict) {
                Verdict::Done => State::Idle,
                Verdict::Again { .. } => State::Backoff,
                Verdict::GiveUp(_) => State::Failed,
            },
            Phase::Backoff { .. } => State::Backoff,
        }
    }

    pub(crate) fn reports(&self) -> bool {
        self.rules.reports
    }

    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// A run is there: from the start of its creation until it is over.
    pub(crate) fn is_alive(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } | Phase::Up(_) | Phase::Clearing(_) | Phase::Draining(_) => true,
            Phase::Idle | Phase::Failed | Phase::Reporting { .. } | Phase::Backoff { .. } => false,
        }
    }

    /// As a stop does, which is to follow.
    pub(crate) fn restart_no_more(&mut self) {
        self.restarting = false;
    }

    /// The run that is there has said that it is ready, whatever became of it since.
    pub(crate) fn was_ready(&self) -> bool {
        match &self.phase {
            Phase::Up(run) => run.ready.is_some(),
            Phase::Clearing(at) => at.run.ready.is_some(),
            Phase::Draining(at) => at.run.ready.is_some(),
            Phase::Idle | Phase::Failed | Phase::Starting { .. } | Phase::Reporting { .. } | Phase::Backoff { .. } => {
                false
            }
        }
    }

    /// It will not run again by itself, and everyone who wanted to hear of that has.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Failed)
    }

    /// It would not run again by itself now, but perhaps that end is still to be told; until it is, that may change.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.phase {
            Phase::Reporting { verdict } => !matches!(self.in_force(verdict), Verdict::Again { .. }),
            _ => self.is_settled(),
        }
    }

    /// When the next automatic start is due.
    pub(crate) fn next_start(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Backoff { due, held: false } => Some(*due),
            Phase::Reporting { verdict } => match self.in_force(*verdict) {
                Verdict::Again { at } => Some(at),
                Verdict::Done | Verdict::GiveUp(_) => None,
            },
            Phase::Idle
            | Phase::Failed
            | Phase::Starting { .. }
            | Phase::Up(_)
            | Phase::Clearing(_)
            | Phase::Draining(_)
            | Phase::Backoff { held: true, .. } => None,
        }
    }

    /// When `Tick` has something to do; the earliest of all.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Idle
            | Phase::Failed
            | Phase::Starting { .. }
            | Phase::Reporting { .. }
            | Phase::Backoff { held: true, .. } => None,
            Phase::Up(run) => {
                let limits = [run.climb_due(), run.ready_by, run.watchdog_by, run.gone_by];
                limits.into_iter().filter_map(|limit| run.lateness.when(limit)).min()
            }
            Phase::Clearing(at) => {
                let climb = at.run.lateness.when(at.climb_due());
                [climb, at.look].into_iter().flatten().min()
            }
            Phase::Draining(draining) => draining.until,
            Phase::Backoff { due, held: false } => Some(*due),
        }
    }

    /// Whether a limit has passed within which the run had something to say.
    pub(crate) fn judges_word(&self, now: Instant) -> bool {
        let Phase::Up(run) = &self.phase else { return false };
        let limits = [run.ready_by, run.watchdog_by].map(|limit| run.lateness.when(limit));
        limits.into_iter().flatten().any(|limit| now >= limit)
    }

    /// What it has said by now was heard, all of it or not.
    pub(crate) fn note_heard(&mut self, is_all: bool, now: Instant) {
        if let Phase::Up(run) = &mut self.phase {
            run.lateness.note_heard(is_all, now);
        }
    }

    /// Takes an event of the current generation, or a request.
    pub(crate) fn step(&mut self, event: Event, now: Instant, random: f64, out: &mut Vec<Action>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        self.phase = match phase {
            Phase::Idle => self.at_rest(Phase::Idle, event, out),
            Phase::Failed => self.at_rest(Phase::Failed, event, out),
            Phase::Starting { by_hand, wish } => self.starting(by_hand, wish, event, now, random, out),
            Phase::Up(run) => self.up(run, event, now, out),
            Phase::Clearing(clearing) => self.clearing(clearing, event, now, out),
            Phase::Draining(draining) => self.draining(draining, event, now, random, out),
            Phase::Reporting { verdict } => self.reporting(verdict, event, now, out),
            Phase::Backoff { due, held } => self.backing_off(due, held, event, now, out),
        };
    }
}
