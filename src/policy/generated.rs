//! The restart decision under generated policies, outcomes and times, against its invariants: never more
//! than the limit in any window, delays within their bounds, attempts that only grow, a reset only by a
//! stable run, and a `check` that says of a crash loop what the loop then does.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tests::{CRASH, crash_loop};
use super::*;
use crate::exit::ExitReason;
use crate::signal::Signal;

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

/// Back-offs with valid options, their cap beside them.
fn backoffs() -> impl Strategy<Value = (Backoff, Duration)> {
    let fixed = millis(0..3_000).prop_map(|delay| (Backoff::fixed(delay), None));
    let exponential = (millis(0..500), millis(0..20_000))
        .prop_map(|(base, more)| (Backoff::exponential(base, base + more), Some(base + more)));
    let shape = prop_oneof![Just((Backoff::none(), None)), fixed, exponential];
    (shape, proptest::option::of((0.0..2.0, 0.0..2.0)), proptest::option::of(millis(0..2_000))).prop_map(
        |((mut backoff, max), jitter, first)| {
            if let Some((low, more)) = jitter {
                backoff = backoff.jitter(low, low + more);
            }
            if let Some(first) = first {
                backoff = backoff.first(max.map_or(first, |max| first.min(max)));
            }
            (backoff, max.unwrap_or(Duration::MAX))
        },
    )
}

/// Policies that restart, with valid options, save that the limit may be out of reach.
fn restarts() -> impl Strategy<Value = (Restart, Option<(u32, Duration)>, Duration)> {
    let limit = proptest::option::of((0..12u32, millis(1..60_000)));
    (any::<bool>(), backoffs(), limit, millis(1..20_000)).prop_map(|(always, (backoff, _), limit, reset)| {
        let restart = if always { Restart::always() } else { Restart::on_failure() };
        let restart = restart.backoff(backoff).reset_after(reset).success_codes([3]).permanent_codes([78]);
        match limit {
            Some((most, within)) => (restart.limit(most, within), limit, reset),
            None => (restart.unlimited(), limit, reset),
        }
    })
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let reason = prop_oneof![
        4 => Just(ExitReason::Exited(1)),
        1 => prop_oneof![Just(0), Just(3), Just(78)].prop_map(ExitReason::Exited),
        1 => Just(ExitReason::Signaled(Signal::SEGV)),
        1 => Just(ExitReason::Lost),
    ];
    let stable = || prop_oneof![4 => Just(Duration::ZERO), 1 => millis(0..25_000)];
    prop_oneof![
        6 => (reason, any::<bool>(), stable())
            .prop_map(|(reason, stopped_by_us, stable)| Outcome::Ended { reason, stopped_by_us, stable }),
        2 => stable().prop_map(|stable| Outcome::Fault { stable }),
        1 => Just(Outcome::CannotStart { permanent: false }),
        2 => Just(Outcome::Shortage),
    ]
}

/// An outcome, how long the run took (beside the time it was stable), and the random number.
fn steps() -> impl Strategy<Value = Vec<(Outcome, Duration, f64)>> {
    proptest::collection::vec((outcomes(), millis(0..3_000), 0.0..=1.0f64), 1..80)
}

proptest! {
    #[test]
    fn a_delay_lies_between_its_bounds_and_never_shrinks(
        (backoff, cap) in backoffs(), attempts in any::<[u32; 2]>(), random in 0.0..=1.0f64,
    ) {
        let [early, late] = [attempts[0].min(attempts[1]).max(1), attempts[0].max(attempts[1]).max(1)];
        prop_assert_eq!(backoff.check(), Ok(()));
        for attempt in [0, 1, 2, 3, 8, early, late] {
            let delay = backoff.delay(attempt, random);
            prop_assert!(delay <= cap);
            prop_assert!(delay >= backoff.delay(attempt, 0.0), "below the lowest factor");
            prop_assert!(delay <= backoff.delay(attempt, 1.0).saturating_add(Duration::from_nanos(1)));
        }
        prop_assert!(backoff.delay(early, random) <= backoff.delay(late, random));
        prop_assert!(backoff.delay(early, random) <= backoff.delay(early + u32::from(early < 40), random));
    }

    #[test]
    fn any_history_keeps_the_promises((restart, limit, reset) in restarts(), steps in steps()) {
        let mut now = Instant::now();
        let mut history = History::default();
        let mut counted: Vec<Instant> = Vec::new(); // Since the last stable run.
        for (outcome, took, random) in steps {
            now += took + outcome.stable().unwrap_or_default();
            let before = history.clone();
            let stable = outcome.stable().is_some_and(|stable| stable >= reset);
            if stable {
                counted.clear();
            }
            let verdict = restart.decide(&mut history, &outcome, now, random);
            let attempts = if stable { 0 } else { before.attempts };
            match verdict {
                Verdict::Again { at } => {
                    prop_assert!(at >= now);
                    prop_assert_eq!(history.attempts, attempts + 1);
                    if outcome == Outcome::Shortage {
                        prop_assert_eq!(&history.restarts, &before.restarts);
                    } else {
                        counted.push(at);
                    }
                    now = at;
                }
                // Let it be started by another hand that forgot to begin a new history: still no harm.
                Verdict::Done | Verdict::GiveUp(_) => prop_assert_eq!(history.attempts, attempts),
            }
            let Some((most, within)) = limit else {
                prop_assert!(history.restarts.is_empty());
                continue;
            };
            prop_assert!(history.restarts.len() <= most as usize);
            // Every window that ends with a restart, so every window, holds at most `most`.
            for (index, &last) in counted.iter().enumerate() {
                let inside = counted[..=index].iter().filter(|&&at| last - at < within).count();
                prop_assert!(inside <= most as usize, "{inside} restarts within {within:?}");
            }
            // And it gives up for no lesser reason.
            if verdict == Verdict::GiveUp(GiveUp::TooMany { restarts: most, within }) {
                let at = now + restart_delay(&restart, attempts, random);
                let inside = counted.iter().filter(|&&earlier| at - earlier < within).count();
                prop_assert_eq!(inside, most as usize);
            }
        }
    }

    #[test]
    fn check_agrees_with_a_crash_loop_at_the_lowest_jitter((restart, limit, _) in restarts()) {
        let Some((most, _)) = limit else { return Ok(()) };
        // Were it not over after the first window, it would not be later: the delays only grow.
        let (delays, end) = crash_loop(&restart, 4 * most as usize + 50, 0.0);
        prop_assert_eq!(restart.check().is_ok(), end.is_some(), "{:?} {:?}", restart.check(), end);
        if end.is_some() {
            prop_assert_eq!(delays.len(), most as usize);
        }
    }
}

/// The delay of that attempt, read from the policy itself with the limit taken off.
fn restart_delay(restart: &Restart, attempts: u32, random: f64) -> Duration {
    let (now, mut history) = (Instant::now(), History { attempts, ..History::default() });
    match restart.clone().unlimited().decide(&mut history, &CRASH, now, random) {
        Verdict::Again { at } => at - now,
        other => panic!("a crash is restarted: {other:?}"),
    }
}
