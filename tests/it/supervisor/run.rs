//! A supervisor on a program's main thread.

use std::sync::mpsc;

use nix::sys::signal::{Signal as Raw, raise};
use pkit::{EventKind, ExitReason, Process, Ready, Restart, Signal, State, Stop, Supervisor};

use super::{is_up_or_down, lasting, row, story};
use crate::forked::forked;
use crate::support::{LONG, children, eventually, sh, tests};

/// Runs it on a thread, and does something once all are ready.
fn run(stack: &Supervisor, then: impl FnOnce()) -> pkit::Result<pkit::SupervisorStatus> {
    let events = stack.subscribe();
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| stack.run());
        let is_up = |event: pkit::Event| &*event.process == stack.name() && matches!(event.kind, EventKind::Ready);
        assert!(events.into_iter().any(is_up));
        then();
        runs.join().unwrap()
    })
}

fn send(signal: Raw) {
    nix::sys::signal::kill(nix::unistd::Pid::this(), signal).unwrap();
}

tests! {
    fn it_is_started_and_a_signal_stops_it_in_order() {
        for signal in [Raw::SIGTERM, Raw::SIGINT, Raw::SIGHUP] {
            let row = row(&["a", "b"]).build().unwrap();
            let events = row.subscribe();
            let end = run(&row, || send(signal)).unwrap();
            assert!(children().is_empty());
            assert_eq!((end.state, end.children.len()), (State::Idle, 2));
            let told = story(events, is_up_or_down, |event| matches!(event.kind, EventKind::AllStopped));
            assert_eq!(told, ["a ready", "b ready", "row ready", "b stopping", "a stopping", "row stopped"]);
        }
    }

    fn one_that_was_started_goes_on_and_a_second_signal_kills() {
        let deaf = Process::builder(sh("trap '' TERM; echo up; while :; do sleep 1; done"));
        let deaf = deaf.name("deaf").ready(Ready::line("up")).stop(Stop::signal(Signal::TERM, LONG * 10));
        let stack = Supervisor::builder().child(deaf).build().unwrap();
        stack.start(true).unwrap();
        let process = stack.process("deaf").unwrap();
        let end = std::thread::scope(|scope| {
            let runs = scope.spawn(|| stack.run());
            // Nobody says that it listens: before that the signal would end this program.
            eventually("it listens", || {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
                u64::from_str_radix(caught.trim(), 16).unwrap() >> (Raw::SIGHUP as i32 - 1) & 1 == 1
            });
            send(Raw::SIGTERM);
            process.wait_until(LONG, |status| status.state == State::Stopping).unwrap();
            send(Raw::SIGINT);
            runs.join().unwrap()
        });
        assert_eq!(end.unwrap().children[0].exit().unwrap().signal(), Some(Signal::KILL));
    }

    fn a_hangup_reloads_and_a_reload_that_blocks_or_panics_holds_nothing_up() {
        let (told, reloads) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let reload = move |stack: &Supervisor| {
            told.send(stack.restart("a", true).is_ok()).unwrap();
            if stack.status().children[0].process().unwrap().generation == 2 {
                panic!("for the test");
            }
            let _ = gate.lock().unwrap().recv();
        };
        let stack = Supervisor::builder().child(lasting("a")).on_reload(reload).build().unwrap();
        let end = run(&stack, || {
            for _ in 0..2 {
                send(Raw::SIGHUP);
                assert!(reloads.recv_timeout(LONG).unwrap());
            }
            send(Raw::SIGTERM);
        });
        assert_eq!(end.unwrap().children[0].process().unwrap().generation, 3);
        drop(release);
    }

    fn signals_are_passed_on_to_whom_it_was_said() {
        let echo = |name: &str| {
            let script = "trap 'echo heard' USR1; echo up; while :; do sleep 0.01; done";
            Process::builder(sh(script)).name(name).ready(Ready::line("up"))
        };
        let stack = Supervisor::builder().child(echo("a")).child(echo("b")).child(lasting("c"));
        let stack = stack.forward(Signal::USR1, ["a", "b"]).build().unwrap();
        run(&stack, || {
            send(Raw::SIGUSR1);
            for name in ["a", "b"] {
                stack.process(name).unwrap().wait_for_line(LONG, |line| line == "heard").unwrap();
            }
            assert_eq!(stack.process("c").unwrap().status().generation, 1);
            send(Raw::SIGTERM);
        })
        .unwrap();
        let refused = |signal: Signal, to: &str| {
            let error = Supervisor::builder().child(lasting("a")).forward(signal, [to]).build().unwrap_err();
            assert!(error.is_invalid() && error.to_string().contains(signal.name().as_ref()), "{error}");
        };
        refused(Signal::TERM, "a");
        refused(Signal::KILL, "a");
        refused(Signal::SEGV, "a");
        refused(Signal::USR1, "b");
    }

    fn a_failure_is_its_error() {
        let fails = Process::builder(sh("exit 3")).name("fails").restart(Restart::always().limit(0, LONG));
        let stack = Supervisor::builder().name("stack").child(lasting("a")).child(fails).build().unwrap();
        let error = stack.run().unwrap_err();
        assert_eq!(error.failure().unwrap().child(), "fails");
        assert!(error.to_string().starts_with("cannot run `stack`: its child `fails` "), "{error}");
        assert!(children().is_empty());
    }

    fn afterwards_signals_do_what_they_do_by_default() {
        let afterwards = || {
            let stack = Supervisor::builder().child(lasting("a")).build().unwrap();
            assert!(run(&stack, || send(Raw::SIGTERM)).is_ok());
            raise(Raw::SIGTERM).unwrap();
        };
        let process = Process::new(forked(afterwards));
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().reason(), ExitReason::Signaled(Signal::TERM));
    }
}
