//! What becomes of the others when one is restarted.

use std::time::Duration;

use pkit::{Backoff, Child, EventKind, Process, Ready, Restart, State, Strategy, Supervisor};

use super::{exits, is_up_or_down, kill, lasting, pid, restarted, row, story};
use crate::support::{LONG, children, tests};

/// Who has another pid after `victim` was killed.
fn who_is_new(strategy: Strategy, victim: &str) -> String {
    let row = row(&["a", "b", "c"]).strategy(strategy).build().unwrap();
    row.start(true).unwrap();
    let before = ["a", "b", "c"].map(|name| pid(&row, name));
    let events = row.subscribe();
    kill(&row, victim);
    restarted(&row, victim, before["abc".find(victim).unwrap()]);
    // The last of a group is ready last.
    let last = if strategy == Strategy::OneForOne { victim } else { "c" };
    let told = story(events, is_up_or_down, |event| &*event.process == last && matches!(event.kind, EventKind::Ready));
    let after = ["a", "b", "c"].map(|name| pid(&row, name));
    row.stop(true).unwrap();
    let new: String = ["a", "b", "c"]
        .iter()
        .zip(before.iter().zip(after))
        .filter(|(_, (a, b))| **a != *b)
        .map(|(name, _)| *name)
        .collect();
    format!("{new}: {}", told.join(", "))
}

tests! {
    fn one_for_one_restarts_that_one() {
        assert_eq!(who_is_new(Strategy::OneForOne, "a"), "a: a ready");
    }

    fn one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() {
        let expected = "abc: c stopping, a stopping, a ready, b ready, c ready";
        assert_eq!(who_is_new(Strategy::OneForAll, "b"), expected);
    }

    fn rest_for_one_restarts_those_that_come_after_it() {
        assert_eq!(who_is_new(Strategy::RestForOne, "b"), "bc: c stopping, b ready, c ready");
    }

    fn too_many_restarts_stop_all_in_order_and_say_so() {
        let row = row(&["a", "b", "c"]).intensity(3, LONG).build().unwrap();
        let events = row.subscribe();
        row.start(true).unwrap();
        for victim in ["a", "b", "a"] {
            let before = pid(&row, victim);
            kill(&row, victim);
            restarted(&row, victim, before);
        }
        kill(&row, "b");
        let status = row.join().unwrap();
        assert_eq!(status.state, State::Failed);
        let failure = status.failure.unwrap();
        assert!(failure.is_too_many() && failure.child() == "b");
        let text = failure.to_string();
        assert!(text.starts_with("more than 3 restarts within 60 s, the last that of its child `b`: "), "{text}");
        let told = story(events, is_up_or_down, |event| matches!(event.kind, EventKind::AllStopped));
        let end = [format!("row failed: {text}"), "c stopping".into(), "a stopping".into(), "row stopped".into()];
        assert_eq!(told[told.len() - 4..], end);
        // Which a start by hand forgets.
        row.start(true).unwrap();
        let before = pid(&row, "b");
        kill(&row, "b");
        restarted(&row, "b", before);
        assert!(row.status().failure.is_none());
    }

    fn one_that_is_given_up_ends_all_with_its_reason() {
        let looping = Process::builder(exits(3)).name("looping").restart(Restart::always().backoff(Backoff::none()).limit(2, LONG));
        let stack = Supervisor::builder().name("stack").child(lasting("a")).child(looping).build().unwrap();
        // Ready as soon as it is created.
        let _ = stack.start(true);
        let failure = stack.join().unwrap().failure.unwrap();
        let text = failure.to_string();
        assert!(text.starts_with("its child `looping` was given up (more than 2 restarts within 60 s): exit code 3"), "{text}");
        assert!(children().is_empty());
        assert_eq!(stack.process("looping").unwrap().status().state, State::Failed);
        assert_eq!(stack.process("looping").unwrap().restarts(), 2);
    }

    fn what_an_optional_one_does_concerns_nobody_else() {
        let looping = Process::builder(exits(3)).name("looping").restart(Restart::always().backoff(Backoff::none()).limit(20, LONG));
        let none = Process::builder(pkit::Command::new("/nonexistent")).name("none");
        let stack = Supervisor::builder()
            .strategy(Strategy::OneForAll)
            .intensity(1, LONG)
            .child(Child::from(looping).optional())
            .child(Child::from(none).optional())
            .child(lasting("a"))
            .build()
            .unwrap();
        stack.start(true).unwrap();
        let looping = stack.process("looping").unwrap();
        looping.wait_until(LONG, |status| status.state == State::Failed).unwrap();
        assert_eq!(stack.process("none").unwrap().status().state, State::Failed);
        assert_eq!((stack.status().state, stack.process("a").unwrap().status().generation), (State::Ready, 1));
    }

    fn an_optional_one_that_is_never_ready_holds_nobody_up() {
        let never = Process::builder(exits(1)).name("never").ready(Ready::line("up")).restart(Restart::always().unlimited());
        let stack = Supervisor::builder().child(Child::from(never).optional()).child(lasting("a")).build().unwrap();
        stack.start(true).unwrap();
        assert_eq!(stack.process("a").unwrap().state(), State::Ready);
    }

    fn two_that_crash_in_turn_are_given_up_though_each_is_restarted_for_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let turn = directory.path().join("turn");
        std::fs::write(&turn, "a\n").unwrap();
        // Whose turn it is, crashes, and lets the other one be the next.
        let crashes = |name: &str, other: &str| {
            let turn = turn.display();
            let script = format!("while read who < {turn}; [ \"$who\" != {name} ]; do sleep 0.01; done; echo {other} > {turn}.{name}; mv {turn}.{name} {turn}; exit 3");
            let policy = Restart::always().backoff(Backoff::none()).limit(4, LONG);
            Process::builder(crate::support::sh(&script)).name(name).restart(policy)
        };
        let stack = Supervisor::builder().strategy(Strategy::OneForAll).child(crashes("a", "b")).child(crashes("b", "a"));
        let stack = stack.build().unwrap();
        let _ = stack.start(true);
        let failure = stack.join().unwrap().failure.unwrap();
        assert!(failure.to_string().contains("was given up (more than 4 restarts within 60 s)"), "{failure}");
    }

    fn a_policy_that_was_not_given_restarts_always_and_another_one_is_asked() {
        let restart = |builder: pkit::Builder| {
            let stack = Supervisor::builder().child(builder.name("a")).build().unwrap();
            stack.start(true).unwrap();
            let process = stack.process("a").unwrap();
            let over = process.wait_until(LONG, |status| status.restarts > 0 || status.state == State::Idle).unwrap();
            over.restarts > 0
        };
        let ends = |code| Process::builder(exits(code));
        assert!(restart(ends(0)) && restart(ends(1)), "as of OTP's permanent ones");
        assert!(!restart(ends(0).restart(Restart::on_failure())) && restart(ends(1).restart(Restart::on_failure())));
        assert!(!restart(ends(0).restart(Restart::never())) && !restart(ends(1).restart(Restart::never())));
    }

    fn a_back_off_is_waited_for_and_a_stop_ends_it() {
        let slow = Process::builder(exits(1)).name("slow").restart(Restart::always().backoff(Backoff::fixed(Duration::from_secs(3600))).unlimited());
        let stack = Supervisor::builder().child(lasting("a")).child(slow).build().unwrap();
        stack.start(true).unwrap();
        let slow = stack.process("slow").unwrap();
        let status = slow.wait_until(LONG, |status| status.next_start.is_some()).unwrap();
        assert_eq!((status.state, stack.status().state), (State::Backoff, State::Ready));
        stack.stop(true).unwrap();
        assert_eq!(slow.state(), State::Idle);
    }
}
