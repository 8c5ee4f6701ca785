//! The table of phases, by examples.

use std::time::{Duration, Instant};

use super::super::{Action, Conclusion, Event, Machine, Notice, Rules, State};
use crate::exit::{ExitReason, Fault};
use crate::policy::{Backoff, Restart};
use crate::signal::Signal;
use crate::stop::{Stop, Survivors};

const S: Duration = Duration::from_secs(1);

fn rules(restart: Restart) -> Rules {
    Rules {
        restart: restart.backoff(Backoff::fixed(S)),
        stop: Stop::signal(Signal::INT, S).then(Signal::TERM, 2 * S),
        survivors: Survivors::default(),
        ready_within: None,
        watchdog: None,
        drain: S / 10,
        reports: false,
    }
}

/// A machine and its clock.
struct Life {
    machine: Machine,
    now: Instant,
}

impl Life {
    fn new(rules: Rules) -> Life {
        Life { machine: Machine::new(rules), now: Instant::now() }
    }

    /// One that was started by hand and runs.
    fn running(rules: Rules) -> Life {
        let mut life = Life::new(rules);
        assert_eq!(life.feed(Event::Start), [Action::Spawn]);
        life.feed(Event::Spawned);
        life
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.machine.step(event, self.now, 0.5, &mut actions);
        actions
    }

    /// A tick when it is due, and after how long that was.
    fn tick(&mut self) -> (Duration, Vec<Action>) {
        let deadline = self.machine.deadline().expect("something is scheduled");
        let passed = deadline - self.now;
        self.now = deadline;
        (passed, self.feed(Event::Tick))
    }

    /// The leader exits, and nothing is left.
    fn end(&mut self, code: i32) -> Vec<Action> {
        assert_eq!(self.feed(Event::LeaderExited(ExitReason::Exited(code))), [Action::Look]);
        assert_eq!(self.feed(Event::Empty), [Action::Drain]);
        self.feed(Event::Drained)
    }
}

fn concluded(code: i32) -> Conclusion {
    let reason = ExitReason::Exited(code);
    Conclusion { reason, requested: false, forced: false, fault: None, output_leaked: false, runtime: Duration::ZERO }
}

#[test]
fn a_ladder_is_climbed_by_the_clock() {
    let mut life = Life::running(rules(Restart::always()));
    assert_eq!(life.feed(Event::Stop), [Action::Announce(Notice::Stopping), Action::Signal(Signal::INT)]);
    assert_eq!(life.feed(Event::Stop), [], "asked twice is asked once");
    assert_eq!(life.tick(), (S, vec![Action::Signal(Signal::TERM)]));
    assert_eq!(life.tick(), (2 * S, vec![Action::Kill]));
    assert_eq!(life.machine.deadline(), None, "only the exit is missing");
    let expected = Conclusion { requested: true, forced: true, runtime: 3 * S, ..concluded(1) };
    assert_eq!(life.end(1), [Action::Conclude(expected)]);
    assert_eq!(life.machine.state(), State::Idle);
}

#[test]
fn what_was_asked_before_there_was_a_process_is_done_when_it_is_there() {
    let started = Action::Announce(Notice::Started);
    let stopping = Action::Announce(Notice::Stopping);
    let cases = [
        (vec![Event::Stop], Action::Signal(Signal::INT)),
        (vec![Event::Kill], Action::Kill),
        (vec![Event::Kill, Event::Stop], Action::Kill),
        (vec![Event::Stop, Event::Kill], Action::Kill),
    ];
    for (asked, done) in cases {
        let mut life = Life::new(rules(Restart::always()));
        life.feed(Event::Start);
        for event in asked {
            assert_eq!(life.feed(event), []);
        }
        assert_eq!(life.feed(Event::Spawned), [started, stopping, done]);
    }
}

#[test]
fn survivors_have_a_ladder_of_their_own_unless_one_is_being_climbed() {
    let mut life = Life::running(rules(Restart::never()));
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    assert_eq!(life.feed(Event::Occupied), [Action::Announce(Notice::LeftBehind), Action::Signal(Signal::TERM)]);
    assert_eq!(life.machine.state(), State::Stopping);
    let mut waited = Duration::ZERO;
    let actions = loop {
        let (passed, actions) = life.tick();
        waited += passed;
        if actions != [Action::Look] {
            break actions;
        }
        assert_eq!(life.feed(Event::Occupied), []);
    };
    assert_eq!((waited, actions[0]), (2 * S, Action::Kill));

    let mut life = Life::running(rules(Restart::never()));
    life.feed(Event::Stop);
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    assert_eq!(life.feed(Event::Occupied), [], "they have had the first signal of that ladder");
}

#[test]
fn a_ladder_waits_to_hear_whether_anyone_is_left() {
    let stopped_in_time = || {
        let mut life = Life::running(rules(Restart::never()));
        life.feed(Event::Stop);
        life.now += S;
        life.feed(Event::LeaderExited(ExitReason::Exited(0)));
        assert_eq!(life.feed(Event::Tick), []);
        life
    };
    let mut life = stopped_in_time();
    life.now += S;
    life.feed(Event::Empty);
    let expected = Conclusion { requested: true, runtime: S, ..concluded(0) };
    assert_eq!(life.feed(Event::Drained), [Action::Conclude(expected)], "nobody was signalled for it");
    assert_eq!(stopped_in_time().tick(), (5 * S, vec![Action::Signal(Signal::TERM)]), "but not for ever");
    let mut life = stopped_in_time();
    life.feed(Event::Occupied);
    assert_eq!(life.tick(), (Duration::ZERO, vec![Action::Signal(Signal::TERM)]));
}

#[test]
fn who_comes_to_be_while_the_others_are_killed_is_killed_too() {
    let mut life = Life::running(rules(Restart::never()));
    life.feed(Event::Kill);
    life.feed(Event::LeaderExited(ExitReason::Signaled(Signal::KILL)));
    for _ in 0..3 {
        assert_eq!(life.feed(Event::Occupied), []);
        assert_eq!(life.tick().1, [Action::Kill, Action::Look]);
    }
}

#[test]
fn a_stop_hurries_those_who_stop_survivors_more_slowly() {
    let patient = Survivors::stop(Stop::signal(Signal::TERM, Duration::MAX));
    let mut life = Life::running(Rules { survivors: patient.clone(), ..rules(Restart::never()) });
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    life.feed(Event::Occupied);
    assert_eq!(life.feed(Event::Stop), [Action::Signal(Signal::INT)], "the first of the stop ladder");
    assert_eq!(life.feed(Event::Stop), [], "once");
    // One that is faster goes on.
    let fast = Survivors::stop(Stop::signal(Signal::TERM, S / 100));
    let mut life = Life::running(Rules { survivors: fast, ..rules(Restart::never()) });
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    life.feed(Event::Occupied);
    assert_eq!(life.feed(Event::Stop), []);
    // And one that would only kill does so.
    let mut life = Life::running(Rules { survivors: patient, stop: Stop::kill(), ..rules(Restart::never()) });
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    life.feed(Event::Occupied);
    assert_eq!(life.feed(Event::Stop), [Action::Kill]);
}

#[test]
fn a_stop_before_anybody_is_found_hurries_them_too() {
    let patient = Survivors::stop(Stop::signal(Signal::TERM, Duration::MAX));
    let mut life = Life::running(Rules { survivors: patient.clone(), ..rules(Restart::never()) });
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    assert_eq!(life.feed(Event::Stop), [], "there may be nobody");
    assert_eq!(life.feed(Event::Occupied), [Action::Announce(Notice::LeftBehind), Action::Signal(Signal::INT)]);
    // One that is faster is taken.
    let fast = Survivors::stop(Stop::signal(Signal::TERM, S / 100));
    let mut life = Life::running(Rules { survivors: fast, ..rules(Restart::never()) });
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    life.feed(Event::Stop);
    assert_eq!(life.feed(Event::Occupied), [Action::Announce(Notice::LeftBehind), Action::Signal(Signal::TERM)]);
    // And who is to be left alone is.
    let mut life = Life::running(Rules { survivors: Survivors::leave(), ..rules(Restart::never()) });
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    life.feed(Event::Stop);
    assert_eq!(life.feed(Event::Occupied), [Action::Drain]);
}

#[test]
fn survivors_may_be_left() {
    let mut life = Life::running(Rules { survivors: Survivors::leave(), ..rules(Restart::never()) });
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    assert_eq!(life.feed(Event::Occupied), [Action::Drain]);
    assert_eq!(life.feed(Event::Kill), [], "that run is over for us");
    let leaked = Conclusion { output_leaked: true, ..concluded(0) };
    assert_eq!(life.tick(), (S / 10, vec![Action::Abandon, Action::Conclude(leaked)]));
}

#[test]
fn who_comes_late_to_a_deadline_hears_first_what_came_before_it() {
    let watched = Rules { ready_within: Some(S), watchdog: Some(S), ..rules(Restart::on_failure()) };
    let late = |event: Event| {
        let mut life = Life::running(watched.clone());
        life.now += 5 * S;
        assert_eq!(life.feed(Event::Tick), []);
        (life.feed(event), life)
    };
    // All that it said and did in time is told now.
    let (ready, mut life) = late(Event::Ready);
    assert_eq!(ready, [Action::Announce(Notice::Ready)]);
    life.now += 5 * S;
    assert_eq!((life.feed(Event::Tick), life.feed(Event::Watchdog)), (vec![], vec![]));
    assert_eq!(life.machine.deadline(), Some(life.now + S));
    let (_, mut life) = late(Event::LeaderExited(ExitReason::Exited(0)));
    life.feed(Event::Empty);
    assert_eq!(life.feed(Event::Drained)[0], Action::Conclude(Conclusion { runtime: 5 * S, ..concluded(0) }));
    // It had nothing to say.
    let (_, mut life) = late(Event::Tick);
    let (waited, actions) = life.tick();
    assert_eq!((waited, actions[0]), (S, Action::Announce(Notice::Fault(Fault::NotReady))));
    // The same holds for a stop: one that ended in time was not killed.
    life.now += 5 * S;
    assert_eq!(life.feed(Event::Tick), []);
    assert_eq!(life.tick(), (S, vec![Action::Signal(Signal::TERM)]));
}

#[test]
fn a_stop_after_the_leader_ended_by_itself_was_not_the_reason() {
    let mut life = Life::running(rules(Restart::always()));
    life.feed(Event::LeaderExited(ExitReason::Exited(4)));
    assert_eq!(life.feed(Event::Stop), []);
    life.feed(Event::Empty);
    assert_eq!(life.feed(Event::Drained), [Action::Conclude(concluded(4))]);
    assert_eq!(life.machine.state(), State::Idle, "but it is not started again");
}

#[test]
fn not_ready_in_time_is_a_failure_whatever_the_exit_says() {
    let mut life = Life::running(Rules { ready_within: Some(5 * S), ..rules(Restart::on_failure()) });
    assert_eq!(life.machine.state(), State::Running);
    let (passed, actions) = life.tick();
    assert_eq!(passed, 5 * S);
    assert_eq!(actions, [Action::Announce(Notice::Fault(Fault::NotReady)), Action::Signal(Signal::INT)]);
    assert_eq!(life.feed(Event::Ready), [], "too late");
    let end = life.end(0);
    assert_eq!(end[0], Action::Conclude(Conclusion { runtime: 5 * S, fault: Some(Fault::NotReady), ..concluded(0) }));
    assert_eq!(life.machine.state(), State::Backoff);
}

#[test]
fn what_it_says_is_judged_when_a_limit_for_that_passes_and_at_no_other_time() {
    let both = Rules { ready_within: Some(5 * S), watchdog: Some(S), ..rules(Restart::never()) };
    let mut life = Life::running(both);
    let judges = |life: &Life, after| life.machine.judges_word(life.now + after);
    assert_eq!([4 * S, 5 * S].map(|after| judges(&life, after)), [false, true]);
    life.feed(Event::Ready);
    assert_eq!([S / 2, S].map(|after| judges(&life, after)), [false, true]);
    life.feed(Event::Stop);
    assert!(!judges(&life, 9 * S), "it is asked to end, whatever it says");
    life.feed(Event::LeaderExited(ExitReason::Exited(0)));
    life.feed(Event::Occupied);
    assert!(!judges(&life, 9 * S), "and those left behind say nothing that counts");
}

#[test]
fn what_it_says_is_not_judged_while_it_cannot_be_heard() {
    let mut life = Life::running(Rules { ready_within: Some(S), ..rules(Restart::never()) });
    let mut waited = Duration::ZERO;
    let fault = loop {
        let passed = life.machine.deadline().unwrap() - life.now;
        (life.now, waited) = (life.now + passed, waited + passed);
        life.machine.note_heard(false, life.now);
        match life.feed(Event::Tick) {
            actions if actions.is_empty() => {}
            actions => break actions,
        }
    };
    assert_eq!(fault[0], Action::Announce(Notice::Fault(Fault::NotReady)));
    assert_eq!(waited, 6 * S, "but not for ever");
    let mut life = Life::running(Rules { ready_within: Some(S), ..rules(Restart::never()) });
    life.now += S;
    life.machine.note_heard(false, life.now);
    assert_eq!(life.feed(Event::Tick), []);
    assert_eq!(life.feed(Event::Ready), [Action::Announce(Notice::Ready)], "it had said so in time");
    let mut life = Life::running(Rules { watchdog: Some(S), ..rules(Restart::never()) });
    for _ in 0..3 {
        life.now += S;
        life.machine.note_heard(false, life.now);
        assert_eq!(life.feed(Event::Tick), [], "as long each time");
        life.feed(Event::Watchdog);
        life.now += 10 * S;
        life.feed(Event::Watchdog);
    }
}

#[test]
fn a_watchdog_counts_from_readiness_and_from_each_word() {
    let limits = Rules { ready_within: Some(9 * S), watchdog: Some(3 * S), ..rules(Restart::on_failure()) };
    let mut life = Life::running(limits);
    life.feed(Event::Ready);
    life.now += 2 * S;
    life.feed(Event::Watchdog);
    let (passed, actions) = life.tick();
    assert_eq!(passed, 3 * S);
    assert_eq!(actions, [Action::Announce(Notice::Fault(Fault::WatchdogMissed)), Action::Signal(Signal::INT)]);
}

#[test]
fn who_announces_its_stop_has_as_long_for_it_as_after_the_first_signal() {
    for early in [false, true] {
        let limits = Rules { ready_within: early.then_some(9 * S), watchdog: Some(S / 2), ..rules(Restart::always()) };
        let mut life = Life::running(limits);
        life.feed(Event::AnnouncedStop);
        assert_eq!(life.machine.state(), State::Stopping);
        life.now += S / 2;
        life.feed(Event::AnnouncedStop);
        assert_eq!(life.feed(Event::Ready), [], "it is about to end");
        let began = vec![Action::Announce(Notice::Stopping), Action::Signal(Signal::INT)];
        assert_eq!(life.tick(), (S / 2, began), "said again is said once");
        assert_eq!(life.tick(), (S, vec![Action::Signal(Signal::TERM)]));
        assert_eq!(life.end(0)[0], Action::Conclude(Conclusion { runtime: 2 * S, ..concluded(0) }), "no fault");
    }
}

#[test]
fn a_crash_in_an_announced_stop_is_one_whatever_it_left_behind() {
    for left in [false, true] {
        let mut life = Life::running(rules(Restart::on_failure()));
        life.feed(Event::AnnouncedStop);
        life.feed(Event::LeaderExited(ExitReason::Signaled(Signal::SEGV)));
        if left {
            life.feed(Event::Occupied);
        }
        life.feed(Event::Empty);
        life.feed(Event::Drained);
        assert_eq!(life.machine.state(), State::Backoff);
    }
}

#[test]
fn a_stop_asked_for_need_not_wait_for_one_that_was_announced() {
    let mut life = Life::running(rules(Restart::always()));
    life.feed(Event::AnnouncedStop);
    assert_eq!(life.feed(Event::Stop), [Action::Announce(Notice::Stopping), Action::Signal(Signal::INT)]);
    assert_eq!(life.tick(), (S, vec![Action::Signal(Signal::TERM)]));
}

#[test]
fn a_stop_cuts_a_back_off_short_and_a_start_begins_a_new_count() {
    let mut life = Life::running(rules(Restart::always().limit(1, 60 * S)));
    let due = life.now + S;
    assert_eq!(life.end(1)[1..], [Action::Announce(Notice::Backoff { due })]);
    assert_eq!(life.machine.next_start(), Some(due));
    assert_eq!(life.feed(Event::Stop), []);
    assert_eq!((life.machine.state(), life.machine.next_start()), (State::Idle, None));
    for _ in 0..2 {
        assert_eq!(life.feed(Event::Start), [Action::Spawn]);
        life.feed(Event::Spawned);
        life.end(1);
        assert_eq!(life.tick(), (S, vec![Action::Spawn]));
        life.feed(Event::Spawned);
        assert!(matches!(life.end(1)[1..], [Action::Announce(Notice::GaveUp(_))]));
        assert_eq!(life.machine.state(), State::Failed);
    }
    assert_eq!((life.machine.restarts(), life.machine.generation()), (2, 5));
}

#[test]
fn the_next_start_waits_for_the_report_of_the_end() {
    let mut life = Life::running(Rules { reports: true, ..rules(Restart::always()) });
    assert_eq!(life.end(1), [Action::Conclude(concluded(1))]);
    let due = life.now + S;
    assert_eq!((life.machine.next_start(), life.machine.deadline()), (Some(due), None));
    life.now = due + S;
    assert_eq!(life.feed(Event::Tick), []);
    assert_eq!(life.feed(Event::Reported), [Action::Spawn], "its time came meanwhile");
    life.feed(Event::Spawned);
    life.end(1);
    assert_eq!(life.feed(Event::Start), [Action::Spawn], "a callback may start it itself");
    assert_eq!(life.machine.generation(), 3);
}

#[test]
fn the_last_run_is_not_disturbed() {
    let mut life = Life::running(rules(Restart::always()));
    assert_eq!(life.feed(Event::Last), []);
    assert_eq!(life.machine.state(), State::Ready);
    assert_eq!(life.end(1), [Action::Conclude(concluded(1))]);
    assert_eq!(life.machine.state(), State::Idle);
}

#[test]
fn a_last_run_that_is_taken_back_while_its_end_is_reported_is_not_the_last() {
    for told_before in [true, false] {
        let mut life = Life::running(Rules { reports: true, ..rules(Restart::always()) });
        if told_before {
            life.feed(Event::Last);
        }
        life.end(1);
        life.feed(Event::Last);
        for _ in 0..1 + u32::from(told_before) {
            assert_eq!((life.machine.state(), life.machine.next_start()), (State::Idle, None), "one still wants it");
            life.feed(Event::NotLast);
        }
        let due = life.now + S;
        assert_eq!((life.machine.state(), life.machine.next_start()), (State::Backoff, Some(due)));
        assert_eq!(life.feed(Event::Reported), [Action::Announce(Notice::Backoff { due })]);
    }
}

#[test]
fn a_start_by_hand_that_fails_is_its_callers_and_an_automatic_one_the_policys() {
    let mut life = Life::new(rules(Restart::always()));
    life.feed(Event::Start);
    assert_eq!(life.feed(Event::SpawnFailed(libc::EAGAIN)), []);
    assert_eq!(life.machine.state(), State::Idle);
    let mut life = Life::running(rules(Restart::always()));
    life.end(1);
    life.tick();
    let due = life.now + S;
    assert_eq!(life.feed(Event::SpawnFailed(libc::EAGAIN)), [Action::Announce(Notice::Backoff { due })]);
    life.tick();
    assert!(matches!(life.feed(Event::SpawnFailed(libc::ENOENT))[..], [Action::Announce(Notice::GaveUp(_))]));
}
