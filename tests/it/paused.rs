//! This program is stopped for a while, by a terminal, a debugger or a freezer, and those it supervises go on.
//!
//! In each test the child stops its parent, does in time what it has to, and has it go on when the time is over.

use std::time::Duration;

use pkit::{Command, ExitReason, Process, Ready, Signal, State, Stdio, Stop};

use crate::support::{LONG, children, eventually, is_alive, python, say, sh, tests};

/// What a child has for it; the pause is longer.
const LIMIT: Duration = Duration::from_secs(10);

/// With `stop_parent`, which returns when all of its threads have stopped, and `and_go_on`, which lets it go on, later.
fn child(script: &str) -> Command {
    const PRELUDE: &str = "
parent = os.getppid()
asked = [signal.SIGUSR1, signal.SIGTERM]
signal.pthread_sigmask(signal.SIG_BLOCK, asked)
def has_stopped(thread):
    return '\\nState:\\tT' in open(f'/proc/{parent}/task/{thread}/status').read()
def stop_parent():
    os.kill(parent, signal.SIGSTOP)
    while not all(map(has_stopped, os.listdir(f'/proc/{parent}/task'))): pass
def and_go_on():
    os.system(f'setsid sh -c \"sleep 11; kill -CONT {parent}\" &')
";
    python(&format!("{PRELUDE}{script}"))
}

tests! {
    fn who_was_ready_in_time_is_ready() {
        // In a shell, which is there at once: on a loaded machine Python takes seconds, and these count.
        let script = "kill -STOP $PPID
while grep -L '^State:.T' /proc/$PPID/task/*/status | grep -q .; do :; done
echo up >&3
setsid sh -c \"sleep 11; kill -CONT $PPID\" &
exec sleep 1000";
        let process = Process::builder(sh(script)).ready(Ready::fd(3)).ready_within(LIMIT).build().unwrap();
        process.start(true).unwrap();
        assert_eq!(process.state(), State::Ready);
    }

    fn who_keeps_its_watchdog_goes_on() {
        let script = "tell('READY=1'); signal.sigwait(asked); stop_parent()
for _ in range(6):
    tell('WATCHDOG=1')
    time.sleep(2)
os.kill(parent, signal.SIGCONT)
tell('WATCHDOG=1\\nSTATUS=done'); signal.sigwait(asked)";
        let process = Process::builder(child(script)).ready(Ready::notify().watchdog(LIMIT)).build().unwrap();
        process.start(true).unwrap();
        process.signal(Signal::USR1).unwrap();
        process.wait_until(LONG, |status| status.text.as_deref() == Some("done")).unwrap();
        assert_eq!((process.state(), process.restarts()), (State::Ready, 0));
    }

    fn who_ended_in_time_has_missed_no_watchdog() {
        let script = "tell('READY=1'); signal.sigwait(asked); stop_parent(); and_go_on()";
        let process = Process::builder(child(script)).ready(Ready::notify().watchdog(LIMIT)).build().unwrap();
        process.start(true).unwrap();
        process.signal(Signal::USR1).unwrap();
        process.wait_until(LONG, |status| status.state == State::Idle).unwrap();
        let exit = process.exit().unwrap();
        assert!(exit.success() && exit.fault().is_none(), "{exit}");
    }

    fn who_obeyed_in_time_was_not_forced() {
        let script = "os.write(3, b'up\\n'); signal.sigwait(asked); stop_parent(); and_go_on()";
        let process = Process::builder(child(script)).ready(Ready::fd(3)).stop(Stop::signal(Signal::TERM, LIMIT));
        let process = process.build().unwrap();
        process.start(true).unwrap();
        process.terminate(false).unwrap();
        process.wait_until(LONG, |status| status.state == State::Idle).unwrap();
        let exit = process.exit().unwrap();
        assert!(exit.success() && exit.requested() && !exit.forced(), "{exit}");
    }

    fn callers_find_what_came_within_their_limits() {
        let script = "read go; kill -STOP $PPID
while grep -L '^State:.T' /proc/$PPID/task/*/status | grep -q .; do :; done
echo up
setsid sh -c \"sleep 11; kill -CONT $PPID\" >/dev/null 2>&1 &
exit 3";
        let builder = Process::builder(sh(script)).stdin(Stdio::piped()).capture(1000);
        let process = builder.survivors(pkit::Survivors::leave()).build().unwrap();
        process.start(true).unwrap();
        let mut stdin = process.stdin().unwrap();
        let waits = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            let line = scope.spawn(|| {
                waits.wait();
                process.wait_for_line(LIMIT, |line| line == "up")
            });
            let exit = scope.spawn(|| {
                waits.wait();
                process.join_timeout(LIMIT)
            });
            waits.wait();
            say(&mut stdin, "go");
            assert_eq!(line.join().unwrap().unwrap().text(), "up");
            assert_eq!(exit.join().unwrap().unwrap().unwrap().code(), Some(3));
        });
    }

    fn one_that_this_program_traces_has_not_ended_when_it_stands_still() {
        let script = "
import ctypes
assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
while True: os.kill(os.getpid(), signal.SIGUSR1)
";
        for limited in [false, true] {
            let process = Process::builder(python(script)).stop(Stop::signal(Signal::TERM, Duration::from_millis(100))).build().unwrap();
            let pid = process.start(true).unwrap();
            let join = |process: &Process| if limited { process.join_timeout(LONG).unwrap().unwrap() } else { process.join().unwrap() };
            let exit = std::thread::scope(|scope| {
                let joined = scope.spawn(|| join(&process));
                let stat = format!("/proc/{pid}/stat");
                eventually("it stands still", || std::fs::read_to_string(&stat).unwrap().contains(") t "));
                assert_eq!((process.pid(), process.state()), (Some(pid), State::Ready));
                // Nobody has taken that from who traces it.
                let stop = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid as i32), None).unwrap();
                assert!(matches!(stop, nix::sys::wait::WaitStatus::Stopped(_, nix::sys::signal::Signal::SIGUSR1)), "{stop:?}");
                if limited { process.terminate(false) } else { process.terminate(true) }.unwrap();
                joined.join().unwrap()
            });
            assert_eq!(exit.reason(), ExitReason::Signaled(Signal::KILL));
            assert!(!is_alive(pid) && children().is_empty());
        }
    }
}
