//! How long to wait before a restart.
//!
//! A delay grows with the number of restarts in a row and is spread by a random factor (the jitter), so that
//! what failed together does not come back together. The factor is applied before the cap: no delay is ever
//! longer than the maximum that was asked for. The price: once at the cap, those whose factor is above one
//! come back together after all.

use std::time::Duration;

use crate::readable::Readable;

/// Beyond this many doublings the delay stays as it is. The longest duration is less than 2^95 times the
/// shortest, so any cap is reached long before, with a jitter factor as low as 2^-800 too. The longest times
/// 2^900 is still a finite `f64`, so that a factor of zero makes it zero and not NaN.
const MOST_DOUBLINGS: u32 = 900;

/// The delays before restarts.
///
/// Part of a [`Restart`](crate::Restart) policy. Bad values are told when the process is built.
///
/// # Example
///
/// ```
/// use pkit::{Backoff, Restart};
/// use std::time::Duration;
///
/// // At once, then 0.2 s, 0.4 s, … 10 s, each times a random factor of 0.5 to 1.5, and never above 10 s.
/// let backoff = Backoff::exponential(Duration::from_millis(200), Duration::from_secs(10)).jitter(0.5, 1.5);
/// let restart = Restart::on_failure().backoff(backoff);
/// # let _ = restart;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a back-off does nothing until it is given to a policy"]
pub struct Backoff {
    first: Duration,
    growth: Growth,
    jitter: (f64, f64),
}

/// How the delay goes on after the first restart in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Growth {
    Fixed(Duration),
    Exponential { base: Duration, max: Duration },
}

impl Backoff {
    /// No delay: every restart at once. Together with
    /// [`unlimited`](crate::Restart::unlimited) a program that cannot work is restarted as fast as the
    /// machine can.
    pub fn none() -> Self {
        Self::fixed(Duration::ZERO)
    }

    /// Always the same delay, the first restart included. Jitter: none, unless asked for.
    pub fn fixed(delay: Duration) -> Self {
        Self { first: delay, growth: Growth::Fixed(delay), jitter: (1.0, 1.0) }
    }

    /// The first restart at once, then `base`, doubling with each restart in a row, at most `max`.
    ///
    /// Jitter: a factor from 0.75 to 1.25.
    pub fn exponential(base: Duration, max: Duration) -> Self {
        Self { first: Duration::ZERO, growth: Growth::Exponential { base, max }, jitter: (0.75, 1.25) }
    }

    /// The delay of the first restart in a row, in place of none (exponential) or the fixed one. The delays
    /// after it stay as they are. It is jittered like them.
    pub fn first(mut self, delay: Duration) -> Self {
        self.first = delay;
        self
    }

    /// Multiplies each delay with a random factor, evenly spread from `low` to `high`, before the maximum of
    /// an exponential back-off is applied. Range: finite, `0 <= low <= high`.
    pub fn jitter(mut self, low: f64, high: f64) -> Self {
        self.jitter = (low, high);
        self
    }

    /// The delay before a restart: `attempt` is 0 for the first in a row, `random` is in 0 to 1 and picks
    /// the jitter factor. Never panics, whatever the options.
    pub(crate) fn delay(&self, attempt: u32, random: f64) -> Duration {
        let (low, high) = self.jitter;
        let factor = low + (high - low) * random.clamp(0.0, 1.0);
        let (after_first, cap) = match self.growth {
            Growth::Fixed(delay) => (delay.as_secs_f64(), Duration::MAX),
            Growth::Exponential { base, max } => {
                let doublings = attempt.saturating_sub(1).min(MOST_DOUBLINGS);
                (base.as_secs_f64() * 2f64.powf(f64::from(doublings)), max)
            }
        };
        let seconds = if attempt == 0 { self.first.as_secs_f64() } else { after_first };
        // What is too long for a `Duration` is the cap, and so is what a jitter made NaN or negative that
        // no `check` has seen: a long wait does less harm than none.
        Duration::try_from_secs_f64(seconds * factor).map_or(cap, |delay| delay.min(cap))
    }

    /// The least time between the first restart and the one `restarts` later, if each run fails at once.
    pub(super) fn shortest_span(&self, restarts: u32) -> Duration {
        // From here on the delay stays the same, so the rest is one multiplication.
        let growing = restarts.min(MOST_DOUBLINGS + 1);
        let grown = (1..=growing).fold(Duration::ZERO, |sum, attempt| sum.saturating_add(self.delay(attempt, 0.0)));
        grown.saturating_add(self.delay(growing, 0.0).saturating_mul(restarts - growing))
    }

    /// What is wrong with these options, and what to change.
    pub(super) fn check(&self) -> Result<(), String> {
        let (low, high) = self.jitter;
        if !(low >= 0.0 && low <= high && high.is_finite()) {
            return Err(format!(
                "a back-off jitter of {low} to {high} is impossible: give finite factors with 0 <= low <= high"
            ));
        }
        let Growth::Exponential { base, max } = self.growth else {
            return Ok(());
        };
        for (what, delay) in [("base", base), ("first delay", self.first)] {
            if delay > max {
                return Err(format!(
                    "the back-off's {what} ({}) is longer than its maximum ({}): lower the one or raise the other",
                    Readable(delay),
                    Readable(max)
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn delays<const N: usize>(backoff: &Backoff, random: f64) -> [Duration; N] {
        std::array::from_fn(|attempt| backoff.delay(u32::try_from(attempt).expect("small"), random))
    }

    #[test]
    fn exponential_starts_at_once_and_stops_at_the_cap() {
        let backoff = Backoff::exponential(100 * MS, 700 * MS);
        assert_eq!(delays(&backoff, 0.5), [Duration::ZERO, 100 * MS, 200 * MS, 400 * MS, 700 * MS, 700 * MS]);
        // The jitter comes before the cap.
        assert_eq!(delays(&backoff, 0.0), [Duration::ZERO, 75 * MS, 150 * MS, 300 * MS, 600 * MS, 700 * MS]);
        assert_eq!(delays(&backoff, 1.0), [Duration::ZERO, 125 * MS, 250 * MS, 500 * MS, 700 * MS, 700 * MS]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), 700 * MS);
    }

    #[test]
    fn first_changes_the_first_only() {
        let backoff = Backoff::exponential(100 * MS, 700 * MS).first(500 * MS);
        assert_eq!(delays(&backoff, 0.5), [500 * MS, 100 * MS, 200 * MS]);
        assert_eq!(delays(&Backoff::fixed(50 * MS).first(MS), 0.0), [MS, 50 * MS, 50 * MS]);
    }

    #[test]
    fn fixed_and_none() {
        assert_eq!(delays(&Backoff::fixed(50 * MS), 0.9), [50 * MS; 4]);
        assert_eq!(delays(&Backoff::fixed(50 * MS).jitter(1.0, 3.0), 0.5), [100 * MS; 4]);
        assert_eq!(delays(&Backoff::none(), 0.5), [Duration::ZERO; 4]);
    }

    #[test]
    fn extremes_neither_panic_nor_wrap() {
        let long = Backoff::exponential(Duration::MAX, Duration::MAX).first(Duration::MAX).jitter(0.0, f64::MAX);
        assert_eq!(long.delay(0, 1.0), Duration::MAX);
        assert_eq!(long.delay(u32::MAX, 1.0), Duration::MAX);
        assert_eq!(long.delay(u32::MAX, 0.0), Duration::ZERO);
        assert_eq!(Backoff::fixed(Duration::MAX).delay(9, 0.0), Duration::MAX);
        assert_eq!(Backoff::exponential(Duration::ZERO, MS).delay(u32::MAX, 1.0), Duration::ZERO);
        assert_eq!(Backoff::exponential(MS, 9 * MS).jitter(f64::NAN, 1.0).delay(3, 0.5), 9 * MS);
        assert_eq!(Backoff::exponential(MS, 9 * MS).delay(3, f64::NAN), 9 * MS);
    }

    #[test]
    fn the_shortest_span_of_many_restarts_is_quick_to_find() {
        assert_eq!(Backoff::fixed(MS).shortest_span(u32::MAX), MS * u32::MAX);
        assert_eq!(Backoff::none().shortest_span(u32::MAX), Duration::ZERO);
        assert_eq!(Backoff::exponential(100 * MS, 700 * MS).shortest_span(0), Duration::ZERO);
        assert_eq!(Backoff::exponential(100 * MS, 700 * MS).shortest_span(5), (75 + 150 + 300 + 600 + 700) * MS);
        assert_eq!(Backoff::fixed(Duration::MAX).shortest_span(9), Duration::MAX);
    }

    #[test]
    fn bad_options_are_told() {
        for (low, high) in [(-0.1, 1.0), (1.0, 0.5), (f64::NAN, 1.0), (0.0, f64::NAN), (0.0, f64::INFINITY)] {
            let told = Backoff::none().jitter(low, high).check().expect_err("an impossible jitter");
            assert!(told.contains("0 <= low <= high"), "{told}");
        }
        assert_eq!(
            Backoff::exponential(100 * MS, 50 * MS).check().expect_err("the maximum is below the base"),
            "the back-off's base (100 ms) is longer than its maximum (50 ms): lower the one or raise the other"
        );
        let told = Backoff::exponential(MS, 50 * MS).first(60 * MS).check().expect_err("above the maximum");
        assert!(told.starts_with("the back-off's first delay (60 ms)"), "{told}");
        assert_eq!(Backoff::exponential(MS, MS).jitter(0.0, 0.0).check(), Ok(()));
    }
}
