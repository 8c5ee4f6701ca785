//! This program is stopped for a while, by a terminal, a debugger or a freezer, and those it supervises go on.
//!
//! In each test the child stops its parent, does in time what it has to, and has it go on when the time is over.

use std::time::Duration;

use pkit::{Process, Ready, Signal, State, Stop};

use crate::support::{LONG, python, sh, tests};

/// What a child has for it; the pause is longer.
const LIMIT: Duration = Duration::from_secs(3);
const GO_ON: &str = "setsid sh -c \"sleep 4; kill -CONT $PPID\" &";

tests! {
    fn who_was_ready_in_time_is_ready() {
        let script = format!("kill -STOP $PPID; echo up >&3; {GO_ON} exec sleep 1000");
        let process = Process::builder(sh(&script)).ready(Ready::fd(3)).ready_within(LIMIT).build().unwrap();
        process.start(true).unwrap();
        assert_eq!(process.state(), State::Ready);
    }

    fn who_keeps_its_watchdog_goes_on() {
        let script = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
tell('READY=1')
signal.sigwait([signal.SIGUSR1])
os.kill(os.getppid(), signal.SIGSTOP)
for _ in range(8):
    tell('WATCHDOG=1')
    time.sleep(.5)
os.kill(os.getppid(), signal.SIGCONT)
tell('WATCHDOG=1\\nSTATUS=done')
signal.pause()";
        let process = Process::builder(python(script)).ready(Ready::notify().watchdog(LIMIT)).build().unwrap();
        process.start(true).unwrap();
        process.signal(Signal::USR1).unwrap();
        process.wait_until(LONG, |status| status.text.as_deref() == Some("done")).unwrap();
        assert_eq!((process.state(), process.restarts()), (State::Ready, 0));
    }

    fn who_ended_in_time_has_missed_no_watchdog() {
        let script = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
tell('READY=1')
signal.sigwait([signal.SIGUSR1])
os.kill(os.getppid(), signal.SIGSTOP)
os.system('setsid sh -c \"sleep 4; kill -CONT %d\" &' % os.getppid())";
        let process = Process::builder(python(script)).ready(Ready::notify().watchdog(LIMIT)).build().unwrap();
        process.start(true).unwrap();
        process.signal(Signal::USR1).unwrap();
        process.wait_until(LONG, |status| status.state == State::Idle).unwrap();
        let exit = process.exit().unwrap();
        assert!(exit.success() && exit.fault().is_none(), "{exit}");
    }

    fn who_obeyed_in_time_was_not_forced() {
        let script = format!("trap 'kill -STOP $PPID; {GO_ON} exit 0' TERM; echo up; while :; do sleep 0.1; done");
        let process = Process::builder(sh(&script)).ready(Ready::line("up")).stop(Stop::signal(Signal::TERM, LIMIT));
        let process = process.build().unwrap();
        process.start(true).unwrap();
        process.terminate(false).unwrap();
        process.wait_until(LONG, |status| status.state == State::Idle).unwrap();
        let exit = process.exit().unwrap();
        assert!(exit.success() && exit.requested() && !exit.forced(), "{exit}");
    }
}
