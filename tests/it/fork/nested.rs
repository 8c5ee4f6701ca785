//! pkit inside of forked closures, three levels deep.

use std::process::ExitCode;

use pkit::{Process, Ready, Restart, Signal, State, Stop, Target};

use super::run;
use crate::forked::{forked, tell};
use crate::support::{LONG, children, eventually, is_alive, sh, tests, thread_names};

const DEPTH: u8 = 3;

/// Uses everything at this level, then goes one deeper, and answers with its level.
fn level(number: u8) -> Target {
    forked(move || {
        assert_eq!(thread_names().len(), 1);
        assert_eq!(children(), []);
        a_command_is_captured(number);
        a_stubborn_one_is_terminated();
        a_crash_is_restarted();
        a_stop_is_seen();
        dropped_handles_stop();
        if number < DEPTH {
            deeper(number + 1);
        }
        assert_eq!(children(), []);
        tell(&format!("level {number}\n"));
        ExitCode::from(number)
    })
}

fn a_command_is_captured(number: u8) {
    let command = Process::builder(sh("echo out; echo err >&2; exit $CODE")).env("CODE", number.to_string());
    let command = command.capture(1000).build().unwrap();
    for _ in 0..3 {
        command.start(true).unwrap();
        assert_eq!(command.join().unwrap().code(), Some(number.into()));
        assert_eq!((command.output().stdout_text(), command.output().stderr_text()), ("out\n".into(), "err\n".into()));
    }
}

fn a_stubborn_one_is_terminated() {
    let builder = Process::builder(sh("trap '' TERM; echo up; exec sleep 1000")).ready(Ready::line("up"));
    let stubborn = builder.stop(Stop::signal(Signal::TERM, std::time::Duration::from_millis(10))).build().unwrap();
    let pid = stubborn.start(true).unwrap();
    stubborn.terminate(true).unwrap();
    assert!(!is_alive(pid) && stubborn.join().unwrap().forced());
}

fn a_crash_is_restarted() {
    let builder = Process::builder(forked(|| ExitCode::FAILURE)).on_exit(|process, _| assert!(!process.is_alive()));
    let crashing = builder.restart(Restart::on_failure().limit(1, LONG)).build().unwrap();
    crashing.start(true).unwrap();
    assert_eq!(crashing.join().unwrap().code(), Some(1));
    assert_eq!((crashing.state(), crashing.restarts()), (State::Failed, 1));
}

fn a_stop_is_seen() {
    let process = Process::new(sh("exec sleep 1000"));
    process.start(true).unwrap();
    process.signal(Signal::STOP).unwrap();
    process.wait_until(LONG, |status| status.state == State::Paused).unwrap();
    process.signal(Signal::CONT).unwrap();
    process.wait_until(LONG, |status| status.state == State::Ready).unwrap();
    process.kill(true).unwrap();
}

fn dropped_handles_stop() {
    let process = Process::new(sh("exec sleep 1000"));
    let pid = process.start(true).unwrap();
    drop(process);
    eventually("it is gone", || !is_alive(pid) && children().is_empty());
}

fn deeper(number: u8) {
    let next = Process::builder(level(number)).capture(1000).build().unwrap();
    next.start(true).unwrap();
    let exit = next.join().unwrap();
    let output = next.output();
    assert_eq!(exit.code(), Some(number.into()), "{exit}: {}", output.stderr_text());
    let levels: String = (number..=DEPTH).rev().map(|level| format!("level {level}\n")).collect();
    assert_eq!((output.stdout_text(), output.stderr_text()), (levels.as_str().into(), "".into()));
    tell(&levels);
}

tests! {
    fn three_levels_deep() {
        deeper(1);
    }

    fn before_and_after_other_threads_exist() {
        let (exit, stdout, stderr) = run(|| {
            // A program with one thread, which is its main thread.
            assert_eq!(thread_names().len(), 1);
            let sum = |numbers: Vec<u8>| run(move || ExitCode::from(numbers.iter().sum::<u8>())).0.code();
            assert_eq!(sum(vec![1, 2, 3]), Some(6));
            // And one with others, started by one of those.
            let (go, gone) = std::sync::mpsc::channel::<()>();
            let other = std::thread::spawn(move || gone.recv());
            assert_eq!(sum(vec![4, 5]), Some(9));
            let result = std::thread::spawn(move || sum(vec![6, 7])).join().unwrap();
            assert_eq!(result, Some(13));
            drop(go);
            assert!(other.join().unwrap().is_err());
        });
        assert!(exit.success(), "{exit}: {stdout} {stderr}");
    }
}
