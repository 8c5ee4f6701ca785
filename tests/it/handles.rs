//! Handles: waiting, looking, sharing, letting go.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use pkit::{Backoff, Process, Restart, RestartMode, State, Status};

use crate::support::{LONG, children, eventually, is_alive, sh, tests, thread_names};

/// What must hold in every snapshot.
fn check(status: &Status) {
    let running = matches!(status.state, State::Running | State::Ready | State::Paused);
    assert!(!running || status.pid.is_some(), "{status:?}");
    let at_rest = matches!(status.state, State::Idle | State::Starting | State::Backoff | State::Failed);
    assert!(!at_rest || (status.pid.is_none() && status.main_pid.is_none()), "{status:?}");
    assert_eq!(status.next_start.is_some(), status.state == State::Backoff, "{status:?}");
    assert!(status.restarts <= status.generation, "{status:?}");
    assert!(status.pid.is_none() || status.started.is_some(), "{status:?}");
    if let (Some(pid), Some(exit)) = (status.pid, &status.exit) {
        assert_ne!(pid, exit.pid(), "the exit is of the run before: {status:?}");
    }
}

tests! {
    fn who_has_no_callbacks_needs_no_thread_to_be_let_go() {
        let stop = pkit::Stop::kill();
        let many: Vec<_> = (0..200).map(|_| Process::builder(sh("exec sleep 1000")).stop(stop.clone()).build().unwrap()).collect();
        for process in &many {
            process.start(true).unwrap();
        }
        drop(many);
        let mut most = 0;
        eventually("all are gone", || {
            most = most.max(thread_names().iter().filter(|name| *name == "pkit-callback").count());
            children().is_empty()
        });
        // On old kernels one looks who is left.
        assert!(most <= 1, "{most} threads");
    }

    fn what_never_stops_changing_does_not_stretch_the_limit() {
        let process = Process::new(sh("exec sleep 1000"));
        let error = process.wait_until(Duration::from_millis(50), |_| {
            process.restart(RestartMode::Kill, true).unwrap();
            false
        });
        assert!(error.is_err_and(|error| error.is_timeout()));
    }

    fn wait_until_sees_what_is_and_what_comes() {
        let process = Process::new(sh("exec sleep 1000"));
        assert_eq!(process.wait_until(LONG, |_| true).unwrap().state, State::Idle);
        let error = process.wait_until(Duration::from_millis(20), |_| false).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let waiter = process.clone();
        let thread = thread::spawn(move || waiter.wait_until(LONG, |status| status.state == State::Ready));
        let pid = process.start(true).unwrap();
        assert_eq!(thread.join().unwrap().unwrap().pid, Some(pid));
        // It runs without a lock: the process may be used in it.
        let inside = process.clone();
        process.wait_until(LONG, |status| inside.terminate(false).is_ok() && status.state == State::Idle).unwrap();
    }

    fn a_snapshot_is_consistent() {
        let process = Process::builder(sh("exit 1"))
            .on_exit(|_, _| ())
            .restart(Restart::always().backoff(Backoff::fixed(Duration::from_millis(1))).unlimited())
            .build()
            .unwrap();
        let is_over = |generation: u64| generation >= 30;
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !is_over(last) {
                        let status = process.status();
                        check(&status);
                        assert!(status.generation >= last);
                        last = status.generation;
                    }
                });
            }
            scope.spawn(|| while !is_over(process.status().generation) {
                let _ = process.start(true);
                let seen = process.status().generation;
                let _ = process.wait_until(LONG, |status| status.generation > seen);
                process.terminate(true).unwrap();
            });
        });
        process.terminate(true).unwrap();
    }

    fn join_has_a_limit() {
        let process = Process::new(sh("exec sleep 1000"));
        process.start(true).unwrap();
        let before = Instant::now();
        assert_eq!(process.join_timeout(Duration::from_millis(30)).unwrap(), None);
        assert!(before.elapsed() >= Duration::from_millis(30));
        assert_eq!(process.join_timeout(Duration::ZERO).unwrap(), None);
        process.terminate(false).unwrap();
        let exit = process.join_timeout(LONG).unwrap().unwrap();
        assert_eq!(process.join_timeout(Duration::ZERO).unwrap(), Some(exit));
    }

    fn limits_of_terminate_and_kill() {
        let process = Process::builder(sh("trap '' TERM; echo up; while :; do sleep 1000; done"))
            .ready(pkit::Ready::line("up"))
            .build()
            .unwrap();
        let pid = process.start(true).unwrap();
        let error = process.terminate(Duration::from_millis(30)).unwrap_err();
        assert!(error.is_timeout() && is_alive(pid), "{error}");
        assert_eq!(process.state(), State::Stopping);
        let error = process.restart(RestartMode::Join, Duration::from_millis(30)).unwrap_err();
        assert!(error.is_timeout() && process.status().generation == 1, "{error}");
        process.kill(LONG).unwrap();
        assert!(process.join().unwrap().forced());
        // What does not run is left alone.
        process.terminate(true).unwrap();
        process.kill(true).unwrap();
        assert!(process.signal(pkit::Signal::HUP).unwrap_err().is_not_running());
    }

    fn eight_threads_join() {
        let process = Process::new(sh("exec sleep 1000"));
        let barrier = Barrier::new(9);
        for _ in 0..10 {
            process.start(true).unwrap();
            thread::scope(|scope| {
                let join = || {
                    barrier.wait();
                    process.join().unwrap()
                };
                let joins: Vec<_> = (0..8).map(|_| scope.spawn(join)).collect();
                barrier.wait();
                process.terminate(false).unwrap();
                let exits: Vec<_> = joins.into_iter().map(|thread| thread.join().unwrap()).collect();
                assert!(exits.iter().all(|exit| Some(exit) == process.exit().as_ref()));
            });
        }
    }

    fn of_eight_starts_one_wins() {
        let process = Process::new(sh("exec sleep 1000"));
        for _ in 0..20 {
            let barrier = Barrier::new(8);
            let results: Vec<_> = thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    process.start(true)
                };
                let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                starts.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1);
            assert!(lost.into_iter().all(|result| result.unwrap_err().is_running()));
            assert_eq!(won[0].as_ref().ok(), process.pid().as_ref());
            process.kill(true).unwrap();
        }
    }

    fn one_that_is_detached_lives_on() {
        let process = Process::builder(sh("exec sleep 1000")).build().unwrap();
        process.detach();
        let pid = process.start(true).unwrap();
        drop(process);
        assert!(is_alive(pid));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
        // It is reaped all the same.
        eventually("it is reaped", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    fn how_it_is_shown() {
        let process = Process::builder(sh("exec sleep 1000")).name("worker").build().unwrap();
        assert_eq!((process.name(), process.to_string().as_str()), ("worker", "worker"));
        assert_eq!(format!("{process:>8}|"), "  worker|");
        assert_eq!(format!("{process:?}"), "Process { name: \"worker\", state: Idle, pid: None, .. }");
        let pid = process.start(true).unwrap();
        assert_eq!(format!("{process:?}"), format!("Process {{ name: \"worker\", state: Ready, pid: Some({pid}), .. }}"));
        assert_eq!(process.state().to_string(), "ready");
        let error = process.start(true).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot start `worker` (pid {pid}): it is already running"));
        assert_eq!((error.process(), error.pid()), ("worker", Some(pid)));
        process.terminate(true).unwrap();
        let exit = process.join().unwrap().to_string();
        assert!(exit.starts_with("killed by SIGTERM after ") && exit.ends_with("as asked"), "{exit}");
        assert_eq!(Process::new(sh("exit 0")).name(), "sh");
    }
}
