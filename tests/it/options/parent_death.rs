//! What the end of the parent means for the child. The parent is a forked closure here, which is killed.

use std::sync::Arc;

use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::Pid;
use pkit::{Builder, Command, Process, Signal, Stdio, Target};

use crate::forked::{forked, tell};
use crate::support::{LONG, eventually, is_alive, sh, skipped, tests};

const WAITS: &str = "trap 'echo asked; kill $!; exit' TERM; sleep 100 & echo up; wait";

/// A parent that starts `child` with these options, says its pid, and stays.
fn parent_of(child: Target, options: impl Fn(Builder) -> Builder + Send + Sync + 'static) -> Process {
    let options = Arc::new(options);
    let parent = forked(move || {
        let child = options(Process::builder(child.clone())).build().unwrap();
        let pid = child.start(true).unwrap();
        tell(&format!("pid {pid}\n"));
        child.join().unwrap();
    });
    // The child may hold our pipe for longer than its parent lives.
    let parent = Process::builder(parent).stdout(Stdio::captured()).drain(LONG).build().unwrap();
    parent.start(true).unwrap();
    parent
}

fn child_of(parent: &Process) -> u32 {
    let line = parent.wait_for_line(LONG, |line| line.starts_with("pid ")).unwrap();
    line.text().strip_prefix("pid ").unwrap().trim().parse().unwrap()
}

fn both() -> [Target; 2] {
    let stay = || {
        tell("up\n");
        loop {
            std::thread::park();
        }
    };
    [Target::from(sh("echo up; exec sleep 100")), forked(stay)]
}

fn is_up(parent: &Process) {
    parent.wait_for_line(LONG, |line| line == "up").unwrap();
}

tests! {
    fn it_dies_with_its_parent() {
        for target in both() {
            let parent = parent_of(target, |b| b);
            let child = child_of(&parent);
            is_up(&parent);
            assert!(is_alive(child));
            parent.kill(true).unwrap();
            eventually("the child has died", || !is_alive(child));
        }
    }

    fn it_dies_when_its_parent_returns() {
        let child = Command::new("sleep").arg("100").clone();
        let parent = forked(move || {
            let child = Process::new(child.clone());
            tell(&format!("pid {}\n", child.start(true).unwrap()));
            std::mem::forget(child);
        });
        let parent = Process::builder(parent).capture(100).build().unwrap();
        parent.start(true).unwrap();
        let child = child_of(&parent);
        assert!(parent.join().unwrap().success());
        eventually("the child has died", || !is_alive(child));
    }

    fn another_signal_may_be_asked_for() {
        let parent = parent_of(sh(WAITS).into(), |b| b.on_parent_death(Signal::TERM));
        let child = child_of(&parent);
        is_up(&parent);
        parent.kill(false).unwrap();
        parent.join().unwrap();
        eventually("the child has ended", || !is_alive(child));
        assert_eq!(parent.output().stdout_text().lines().last(), Some("asked"));
    }

    fn it_may_outlive_its_parent() {
        for target in both() {
            let parent = parent_of(target, |b| b.outlive_parent().stdout(Stdio::null()));
            let child = child_of(&parent);
            parent.kill(true).unwrap();
            assert!(is_alive(child));
            kill(Pid::from_raw(child as i32), Number::SIGKILL).unwrap();
            eventually("the child is gone", || !is_alive(child));
        }
    }

    fn the_parents_death_is_noticed_after_a_change_of_user() {
        if !nix::unistd::geteuid().is_root() {
            skipped("only root may become another user");
            return;
        }
        // The kernel forgets the signal when the credentials change (prctl(2)).
        let parent = parent_of(Command::new("sleep").arg("100").into(), |b| b.uid(12345).gid(12345));
        let child = child_of(&parent);
        parent.kill(true).unwrap();
        eventually("the child has died", || !is_alive(child));
    }
}
