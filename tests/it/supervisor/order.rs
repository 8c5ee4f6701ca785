//! The order of starts and stops.

use std::time::Duration;

use pkit::{EventKind, Process, Ready, Restart, Signal, State, Stop, Supervisor};

use super::{exits, is_up_or_down, lasting, row, service, story, until_there};
use crate::support::{LONG, children, sh, tests};

fn is_down(event: &pkit::Event) -> bool {
    matches!(event.kind, EventKind::AllStopped)
}

tests! {
    fn a_row_is_started_in_order_and_stopped_in_reverse() {
        let row = row(&["a", "b", "c"]).build().unwrap();
        let events = row.subscribe();
        assert_eq!(row.status().state, State::Idle);
        row.start(true).unwrap();
        let status = row.status();
        assert_eq!(status.state, State::Ready);
        assert!(status.children.iter().all(|child| child.state() == State::Ready));
        assert!(row.start(true).unwrap_err().is_running());
        row.stop(true).unwrap();
        assert!(children().is_empty());
        let expected = [
            "a ready", "b ready", "c ready", "row ready", "c stopping", "b stopping", "a stopping", "row stopped",
        ];
        assert_eq!(story(events, is_up_or_down, is_down), expected);
        let status = row.join().unwrap();
        assert_eq!(status.state, State::Idle);
        assert!(status.failure.is_none() && status.children.iter().all(|child| child.exit().is_some()));
    }

    fn those_that_do_not_need_each_other_start_side_by_side() {
        let directory = tempfile::tempdir().unwrap();
        // Each is ready only when the other has begun.
        let other = |name: &str, other: &str| {
            let (mine, theirs) = (directory.path().join(name), directory.path().join(other));
            let script = format!("touch {}; {}; echo up; exec sleep 1000", mine.display(), until_there(&theirs));
            Process::builder(sh(&script)).name(name).ready(Ready::line("up"))
        };
        let stack = Supervisor::builder()
            .child(service("base"))
            .child_after(other("left", "right"), ["base"])
            .child_after(other("right", "left"), ["base"])
            .child_after(service("top"), ["left", "right"])
            .build()
            .unwrap();
        let events = stack.subscribe();
        stack.start(true).unwrap();
        let told = story(events, |kind| matches!(kind, EventKind::Ready), |event| &*event.process == "top" && matches!(event.kind, EventKind::Ready));
        assert_eq!((told.first().map(String::as_str), told.last().map(String::as_str)), (Some("base ready"), Some("top ready")));
        stack.stop(true).unwrap();
    }

    fn a_start_that_fails_stops_what_was_started_in_reverse_and_says_which_and_why() {
        let builds = |third: pkit::Builder| {
            let stack = Supervisor::builder().name("stack").child(lasting("a")).child(lasting("b"));
            stack.child(third.name("c")).child(lasting("d")).build().unwrap()
        };
        let no_program = || Process::builder(pkit::Command::new("/nonexistent"));
        let never_ready = || Process::builder(exits(3)).ready(Ready::line("up"));
        for (third, why) in [(no_program(), "/nonexistent"), (never_ready(), "exit code 3")] {
            let stack = builds(third);
            let events = stack.subscribe();
            let error = stack.start(true).unwrap_err();
            assert!(children().is_empty(), "it returns when all are gone");
            let text = error.to_string();
            assert!(text.starts_with("cannot start `stack`: its child `c` did not become ready: ") && text.contains(why), "{text}");
            let failure = error.failure().unwrap();
            assert!(failure.is_start() && failure.child() == "c");
            let told = story(events, |kind| is_up_or_down(kind) && !matches!(kind, EventKind::SupervisorFailed(_)), is_down);
            assert_eq!(told, ["a ready", "b ready", "b stopping", "a stopping", "stack stopped"]);
            let status = stack.join().unwrap();
            assert_eq!(status.state, State::Failed);
            assert!(status.to_string().contains("`stack` has failed: its child `c`"));
            assert!(stack.process("d").unwrap().status().generation == 0, "it was never tried");
        }
        // It is not for ever.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("there");
        let script = format!("[ -e {} ] && echo up && exec sleep 1000", path.display());
        let stack = builds(Process::builder(sh(&script)).ready(Ready::line("up")));
        stack.start(true).unwrap_err();
        std::fs::write(path, "").unwrap();
        stack.start(true).unwrap();
        assert_eq!(stack.status().state, State::Ready);
        stack.stop(true).unwrap();
    }

    fn one_that_comes_to_its_end_as_it_should_is_there_for_the_next() {
        let stack = Supervisor::builder()
            .child(Process::builder(exits(0)).name("migrate").restart(Restart::on_failure()))
            .child(lasting("api"))
            .build()
            .unwrap();
        stack.start(true).unwrap();
        let migrate = stack.process("migrate").unwrap();
        assert!(migrate.join().unwrap().success());
        assert_eq!((migrate.restarts(), stack.status().state), (0, State::Ready));
        stack.stop(true).unwrap();
    }

    fn a_stop_during_the_start_stops_what_is_there() {
        let stack = Supervisor::builder()
            .child(lasting("a"))
            .child(Process::builder(sh("exec sleep 1000")).name("slow").ready(Ready::line("never")))
            .child(lasting("c"))
            .build()
            .unwrap();
        let error = stack.start(Duration::from_millis(10)).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        std::thread::scope(|scope| {
            let joins = scope.spawn(|| stack.join().unwrap());
            stack.process("slow").unwrap().wait_until(LONG, |status| status.pid.is_some()).unwrap();
            stack.stop(true).unwrap();
            assert!(joins.join().unwrap().failure.is_none());
        });
        assert!(children().is_empty());
        assert_eq!(stack.process("c").unwrap().status().generation, 0);
        let slow = stack.process("slow").unwrap();
        std::thread::scope(|scope| {
            let starts = scope.spawn(|| stack.start(true));
            slow.wait_until(LONG, |status| status.generation == 2 && status.pid.is_some()).unwrap();
            stack.stop(false).unwrap();
            assert!(starts.join().unwrap().unwrap_err().is_stopped());
        });
        stack.join().unwrap();
    }

    fn each_is_stopped_by_its_own_ladder_and_killed_at_once() {
        let stubborn = |name: &str| {
            let deaf = Process::builder(sh("trap '' TERM; echo up; while :; do sleep 1; done")).ready(Ready::line("up"));
            deaf.name(name).stop(Stop::signal(Signal::TERM, Duration::from_millis(50)).then(Signal::USR1, LONG))
        };
        let stack = Supervisor::builder().child(stubborn("a")).child(stubborn("b")).build().unwrap();
        stack.start(true).unwrap();
        stack.stop(true).unwrap();
        let exits: Vec<_> = stack.status().children.iter().map(|child| child.exit().unwrap().clone()).collect();
        assert!(exits.iter().all(|exit| exit.signal() == Some(Signal::USR1) && exit.requested()), "{exits:?}");
        let deaf = |name: &str| stubborn(name).stop(Stop::signal(Signal::TERM, Duration::MAX));
        let stack = Supervisor::builder().child(deaf("a")).child(deaf("b")).build().unwrap();
        stack.start(true).unwrap();
        let error = stack.stop(Duration::from_millis(1)).unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("`b` under way"), "{error}");
        stack.kill(true).unwrap();
        let exits: Vec<_> = stack.status().children.iter().map(|child| child.exit().unwrap().clone()).collect();
        assert!(exits.iter().all(|exit| exit.signal() == Some(Signal::KILL)), "{exits:?}");
    }

    fn the_last_handle_stops_them_in_order() {
        let row = row(&["a", "b", "c"]).build().unwrap();
        row.start(true).unwrap();
        let events = row.subscribe();
        let other = row.clone();
        drop(row);
        assert_eq!(other.status().state, State::Ready);
        drop(other);
        assert_eq!(story(events, is_up_or_down, is_down), ["c stopping", "b stopping", "a stopping", "row stopped"]);
    }

    fn what_makes_no_sense_is_refused_and_nothing_is_started() {
        let fails = |builder: pkit::SupervisorBuilder, problem: &str| {
            let error = builder.name("stack").build().unwrap_err();
            assert!(error.is_invalid() && error.to_string().contains(problem), "{error}");
        };
        let one = || Supervisor::builder().child(service("a"));
        fails(one().child(service("a")), "cannot build `stack`: two children are called `a`");
        fails(one().child_after(service("b"), ["c"]), "there is no child of that name");
        fails(one().child_after(service("b"), ["c"]).child_after(service("c"), ["b"]), "`b` comes after `c` comes after `b`");
        fails(one().intensity(1, Duration::ZERO), "zero seconds");
        let error = Supervisor::builder().name("").build().unwrap_err();
        assert!(error.is_invalid());
        let error = one().child(service("b").env("A=B", "")).build().unwrap_err();
        assert_eq!(error.process(), "b");
        let never = one().build().unwrap();
        assert!(never.join().unwrap_err().is_never_started());
        never.stop(true).unwrap();
        never.kill(true).unwrap();
        assert!(never.restart("a", true).unwrap_err().is_not_running());
    }
}
