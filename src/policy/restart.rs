//! The restart policy and its decision.
//!
//! Restarts are counted in a sliding window by the time at which they are *due*, delays included: what the
//! limit bounds is how often the program is started, and a back-off that spreads its restarts wider than the
//! window never meets it. That is why [`Restart::check`] can say for certain which limits no crash loop
//! reaches.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::exit::ExitReason;
use crate::readable::Readable;

use super::backoff::Backoff;
use super::outcome::{GiveUp, Outcome, Verdict};

/// A delay is cut to this (a century): an `Instant` cannot take every `Duration` without overflow.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The least wait after a shortage. It is not counted against the limit, so without a pause a back-off that
/// begins at once, or has no delay at all, would try as fast as the starved machine can.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// When a process is started again after it ended.
///
/// Without a policy ([`never`](Restart::never), the default) it is idle after every end. With one:
///
/// - *clean* is exit code 0, one of the [`success_codes`](Restart::success_codes), or death by a signal that
///   we sent to stop it. Everything else is a failure: other codes and signals, a lost status, not ready in
///   time, a missed watchdog, an exec that failed;
/// - the delay is that of the [`backoff`](Restart::backoff): the first restart at once, then 100 ms,
///   doubling to at most 30 s, with a jitter of 0.75 to 1.25;
/// - at most 8 restarts within 60 s ([`limit`](Restart::limit)), the restarts of clean ends included. One
///   more, and the process has failed until it is started by hand;
/// - a run that was ready (or up, where it has no readiness) for 10 s clears count and delay
///   ([`reset_after`](Restart::reset_after)). Nothing else does, a successful spawn least of all;
/// - a program that is missing or may not be executed (`ENOENT`, `EACCES`, `ENOEXEC`, …) and
///   [`permanent_codes`](Restart::permanent_codes) end it at once;
/// - a shortage (`EAGAIN`, `ENOMEM`, `EMFILE`, `ENFILE` at the start) is retried with the same delays, but
///   at least 100 ms, and not counted against the limit.
///
/// An explicit stop switches the policy off until the next start.
///
/// # Example
///
/// ```
/// use pkit::{Backoff, Restart};
/// use std::time::Duration;
///
/// let restart = Restart::on_failure()
///     .backoff(Backoff::exponential(Duration::from_millis(100), Duration::from_secs(30)))
///     .limit(5, Duration::from_secs(60))
///     .permanent_codes([78]); // EX_CONFIG: a bad configuration does not mend itself
/// # let _ = restart;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a policy does nothing until it is given to a builder"]
pub struct Restart {
    when: When,
    success_codes: Vec<i32>,
    permanent_codes: Vec<i32>,
    backoff: Backoff,
    limit: Option<Limit>,
    reset_after: Duration,
}

/// After which ends a process is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Never,
    OnFailure,
    Always,
}

/// At most `restarts` in any time of the length `within`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    restarts: u32,
    within: Duration,
}

/// What a policy says to an outcome, limit and delay aside.
enum Judgement {
    Leave,
    Restart,
    RestartUncounted,
    Permanent,
}

impl Restart {
    fn new(when: When) -> Self {
        Self {
            when,
            success_codes: Vec::new(),
            permanent_codes: Vec::new(),
            backoff: Backoff::exponential(Duration::from_millis(100), Duration::from_secs(30)),
            limit: Some(Limit { restarts: 8, within: Duration::from_secs(60) }),
            reset_after: Duration::from_secs(10),
        }
    }

    /// No restart, whatever happens. The other options have no effect then.
    pub fn never() -> Self {
        Self::new(When::Never)
    }

    /// After a failure; not after a clean end.
    pub fn on_failure() -> Self {
        Self::new(When::OnFailure)
    }

    /// After every end, clean ones too.
    pub fn always() -> Self {
        Self::new(When::Always)
    }

    /// Exit codes that are no failure, besides 0. Range: 0 to 255. Default: none. Replaces those given before.
    pub fn success_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.success_codes = codes.into_iter().collect();
        self
    }

    /// Exit codes after which no restart can help: the process has failed at once. Range: 1 to 255.
    /// Default: none. Replaces those given before.
    pub fn permanent_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.permanent_codes = codes.into_iter().collect();
        self
    }

    /// The delays before restarts. Default: [`Backoff::exponential`] from 100 ms to 30 s.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// At most so many restarts in any time of the length `within`; one more, and the process has failed. A run that was
    /// stable for [`reset_after`](Restart::reset_after) begins the count anew.
    ///
    /// Zero restarts: the first failure is the last. Default: 8 in 60 s. `within` must be longer than zero,
    /// and long enough for `restarts` + 1 restarts at the shortest delays of the back-off: a limit that can
    /// never be reached is an error when the process is built.
    pub fn limit(mut self, restarts: u32, within: Duration) -> Self {
        self.limit = Some(Limit { restarts, within });
        self
    }

    /// Restarts for ever, however often it fails. Permanent failures still end it.
    pub fn unlimited(mut self) -> Self {
        self.limit = None;
        self
    }

    /// A run that was ready (or up, where it has no readiness) for so long clears the count of restarts and
    /// the delay: a service that crashes less often than that is restarted at once, and for ever. Longer than zero;
    /// default: 10 s.
    pub fn reset_after(mut self, stable: Duration) -> Self {
        self.reset_after = stable;
        self
    }

    /// What is wrong with these options, and what to change.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.when == When::Never {
            return Ok(()); // The other options have no effect.
        }
        self.check_codes()?;
        self.backoff.check()?;
        if self.reset_after.is_zero() {
            return Err("a reset after zero seconds would clear the count with every run: \
                        give reset_after a longer time"
                .to_owned());
        }
        self.limit.map_or(Ok(()), |limit| self.check_limit(limit))
    }

    fn check_codes(&self) -> Result<(), String> {
        for &code in self.success_codes.iter().chain(&self.permanent_codes) {
            if !(0..=255).contains(&code) {
                return Err(format!("there is no exit code {code}: give codes from 0 to 255"));
            }
        }
        for &code in &self.permanent_codes {
            if code == 0 {
                return Err("exit code 0 is always a success: take it out of the permanent codes".to_owned());
            }
            if self.success_codes.contains(&code) {
                return Err(format!(
                    "exit code {code} is both a success code and a permanent code: take it out of one list"
                ));
            }
        }
        Ok(())
    }

    fn check_limit(&self, Limit { restarts, within }: Limit) -> Result<(), String> {
        if restarts == 0 {
            return Ok(()); // Over with the first failure: the window does not matter.
        }
        if within.is_zero() {
            return Err("a limit within zero seconds never counts two restarts: \
                        give a longer window, or take unlimited()"
                .to_owned());
        }
        let span = self.backoff.shortest_span(restarts);
        if span >= within {
            return Err(format!(
                "a limit of {restarts} restarts within {} can never be reached: the back-off alone spreads one \
                 more over {} at least; give a longer window, a lower limit, or shorter delays",
                Readable(within),
                Readable(span)
            ));
        }
        Ok(())
    }

    /// What to do after `outcome`, and `history` brought up to date with it.
    ///
    /// `now` is the end of the run, not before the restart that was granted last; `random` is in 0 to 1. A
    /// start by hand begins with a new [`History`].
    pub(crate) fn decide(&self, history: &mut History, outcome: &Outcome, now: Instant, random: f64) -> Verdict {
        if outcome.stable().is_some_and(|stable| stable >= self.reset_after) {
            *history = History::default();
        }
        let delay = self.backoff.delay(history.attempts, random);
        match self.judge(outcome) {
            Judgement::Leave => Verdict::Done,
            Judgement::Permanent => Verdict::GiveUp(GiveUp::Permanent),
            Judgement::RestartUncounted => {
                history.attempts = history.attempts.saturating_add(1);
                Verdict::Again { at: now + delay.clamp(SHORTAGE_PAUSE, FAR) }
            }
            Judgement::Restart => {
                let at = now + delay.min(FAR);
                if let Some(Limit { restarts, within }) = self.limit
                    && !history.admit(at, restarts, within)
                {
                    return Verdict::GiveUp(GiveUp::TooMany { restarts, within });
                }
                history.attempts = history.attempts.saturating_add(1);
                Verdict::Again { at }
            }
        }
    }

    fn judge(&self, outcome: &Outcome) -> Judgement {
        let after_clean = match self.when {
            When::Never => return Judgement::Leave,
            When::OnFailure => Judgement::Leave,
            When::Always => Judgement::Restart,
        };
        match *outcome {
            Outcome::Shortage => Judgement::RestartUncounted,
            Outcome::CannotStart { permanent: true } => Judgement::Permanent,
            Outcome::CannotStart { permanent: false } | Outcome::Fault { .. } => Judgement::Restart,
            Outcome::Ended { reason, stopped_by_us, .. } => match reason {
                ExitReason::Exited(code) if code == 0 || self.success_codes.contains(&code) => after_clean,
                ExitReason::Exited(code) if self.permanent_codes.contains(&code) => Judgement::Permanent,
                ExitReason::Signaled(_) if stopped_by_us => after_clean,
                ExitReason::Exited(_) | ExitReason::Signaled(_) | ExitReason::Lost => Judgement::Restart,
            },
        }
    }
}

impl Default for Restart {
    /// [`Restart::never`].
    fn default() -> Self {
        Self::never()
    }
}

/// What a decision has to know of the restarts before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// When the counted restarts of the window were due, oldest first; never more than the limit.
    pub(super) restarts: VecDeque<Instant>,
    /// Restarts in a row, those after a shortage included: the back-off's exponent.
    pub(super) attempts: u32,
}

impl History {
    /// Counts a restart due `at`, unless it would be one too many in the window that ends with it.
    pub(crate) fn admit(&mut self, at: Instant, limit: u32, within: Duration) -> bool {
        // One that lies exactly `within` back is outside: the window is half open, so that "1 within 10 s"
        // allows one every 10 s.
        while self.restarts.front().is_some_and(|&oldest| at.saturating_duration_since(oldest) >= within) {
            self.restarts.pop_front();
        }
        // The window holds at most `limit`, a `u32`, so the comparison loses nothing where `usize` is wider.
        if self.restarts.len() >= limit as usize {
            return false;
        }
        self.restarts.push_back(at);
        true
    }
}
