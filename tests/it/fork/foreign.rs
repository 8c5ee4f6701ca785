//! The parent's handles in a forked closure: they name what is not the closure's to touch.

use std::fs::File;
use std::sync::Mutex;
use std::time::Duration;

use pkit::{Command, Error, Process, RestartMode, Signal, State, Stdio, Wait};

use super::run;
use crate::support::{LONG, is_alive, sh, tests};

fn foreign<T>(result: Result<T, Error>, operation: &str) {
    let error = result.err().unwrap();
    assert!(error.is_foreign() && !error.is_running() && error.process() == "parents");
    let parent = std::os::unix::process::parent_id();
    let text = "the handle belongs to the process with id";
    assert_eq!(
        error.to_string(),
        format!("cannot {operation} `parents`: {text} {parent}, of which this one is a fork")
    );
}

/// Answers with an error, or as for one that does not run.
fn every_method(process: &Process) {
    foreign(process.start(true), "start");
    foreign(process.join(), "join");
    foreign(process.join_timeout(LONG), "join");
    foreign(process.terminate(true), "terminate");
    foreign(process.kill(Wait::No), "kill");
    foreign(process.signal(Signal::KILL), "signal");
    foreign(process.restart(RestartMode::Kill, true), "restart");
    foreign(process.wait_until(LONG, |_| true), "wait for");
    foreign(process.wait_for_line(LONG, |_| true), "wait for a line of");
    foreign(smol::block_on(process.exited()), "join");
    assert_eq!((process.state(), process.pid(), process.is_alive()), (State::Idle, None, false));
    assert_eq!((process.exit(), process.restarts(), process.name()), (None, 0, "parents"));
    assert!(process.stdin().is_none() && process.stdout().is_none() && process.stderr().is_none());
    assert!(process.output().stdout().is_empty());
    let status = process.status();
    assert_eq!((status.state, status.pid, status.generation, &*status.name), (State::Idle, None, 0, "parents"));
    assert!(process.subscribe().next_timeout(LONG).is_none());
    process.detach();
    assert_eq!(process.to_string(), "parents");
    assert!(format!("{process:?}").contains("parents"));
}

tests! {
    fn every_method_answers_in_the_child() {
        let process = Process::builder(sh("echo up; exec sleep 1000")).name("parents").capture(1000).build().unwrap();
        let pid = process.start(true).unwrap();
        process.wait_for_line(LONG, |line| line == "up").unwrap();
        let handle = process.clone();
        let (exit, _, stderr) = run(move || every_method(&handle));
        assert!(exit.success(), "{exit}: {stderr}");
        assert!(is_alive(pid) && process.state() == State::Ready);
        // It was not detached either: the last handle stops it.
        process.terminate(true).unwrap();
    }

    fn dropping_it_in_the_child_changes_nothing() {
        let process = Process::new(Command::new("sleep").arg("1000"));
        let pid = process.start(true).unwrap();
        let handle = Mutex::new(Some(process));
        let (exit, _, stderr) = run({
            // The closure owns a handle, the test another: in the child all are dropped.
            let other = Mutex::new(handle.lock().unwrap().clone());
            move || drop(other.lock().unwrap().take())
        });
        assert!(exit.success(), "{exit}: {stderr}");
        let process = handle.into_inner().unwrap().unwrap();
        assert!(is_alive(pid));
        assert_eq!(process.join_timeout(Duration::ZERO).unwrap(), None);
        process.kill(true).unwrap();
    }

    fn the_very_last_handle_may_be_dropped_in_the_child() {
        // This one is over, and only its hull holds descriptors: those numbers are others' in the child.
        let builder = Process::builder(sh("echo unread")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = builder.pass_fd(File::open("/dev/null").unwrap().into(), 50).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        let events = Mutex::new(Some(process.subscribe()));
        let handle = Mutex::new(Some(process));
        let (exit, _, stderr) = run(move || {
            let files: Vec<File> = (0..60).map(|_| File::open("/dev/zero").unwrap()).collect();
            drop(handle.lock().unwrap().take());
            drop(events.lock().unwrap().take());
            // All of ours are still open.
            assert!(files.iter().all(|file| file.metadata().is_ok()));
        });
        assert!(exit.success(), "{exit}: {stderr}");
    }

    fn events_have_ended_in_the_child() {
        let process = Process::new(Command::new("sleep").arg("1000"));
        let events = Mutex::new(Some(process.subscribe()));
        process.start(true).unwrap();
        let (exit, _, stderr) = run(move || {
            let mut events = events.lock().unwrap().take().unwrap();
            assert!(events.try_next().is_none() && events.next().is_none());
        });
        assert!(exit.success(), "{exit}: {stderr}");
        process.kill(true).unwrap();
    }

    fn a_handle_that_is_locked_at_the_fork_answers() {
        let process = Process::builder(sh("exec sleep 1000")).name("parents").capture(100).build().unwrap();
        process.start(true).unwrap();
        let (handle, busy) = (process.clone(), process.clone());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        // Takes its lock all the time.
        let thread = std::thread::spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                busy.status();
            }
        });
        let forks = Process::new(crate::forked::forked(move || every_method(&handle)));
        for _ in 0..50 {
            forks.start(true).unwrap();
            assert!(forks.join_timeout(LONG).unwrap().unwrap().success());
        }
        drop(stop);
        thread.join().unwrap();
        process.kill(true).unwrap();
    }
}
