//! Restart policies, with real processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::Pid;
use pkit::{Backoff, Command, EventKind, Process, Ready, Restart, RestartMode, Signal, State, Stdio};

use crate::support::{LONG, say, sh, tests, wait_for};

const DELAY: Duration = Duration::from_secs(1000);

fn with(restart: Restart, script: &str) -> Process {
    Process::builder(sh(script)).restart(restart).build().unwrap()
}

/// Starts it, waits for the end, and says where that left it and after how many restarts.
fn fate(process: &Process) -> (State, u64) {
    process.start(true).unwrap();
    process.join().unwrap();
    (process.state(), process.restarts())
}

fn quick(restart: Restart) -> Restart {
    restart.backoff(Backoff::none()).limit(2, LONG)
}

tests! {
    fn a_restart_given_up_leaves_the_policy_on() {
        let always = Restart::always().backoff(Backoff::none()).unlimited();
        let process = Process::builder(sh("exec sleep 1000")).restart(always).build().unwrap();
        process.start(true).unwrap();
        let error = process.restart(RestartMode::Join, Duration::from_millis(10)).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        process.signal(Signal::SEGV).unwrap();
        process.wait_until(LONG, |status| status.restarts == 1 && status.state == State::Ready).unwrap();
        // But a stop that was asked for meanwhile holds.
        std::thread::scope(|scope| {
            let restart = scope.spawn(|| process.restart(RestartMode::Join, LONG));
            process.terminate(true).unwrap();
            // Whichever came first: it waits no more, and starts the next.
            let _ = restart.join().unwrap();
        });
        process.kill(true).unwrap();
        assert_eq!(process.state(), State::Idle);
    }

    fn the_time_of_a_creation_is_no_time_of_being_ready() {
        let stable = Duration::from_secs(1);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        fs::copy("/bin/false", &path).unwrap();
        // Whoever writes it takes longer than what counts as stable.
        let written = path.clone();
        let write = move || {
            let writer = fs::File::options().append(true).open(&written).unwrap();
            let (hold, held) = std::sync::mpsc::channel::<()>();
            std::thread::spawn(move || {
                assert!(held.recv_timeout(stable + stable / 10).is_err());
                drop(writer);
            });
            hold
        };
        let holds = std::sync::Mutex::new(vec![write()]);
        let policy = Restart::always().backoff(Backoff::none()).limit(1, LONG).reset_after(stable);
        let process = Process::builder(Command::new(&path)).restart(policy).retry_text_busy(LONG);
        let process = process.on_exit(move |_, _| holds.lock().unwrap().push(write())).build().unwrap();
        process.start(true).unwrap();
        process.wait_until(LONG, |status| status.restarts > 1 || status.state == State::Failed).unwrap();
        assert_eq!((process.state(), process.restarts()), (State::Failed, 1));
        let exit = process.exit().unwrap();
        assert!(exit.runtime() > stable, "that is how long its creation took: {exit}");
    }

    fn a_restart_given_up_while_an_end_is_reported_leaves_the_policy_on() {
        let always = Restart::always().backoff(Backoff::none()).unlimited();
        let (report, go_on) = std::sync::mpsc::channel::<()>();
        let go_on = std::sync::Mutex::new(go_on);
        let process = Process::builder(sh("exec sleep 1000")).restart(always);
        // The first end is reported for as long as we like.
        let process = process.on_exit(move |_, _| _ = go_on.lock().unwrap().recv()).build().unwrap();
        process.start(true).unwrap();
        process.signal(Signal::SEGV).unwrap();
        process.wait_until(LONG, |status| status.exit.is_some()).unwrap();
        let error = process.restart(RestartMode::Join, Duration::from_millis(10)).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(process.state(), State::Backoff);
        let joined = process.exited();
        drop(report);
        process.wait_until(LONG, |status| status.restarts == 1 && status.state == State::Ready).unwrap();
        // Who has waited since then waits for the end of this one.
        assert!(smol::future::block_on(smol::future::poll_once(joined)).is_none());
        process.terminate(true).unwrap();
    }

    fn never_never() {
        for script in ["exit 0", "exit 1", "kill -9 $$"] {
            assert_eq!(fate(&with(Restart::never(), script)), (State::Idle, 0));
        }
    }

    fn on_failure_after_failures_only() {
        let restart = || quick(Restart::on_failure()).success_codes([4, 5]).permanent_codes([78]);
        for clean in ["exit 0", "exit 4", "exit 5"] {
            assert_eq!(fate(&with(restart(), clean)), (State::Idle, 0), "{clean}");
        }
        for unclean in ["exit 1", "kill -9 $$", "kill -TERM $$"] {
            assert_eq!(fate(&with(restart(), unclean)), (State::Failed, 2), "{unclean}");
        }
        assert_eq!(fate(&with(restart(), "exit 78")), (State::Failed, 0));
    }

    fn always_after_every_end() {
        for script in ["exit 0", "exit 4", "exit 1", "kill -9 $$"] {
            let process = with(quick(Restart::always()).success_codes([4]).permanent_codes([78]), script);
            assert_eq!(fate(&process), (State::Failed, 2), "{script}");
        }
        let process = with(Restart::always().permanent_codes([78]), "exit 78");
        assert_eq!(fate(&process), (State::Failed, 0));
    }

    fn a_failed_process_keeps_its_last_exit_until_a_start_by_hand() {
        let process = with(quick(Restart::on_failure()), "exit 7");
        let mut events = process.subscribe();
        assert_eq!(fate(&process), (State::Failed, 2));
        assert_eq!(process.join().unwrap().code(), Some(7));
        assert_eq!((process.pid(), process.status().next_start), (None, None));
        let failed = std::iter::from_fn(|| events.try_next()).find_map(|event| match event.kind {
            EventKind::Failed(why) => Some(why),
            _ => None,
        });
        assert_eq!(failed.unwrap().to_string(), "more than 2 restarts within 60 s");
        // By hand it has all its restarts again.
        assert_eq!(fate(&process), (State::Failed, 4));
        process.terminate(true).unwrap();
        assert_eq!(process.state(), State::Failed);
    }

    fn the_due_time_is_in_the_status() {
        let process = with(Restart::on_failure().backoff(Backoff::fixed(DELAY)).limit(0, LONG).unlimited(), "exit 1");
        let before = Instant::now();
        process.start(true).unwrap();
        let status = wait_for(&process, State::Backoff);
        let due = status.next_start.unwrap();
        assert!(due >= before + DELAY && due <= Instant::now() + DELAY);
        assert_eq!((status.pid, status.exit.unwrap().code(), status.restarts), (None, Some(1), 0));
        assert!(!process.is_alive());
        // It may run again: nobody is told of an end.
        assert_eq!(process.join_timeout(Duration::from_millis(20)).unwrap(), None);
    }

    fn a_stop_cuts_the_back_off_short() {
        const BRIEF: Duration = Duration::from_millis(50);
        for (forced, delay) in [(false, DELAY), (true, DELAY), (false, BRIEF)] {
            let process = with(Restart::on_failure().backoff(Backoff::fixed(delay)).unlimited(), "exit 1");
            process.start(true).unwrap();
            wait_for(&process, State::Backoff);
            let other = process.clone();
            let waiter = std::thread::spawn(move || other.join());
            if forced { process.kill(true).unwrap() } else { process.terminate(true).unwrap() }
            assert_eq!((process.state(), process.status().next_start), (State::Idle, None));
            let exit = waiter.join().unwrap().unwrap();
            if delay == DELAY {
                assert_eq!(exit.code(), Some(1));
            } else {
                // What was due starts nothing any more.
                let runs = process.status().generation;
                let late = process.wait_until(3 * BRIEF, |status| status.generation > runs);
                assert!(late.unwrap_err().is_timeout());
            }
        }
    }

    fn a_start_during_the_back_off_starts_at_once() {
        let process = with(Restart::on_failure().backoff(Backoff::fixed(DELAY)).unlimited(), "exit 1");
        for generation in 1..=3 {
            process.start(true).unwrap();
            let status = wait_for(&process, State::Backoff);
            assert_eq!((status.generation, status.restarts), (generation, 0));
        }
    }

    fn a_delay_passes_before_the_restart() {
        let delay = Duration::from_millis(100);
        let process = with(Restart::on_failure().backoff(Backoff::fixed(delay)).limit(3, LONG), "exit 1");
        let events = process.subscribe();
        let before = Instant::now();
        assert_eq!(fate(&process), (State::Failed, 3));
        assert!(before.elapsed() >= 3 * delay);
        drop(process);
        assert_eq!(events.filter(|event| matches!(event.kind, EventKind::Backoff(_))).count(), 3);
    }

    fn a_run_that_lasted_clears_the_count() {
        // Each run lasts longer than that, so a limit of one is never met.
        let restart = Restart::on_failure().backoff(Backoff::none()).limit(1, LONG).reset_after(Duration::from_millis(20));
        let process = with(restart, "sleep 0.05; exit 1");
        process.start(true).unwrap();
        process.wait_until(LONG, |status| status.restarts >= 4).unwrap();
        process.terminate(true).unwrap();
    }

    fn an_explicit_stop_switches_it_off() {
        let process = with(Restart::always().backoff(Backoff::none()).unlimited(), "exec sleep 1000");
        for _ in 0..5 {
            process.start(true).unwrap();
            process.terminate(true).unwrap();
            assert_eq!((process.state(), process.restarts()), (State::Idle, 0));
            process.start(true).unwrap();
            process.kill(true).unwrap();
            assert_eq!((process.state(), process.restarts()), (State::Idle, 0));
        }
    }

    fn a_kill_from_outside_restarts() {
        let process = with(Restart::on_failure(), "exec sleep 1000");
        let first = process.start(true).unwrap();
        kill(Pid::from_raw(first as i32), Number::SIGKILL).unwrap();
        let status = process.wait_until(LONG, |status| status.restarts == 1 && status.state == State::Ready).unwrap();
        assert_ne!(status.pid, Some(first));
        let exit = status.exit.unwrap();
        assert_eq!((exit.signal(), exit.requested(), exit.forced()), (Some(Signal::KILL), false, false));
    }

    fn a_program_that_disappeared_ends_it_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let write = || {
            fs::write(&program, "#!/bin/sh\necho up\nread x\nexit 1\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        };
        write();
        let process = Process::builder(Command::new(&program))
            .stdin(Stdio::piped())
            .ready(Ready::line("up"))
            .restart(Restart::on_failure().backoff(Backoff::none()).unlimited())
            .build()
            .unwrap();
        let events = process.subscribe();
        process.start(true).unwrap();
        fs::remove_file(&program).unwrap();
        say(&mut process.stdin().unwrap(), "end");
        assert_eq!(process.join().unwrap().code(), Some(1));
        let status = process.status();
        assert_eq!((status.state, status.restarts, status.generation), (State::Failed, 1, 2));
        assert_eq!((status.error.unwrap().raw_os_error(), status.next_start), (Some(libc::ENOENT), None));
        // By hand it can be started again, once there is something to start.
        write();
        process.start(true).unwrap();
        assert!(process.status().error.is_none());
        process.terminate(true).unwrap();
        drop(process);
        assert_eq!(events.filter(|event| matches!(event.kind, EventKind::StartFailed(_))).count(), 1);
    }

    fn a_start_by_hand_that_fails_is_not_the_policys() {
        let process = Process::builder(Command::new("/nonexistent/program"))
            .restart(Restart::always().backoff(Backoff::none()).unlimited())
            .build()
            .unwrap();
        assert_eq!(process.start(true).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!((process.state(), process.restarts(), process.status().next_start), (State::Idle, 0, None));
        assert!(process.join().unwrap_err().is_never_started());
    }

    fn a_limit_out_of_reach_is_refused() {
        let restart = Restart::always().backoff(Backoff::fixed(Duration::from_secs(10))).limit(8, Duration::from_secs(60));
        let error = Process::builder(sh("exit 0")).restart(restart).build().unwrap_err();
        assert!(error.is_invalid(), "{error}");
    }
}
