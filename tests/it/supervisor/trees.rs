//! Supervisors below supervisors.

use std::time::Duration;

use pkit::{Backoff, Child, ChildStatus, EventKind, Process, Restart, State, Strategy, Supervisor};

use super::{exits, is_up_or_down, kill, lasting, pid, restarted, row, story};
use crate::support::{LONG, children, eventually, tests};

/// `db`, then a branch with `api` and `jobs`, then `web`.
fn tree(branch: pkit::SupervisorBuilder) -> Supervisor {
    let branch = branch.name("branch").child(lasting("api")).child(lasting("jobs")).build().unwrap();
    Supervisor::builder().name("tree").child(lasting("db")).child(branch).child(lasting("web")).build().unwrap()
}

/// It fails with the second crash.
fn brittle() -> pkit::SupervisorBuilder {
    Supervisor::builder().intensity(1, LONG)
}

/// Two crashes of `api`.
fn fail(branch: &Supervisor) {
    let first = pid(branch, "api");
    kill(branch, "api");
    restarted(branch, "api", first);
    kill(branch, "api");
}

fn is_down(event: &pkit::Event) -> bool {
    &*event.process == "tree" && matches!(event.kind, EventKind::AllStopped)
}

tests! {
    fn a_branch_has_its_place_in_the_order() {
        let tree = tree(Supervisor::builder());
        let events = tree.subscribe();
        tree.start(true).unwrap();
        let branch = tree.supervisor("branch").unwrap();
        assert!(tree.process("branch").is_none() && tree.supervisor("db").is_none());
        assert!(branch.start(true).unwrap_err().is_running() || branch.start(true).unwrap_err().is_supervised());
        let table = tree.status().to_string();
        let names: Vec<_> = table.lines().skip(1).map(|line| line.split("  ").map(str::len).next().unwrap()).collect();
        assert!(table.contains("\n  api ") && table.contains("\n  jobs ") && names.len() == 5, "{table}");
        let ChildStatus::Supervisor(status) = &tree.status().children[1] else { panic!("it is a branch") };
        assert_eq!((status.state, status.children.len()), (State::Ready, 2));
        tree.stop(true).unwrap();
        assert!(children().is_empty());
        let expected = [
            "db ready", "api ready", "jobs ready", "branch ready", "web ready", "tree ready", "web stopping", "jobs stopping", "api stopping",
            "branch stopped", "db stopping", "tree stopped",
        ];
        assert_eq!(story(events, is_up_or_down, is_down), expected);
    }

    fn a_crash_in_a_branch_concerns_the_branch_alone() {
        let tree = tree(Supervisor::builder().strategy(Strategy::OneForAll));
        tree.start(true).unwrap();
        let branch = tree.supervisor("branch").unwrap();
        let before = [pid(&tree, "db"), pid(&tree, "web"), pid(&branch, "jobs")];
        let first = pid(&branch, "api");
        kill(&branch, "api");
        restarted(&branch, "api", first);
        restarted(&branch, "jobs", before[2]);
        assert_eq!([pid(&tree, "db"), pid(&tree, "web")], before[..2]);
    }

    fn a_branch_that_fails_is_restarted_by_its_policy() {
        let at_once = Restart::on_failure().backoff(Backoff::none()).limit(1, LONG);
        let tree = tree(brittle().restart(at_once));
        tree.start(true).unwrap();
        let branch = tree.supervisor("branch").unwrap();
        let before = [pid(&tree, "db"), pid(&tree, "web"), pid(&branch, "jobs")];
        fail(&branch);
        restarted(&branch, "jobs", before[2]);
        eventually("the branch is up", || branch.status().state == State::Ready);
        assert_eq!([pid(&tree, "db"), pid(&tree, "web")], before[..2]);
        // Once more is too often for its policy, and ends the tree with a reason for a person.
        fail(&branch);
        let failure = tree.join().unwrap().failure.unwrap();
        let text = failure.to_string();
        let expected = "its child `branch` was given up (more than 1 restart within 60 s): more than 1 restart within 60 s, the last that of its child `api`: killed by SIGKILL";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!((failure.child(), failure.below().unwrap().child()), ("branch", "api"));
        assert_eq!(failure.exit().unwrap().signal(), Some(pkit::Signal::KILL));
        assert!(children().is_empty());
        // All of it can be started again.
        tree.start(true).unwrap();
        assert_eq!(branch.status().state, State::Ready);
    }

    fn a_branch_that_fails_counts_as_one_and_takes_the_others_along_by_the_strategy() {
        let branch = brittle().restart(Restart::on_failure().backoff(Backoff::none())).name("branch").child(lasting("api")).build().unwrap();
        let tree = Supervisor::builder().name("tree").strategy(Strategy::RestForOne).intensity(1, LONG);
        let tree = tree.child(lasting("db")).child(branch).child(lasting("web")).build().unwrap();
        tree.start(true).unwrap();
        let branch = tree.supervisor("branch").unwrap();
        let before = [pid(&tree, "db"), pid(&tree, "web")];
        fail(&branch);
        restarted(&tree, "web", before[1]);
        assert_eq!(pid(&tree, "db"), before[0]);
        fail(&branch);
        let failure = tree.join().unwrap().failure.unwrap();
        assert!(failure.is_too_many() && failure.child() == "branch");
    }

    fn a_branch_that_does_not_come_up_fails_the_start() {
        let never = Process::builder(exits(3)).name("never").ready(pkit::Ready::line("up"));
        let branch = Supervisor::builder().name("branch").child(lasting("api")).child(never).build().unwrap();
        let tree = Supervisor::builder().name("tree").child(lasting("db")).child(branch).build().unwrap();
        let error = tree.start(true).unwrap_err();
        let expected = "cannot start `tree`: its child `branch` did not become ready: its child `never` did not become ready: exit code 3";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(children().is_empty());
        let branch = tree.supervisor("branch").unwrap();
        let optional = Supervisor::builder().child(lasting("db")).build().unwrap();
        assert!(optional.add(branch.clone(), true).unwrap_err().is_supervised(), "it has its place already");
        tree.remove("branch", true).unwrap();
        optional.add(Child::from(branch).optional(), true).unwrap();
        optional.start(true).unwrap();
        assert_eq!(optional.status().state, State::Ready);
    }

    fn a_back_off_of_a_branch_is_waited_for_and_a_stop_ends_it() {
        let slow = Restart::on_failure().backoff(Backoff::fixed(Duration::from_secs(3600))).unlimited();
        let tree = tree(brittle().restart(slow));
        tree.start(true).unwrap();
        let branch = tree.supervisor("branch").unwrap();
        fail(&branch);
        eventually("it waits", || branch.status().state == State::Backoff);
        assert_eq!(tree.status().state, State::Ready);
        tree.restart("branch", true).unwrap();
        assert_eq!(branch.status().state, State::Ready);
        fail(&branch);
        eventually("it waits", || branch.status().state == State::Backoff);
        tree.stop(true).unwrap();
        assert!(children().is_empty());
        // Stopped by hand it is down until somebody restarts it.
        tree.start(true).unwrap();
        branch.stop(true).unwrap();
        assert_eq!((branch.status().state, tree.status().state), (State::Idle, State::Ready));
        assert!(branch.start(true).unwrap_err().is_supervised());
        tree.restart("branch", true).unwrap();
        assert_eq!(branch.status().state, State::Ready);
    }

    fn nobody_is_below_himself() {
        let inner = row(&["a"]).build().unwrap();
        let outer = Supervisor::builder().name("outer").child(inner.clone()).build().unwrap();
        for wrong in [inner.add(outer.clone(), true), outer.add(outer.clone(), true), inner.add(inner.clone(), true)] {
            assert!(wrong.unwrap_err().is_invalid());
        }
        drop(inner);
        outer.start(true).unwrap();
        assert_eq!(outer.supervisor("row").unwrap().status().state, State::Ready);
        drop(outer);
    }
}
