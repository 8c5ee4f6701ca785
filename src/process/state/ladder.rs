//! Climbing a ladder of signals, against the clock.

use std::time::{Duration, Instant};

use super::machine::Machine;
use super::protocol::Action;
use super::running::Run;
use crate::signal::Signal;
use crate::stop::Stop;

/// Where on a ladder we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Climb {
    ladder: Ladder,
    step: usize,
    /// When the next rung is due; `None` after SIGKILL, and where a grace never ends.
    pub(super) due: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ladder {
    Stop,
    Survivors,
}

impl Machine {
    fn ladder(&self, ladder: Ladder) -> &[(Signal, Duration)] {
        match ladder {
            Ladder::Stop => self.rules.stop.steps(),
            Ladder::Survivors => self.rules.survivors.ladder().map_or(&[], Stop::steps),
        }
    }

    pub(super) fn begin(&self, run: &mut Run, ladder: Ladder, now: Instant, out: &mut Vec<Action>) {
        // From here on only the ladder counts time.
        run.forget_limits();
        self.stand_on(run, ladder, 0, now, out);
    }

    /// A stop was asked for while what was left behind is stopped: by the stop ladder, if that comes to its end earlier.
    pub(super) fn hurry(&self, run: &mut Run, now: Instant, out: &mut Vec<Action>) {
        let Some(Climb { ladder: Ladder::Survivors, step, due }) = run.climb else { return };
        let rest = self.ladder(Ladder::Survivors).get(step.saturating_add(1)..).unwrap_or_default();
        if self.stop_kills_before(due.and_then(|due| killed_at(due, rest)), now) {
            self.begin(run, Ladder::Stop, now, out);
        }
    }

    /// Stops what was left behind. `stop_requested`: since the leader ended.
    pub(super) fn stop_survivors(&self, run: &mut Run, stop_requested: bool, now: Instant, out: &mut Vec<Action>) {
        let killed = killed_at(now, self.ladder(Ladder::Survivors));
        let ladder =
            if stop_requested && self.stop_kills_before(killed, now) { Ladder::Stop } else { Ladder::Survivors };
        self.begin(run, ladder, now, out);
    }

    /// Whether the stop ladder, begun now, comes to SIGKILL before that.
    fn stop_kills_before(&self, killed: Option<Instant>, now: Instant) -> bool {
        let sooner = killed_at(now, self.ladder(Ladder::Stop));
        sooner.is_some_and(|sooner| killed.is_none_or(|killed| sooner < killed))
    }

    /// Takes the next step when that is `due`.
    pub(super) fn climb(&self, run: &mut Run, due: Option<Instant>, now: Instant, out: &mut Vec<Action>) {
        if let Some(Climb { ladder, step, .. }) = run.climb
            && run.lateness.has_passed(due, now)
        {
            self.stand_on(run, ladder, step + 1, now, out);
        }
    }

    fn stand_on(&self, run: &mut Run, ladder: Ladder, step: usize, now: Instant, out: &mut Vec<Action>) {
        match self.ladder(ladder).get(step) {
            Some(&(signal, grace)) => {
                out.push(Action::Signal(signal));
                // A grace too long for the clock is one that never ends.
                run.climb = Some(Climb { ladder, step, due: now.checked_add(grace) });
            }
            None => self.kill(run, out),
        }
    }

    pub(super) fn kill(&self, run: &mut Run, out: &mut Vec<Action>) {
        run.forced = true;
        run.forget_limits();
        run.climb = Some(Climb { ladder: Ladder::Stop, step: usize::MAX, due: None });
        out.push(Action::Kill);
    }
}

/// When SIGKILL comes, of one whose steps are climbed from then on; `None`: never.
fn killed_at(from: Instant, steps: &[(Signal, Duration)]) -> Option<Instant> {
    steps.iter().try_fold(from, |at, (_, grace)| at.checked_add(*grace))
}
