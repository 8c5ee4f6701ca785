//! Children that come and go while the others run.

use pkit::{Child, Process, Ready, Restart, State, Supervisor};

use super::{exits, lasting, pid, row, service};
use crate::support::{LONG, children, sh, tests};

tests! {
    fn one_is_added_restarted_and_removed_while_the_others_run() {
        let row = row(&["a", "b"]).build().unwrap();
        row.start(true).unwrap();
        let before = [pid(&row, "a"), pid(&row, "b")];
        let events = row.subscribe();
        row.add(lasting("c"), true).unwrap();
        assert!(events.take(9).any(|event| &*event.process == "c"), "who subscribed before hears of it");
        assert!(row.add(lasting("c"), true).unwrap_err().is_invalid());
        let first = pid(&row, "c");
        row.restart("c", true).unwrap();
        assert!(pid(&row, "c") != first);
        // Those who need it go on.
        row.restart("a", true).unwrap();
        assert!(pid(&row, "a") != before[0] && pid(&row, "b") == before[1]);
        let error = row.remove("a", true).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("`b` comes after `a`"), "{error}");
        let c = row.process("c").unwrap();
        row.remove("c", true).unwrap();
        assert!(row.process("c").is_none() && c.state() == State::Idle);
        assert!(row.remove("c", true).unwrap_err().is_no_child());
        assert!(row.restart("c", true).unwrap_err().is_no_child());
        row.remove("b", true).unwrap();
        row.remove("a", true).unwrap();
        assert!(children().is_empty() && row.status().children.is_empty());
        // Who is free is anybody's.
        c.start(true).unwrap();
        c.terminate(true).unwrap();
        row.add_after(lasting("d"), ["e"], true).unwrap_err();
        row.add_after(lasting("d"), Vec::<String>::new(), true).unwrap();
        assert_eq!(row.status().children.len(), 1);
    }

    fn one_that_is_added_and_does_not_become_ready_is_not_kept() {
        let row = row(&["a"]).build().unwrap();
        row.start(true).unwrap();
        let first = pid(&row, "a");
        let fails = || Process::builder(exits(3)).name("b").ready(Ready::line("up")).restart(Restart::always());
        let error = row.add(fails(), true).unwrap_err();
        assert!(error.to_string().contains("its child `b` did not become ready: exit code 3"), "{error}");
        assert!(row.add(Child::from(service("b")), true).is_ok(), "its name is free");
        assert_eq!((pid(&row, "a"), row.status().state), (first, State::Ready));
    }

    fn one_that_is_added_while_they_start_and_fails_takes_nobody_along() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("there");
        let slow = Process::builder(sh(&format!("{}; echo up; exec sleep 1000", super::until_there(&path))));
        let stack = Supervisor::builder().child(slow.name("slow").ready(Ready::line("up"))).build().unwrap();
        stack.start(false).unwrap();
        let fails = Process::builder(exits(3)).name("fails").ready(Ready::line("up"));
        let error = stack.add_after(fails, Vec::<String>::new(), true).unwrap_err();
        assert_eq!(error.failure().unwrap().child(), "fails");
        assert_eq!((stack.status().state, stack.status().children.len()), (State::Starting, 1));
        std::fs::write(path, "").unwrap();
        stack.process("slow").unwrap().wait_until(LONG, |status| status.state == State::Ready).unwrap();
    }

    fn one_that_is_added_before_the_start_waits_for_that() {
        let row = row(&["a"]).build().unwrap();
        row.add(lasting("b"), true).unwrap();
        assert!(children().is_empty());
        row.start(true).unwrap();
        assert_eq!(row.status().children.len(), 2);
    }

    fn one_that_ended_or_was_stopped_by_hand_is_started_by_name() {
        let once = Process::builder(sh("exit 0")).name("once").restart(Restart::on_failure());
        let stack = Supervisor::builder().child(once).child(lasting("a")).build().unwrap();
        stack.start(true).unwrap();
        let (once, a) = (stack.process("once").unwrap(), stack.process("a").unwrap());
        once.join().unwrap();
        stack.restart("once", true).unwrap();
        once.join().unwrap();
        assert_eq!(once.status().generation, 2);
        // Nobody else starts it.
        assert!(a.start(true).unwrap_err().is_running());
        a.terminate(true).unwrap();
        assert!(a.start(true).unwrap_err().is_supervised());
        assert!(a.restart(pkit::RestartMode::Terminate, true).unwrap_err().is_supervised());
        assert_eq!((a.state(), stack.status().state), (State::Idle, State::Ready), "who stops it by hand means that");
        stack.restart("a", true).unwrap();
        assert_eq!(a.state(), State::Ready);
    }

    fn a_rolling_restart_ends_with_the_first_that_does_not_become_ready() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broken");
        let script = format!("[ ! -e {} ] && echo up && exec sleep 1000", path.display());
        let second = Process::builder(sh(&script)).name("b").ready(Ready::line("up")).restart(Restart::never());
        let stack = Supervisor::builder().child(lasting("a")).child(second).child(lasting("c")).build().unwrap();
        stack.start(true).unwrap();
        let before = ["a", "b", "c"].map(|name| pid(&stack, name));
        stack.rolling_restart().unwrap();
        let after = ["a", "b", "c"].map(|name| pid(&stack, name));
        assert!(before.iter().zip(after).all(|(before, after)| *before != after));
        std::fs::write(path, "").unwrap();
        let error = stack.rolling_restart().unwrap_err();
        assert_eq!(error.failure().unwrap().child(), "b");
        assert!(pid(&stack, "a") != after[0] && pid(&stack, "c") == after[2]);
        stack.process("b").unwrap().wait_until(LONG, |status| status.state == State::Idle).unwrap();
    }
}
