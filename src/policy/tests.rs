//! The restart decision: its table, its messages and its edges. Generated histories are in `generated`.

use std::time::{Duration, Instant};

use super::*;
use crate::exit::ExitReason;
use crate::signal::Signal;

pub(super) const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
pub(super) const CRASH: Outcome =
    Outcome::Ended { reason: ExitReason::Exited(1), stopped_by_us: false, stable: Duration::ZERO };

fn ended(reason: ExitReason, stopped_by_us: bool) -> Outcome {
    Outcome::Ended { reason, stopped_by_us, stable: Duration::ZERO }
}

fn first_verdict(restart: &Restart, outcome: &Outcome, now: Instant) -> Verdict {
    restart.decide(&mut History::default(), outcome, now, 0.5)
}

#[test]
fn the_table_of_outcomes() {
    let now = Instant::now();
    let again = Verdict::Again { at: now };
    let permanent = Verdict::GiveUp(GiveUp::Permanent);
    let later = Verdict::Again { at: now + 100 * MS };
    let term = ExitReason::Signaled(Signal::TERM);
    // Outcome, after on_failure, after always.
    let table = [
        (ended(ExitReason::Exited(0), false), Verdict::Done, again),
        (ended(ExitReason::Exited(3), false), Verdict::Done, again),
        (ended(term, true), Verdict::Done, again),
        (ended(term, false), again, again),
        (ended(ExitReason::Exited(1), false), again, again),
        (ended(ExitReason::Exited(1), true), again, again),
        (ended(ExitReason::Lost, false), again, again),
        (ended(ExitReason::Exited(78), false), permanent, permanent),
        (Outcome::Fault { stable: Duration::ZERO }, again, again),
        (Outcome::CannotStart { permanent: false }, again, again),
        (Outcome::CannotStart { permanent: true }, permanent, permanent),
        (Outcome::Shortage, later, later),
    ];
    let with_codes = |restart: Restart| restart.success_codes([3]).permanent_codes([78]);
    for (outcome, on_failure, always) in table {
        assert_eq!(first_verdict(&with_codes(Restart::on_failure()), &outcome, now), on_failure, "{outcome:?}");
        assert_eq!(first_verdict(&with_codes(Restart::always()), &outcome, now), always, "{outcome:?}");
        assert_eq!(first_verdict(&with_codes(Restart::never()), &outcome, now), Verdict::Done, "{outcome:?}");
        assert_eq!(first_verdict(&Restart::default(), &outcome, now), Verdict::Done, "{outcome:?}");
    }
}

/// Runs that fail at once, until the policy gives up or `most` restarts were granted.
pub(super) fn crash_loop(restart: &Restart, most: usize, random: f64) -> (Vec<Duration>, Option<GiveUp>) {
    let begin = Instant::now();
    let (mut now, mut delays, mut history) = (begin, Vec::new(), History::default());
    while delays.len() < most {
        match restart.decide(&mut history, &CRASH, now, random) {
            Verdict::Again { at } => {
                delays.push(at - now);
                now = at;
            }
            Verdict::GiveUp(why) => return (delays, Some(why)),
            Verdict::Done => panic!("a crash is not done"),
        }
    }
    (delays, None)
}

#[test]
fn the_defaults_give_up_after_eight_restarts() {
    for random in [0.0, 0.5, 1.0] {
        let (delays, end) = crash_loop(&Restart::on_failure(), 100, random);
        assert_eq!(delays.len(), 8);
        assert_eq!(delays[0], Duration::ZERO);
        assert_eq!(end, Some(GiveUp::TooMany { restarts: 8, within: 60 * S }));
    }
    let (delays, _) = crash_loop(&Restart::always(), 100, 0.5);
    let millis: Vec<_> = delays.iter().map(Duration::as_millis).collect();
    assert_eq!(millis, [0, 100, 200, 400, 800, 1600, 3200, 6400]);
}

#[test]
fn no_restart_allowed_means_the_first_failure_fails() {
    let restart = Restart::on_failure().limit(0, Duration::ZERO);
    assert_eq!(restart.check(), Ok(()));
    let (delays, end) = crash_loop(&restart, 9, 0.0);
    assert!(delays.is_empty());
    assert_eq!(end, Some(GiveUp::TooMany { restarts: 0, within: Duration::ZERO }));
}

#[test]
fn unlimited_goes_on_at_the_cap() {
    let (delays, end) = crash_loop(&Restart::on_failure().unlimited(), 50, 0.5);
    assert_eq!((delays.last(), end), (Some(&(30 * S)), None));
}

#[test]
fn a_shortage_is_retried_and_not_counted() {
    let restart = Restart::on_failure().backoff(Backoff::none()).limit(1, S);
    let (mut history, now) = (History::default(), Instant::now());
    for _ in 0..100 {
        let verdict = restart.decide(&mut history, &Outcome::Shortage, now, 0.0);
        assert_eq!(verdict, Verdict::Again { at: now + 100 * MS });
    }
    assert_eq!(restart.decide(&mut history, &CRASH, now, 0.0), Verdict::Again { at: now });
    assert!(matches!(restart.decide(&mut history, &CRASH, now, 0.0), Verdict::GiveUp(GiveUp::TooMany { .. })));
    // The delay after shortages grows like any other.
    let (restart, mut history) = (Restart::on_failure(), History::default());
    let millis = [100, 100, 200, 400].map(|ms| Verdict::Again { at: now + ms * MS });
    assert_eq!(millis, [(); 4].map(|()| restart.decide(&mut history, &Outcome::Shortage, now, 0.5)));
}

#[test]
fn a_stable_run_and_nothing_else_clears_the_count() {
    let restart = Restart::on_failure().backoff(Backoff::none()).limit(2, 1000 * S).reset_after(10 * S);
    let (mut history, now) = (History::default(), Instant::now());
    let fails_after = |stable| Outcome::Fault { stable };
    for _ in 0..5 {
        assert!(matches!(restart.decide(&mut history, &fails_after(10 * S), now, 0.0), Verdict::Again { .. }));
        assert_eq!((history.attempts, history.restarts.len()), (1, 1));
    }
    assert!(matches!(restart.decide(&mut history, &fails_after(10 * S - MS), now, 0.0), Verdict::Again { .. }));
    assert!(matches!(restart.decide(&mut history, &fails_after(9 * S), now, 0.0), Verdict::GiveUp(_)));
}

#[test]
fn the_longest_delays_do_not_overflow_the_clock() {
    let restart = Restart::always().backoff(Backoff::fixed(Duration::MAX)).unlimited();
    let now = Instant::now();
    for outcome in [CRASH, Outcome::Shortage] {
        let Verdict::Again { at } = first_verdict(&restart, &outcome, now) else { panic!("unlimited") };
        assert!(at > now + 1000 * 86_400 * S);
    }
}

#[test]
fn bad_options_are_told_with_a_way_out() {
    let on_failure = Restart::on_failure;
    let cases = [
        (on_failure().success_codes([3]).permanent_codes([2, 3]), "exit code 3 is both a success code"),
        (on_failure().permanent_codes([0]), "exit code 0 is always a success"),
        (on_failure().success_codes([256]), "there is no exit code 256"),
        (on_failure().permanent_codes([-1]), "there is no exit code -1"),
        (on_failure().limit(3, Duration::ZERO), "a limit within zero seconds"),
        (on_failure().reset_after(Duration::ZERO), "a reset after zero seconds"),
        (on_failure().backoff(Backoff::none().jitter(2.0, 1.0)), "a back-off jitter of 2 to 1"),
        (on_failure().backoff(Backoff::exponential(S, MS)), "the back-off's base (1 s) is longer"),
        (on_failure().limit(8, 10 * S), ""),
    ];
    for (restart, begin) in &cases[..8] {
        let told = restart.check().expect_err(begin);
        assert!(told.starts_with(begin), "{told}");
    }
    assert_eq!(
        cases[8].0.check().expect_err("eight delays take longer"),
        "a limit of 8 restarts within 10 s can never be reached: the back-off alone spreads one more over \
         19.1 s at least; give a longer window, a lower limit, or shorter delays"
    );
    for good in [Restart::never(), on_failure(), Restart::always(), on_failure().unlimited()] {
        assert_eq!(good.check(), Ok(()));
    }
}

#[test]
fn a_limit_exactly_at_the_window_is_out_of_reach() {
    let every_ten = Restart::on_failure().backoff(Backoff::fixed(10 * S));
    assert!(every_ten.clone().limit(5, 50 * S).check().is_err());
    assert_eq!(crash_loop(&every_ten.clone().limit(5, 50 * S), 100, 0.0).1, None);
    assert_eq!(every_ten.clone().limit(5, 50 * S + MS).check(), Ok(()));
    assert_eq!(crash_loop(&every_ten.limit(5, 50 * S + MS), 100, 0.0).0.len(), 5);
}
