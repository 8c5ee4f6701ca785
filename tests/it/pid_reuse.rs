//! Pids that are used again: a signal never reaches a stranger who has the pid that a child of ours had.
//!
//! In a pid namespace of its own, where the next pid may be chosen (`ns_last_pid`, of that namespace alone): as soon as
//! one of ours is gone, a stranger gets its pid, as a process and as the leader of a group. A stranger waits for the end of its
//! input and then ends well; any signal that reached it would be its end instead.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as StdCommand, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pkit::{Backoff, Command, Process, Restart, RestartMode, Signal};

use crate::program::{Program, role, say};
use crate::support::{LONG, eventually, skipped, tests};

const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
const ROUNDS: usize = 300;
/// Strangers that are there at a time.
const STRANGERS: usize = 20;

tests! {
    fn restarts_by_hand_signal_no_stranger() {
        in_a_pid_namespace(|| {
            let process = Process::new(endless());
            let mut current = process.start(true).unwrap();
            beside_strangers(&process, |process| {
                std::mem::replace(&mut current, process.restart(RestartMode::Kill, LONG).unwrap())
            });
        });
    }

    fn a_walk_for_what_a_leader_left_signals_no_stranger() {
        if crate::OLD_KERNEL {
            return; // There the leader keeps its number, as a zombie, until the run is over.
        }
        pkit::testing::pretend_no_cgroups();
        in_a_pid_namespace(|| {
            // Outside of the group, and deaf to SIGTERM: it is looked for until its SIGKILL. The leader ends when it is both,
            // and closes what is read here: until then it holds the leader's number, and may be ended by its SIGTERM.
            let script = "$(setsid sh -c 'trap \"\" TERM; exec sleep 1000 >&-' 2>&- &) exit 0";
            let command = Command::new("sh").args(["-c", script]).clone();
            let grace = std::time::Duration::from_millis(50);
            let survivors = pkit::Survivors::stop(pkit::Stop::signal(Signal::TERM, grace));
            let builder = Process::builder(command).contain(pkit::Containment::Tree).survivors(survivors);
            let process = builder.build().unwrap();
            let mut strangers = Strangers::default();
            for _ in 0..ROUNDS / 6 {
                let pid = process.start(true).unwrap();
                process.wait_until(LONG, |status| status.pid.is_none()).unwrap();
                strangers.take(pid);
                process.join().unwrap();
            }
            strangers.are_well();
        });
    }

    fn automatic_restarts_signal_no_stranger() {
        in_a_pid_namespace(|| {
            let always = Restart::always().backoff(Backoff::none()).unlimited();
            let process = Process::builder(endless()).restart(always).build().unwrap();
            process.start(true).unwrap();
            beside_strangers(&process, |process| {
                let old = process.wait_until(LONG, |status| status.pid.is_some()).unwrap().pid.unwrap();
                // It may have been signalled to death a moment ago by the thread beside us.
                let _ = process.signal(Signal::KILL);
                process.wait_until(LONG, |status| status.pid.is_some_and(|pid| pid != old)).unwrap();
                old
            });
        });
    }

    fn a_handle_of_what_ended_signals_no_stranger() {
        in_a_pid_namespace(|| {
            let mut strangers = Strangers::default();
            for _ in 0..ROUNDS / 3 {
                let process = Process::new(endless());
                let pid = process.start(true).unwrap();
                process.kill(LONG).unwrap();
                strangers.take(pid);
                assert!(process.signal(Signal::TERM).is_err_and(|error| error.is_not_running()));
                process.terminate(LONG).unwrap();
                process.kill(LONG).unwrap();
                drop(process);
            }
            strangers.are_well();
        });
    }
}

fn endless() -> Command {
    Command::new("sleep").arg("1000").clone()
}

/// `next` ends the run that is there and waits until another is; it returns the pid of the former.
fn beside_strangers(process: &Process, mut next: impl FnMut(&Process) -> u32) {
    let ends = AtomicBool::new(false);
    let mut strangers = Strangers::default();
    thread::scope(|scope| {
        // Signals at any moment, at best to a run of ours, at worst to a pid that has just changed hands.
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                let _ = process.signal(Signal::USR1);
                thread::yield_now();
            }
        });
        // Also when something here panics: the scope waits for that thread.
        let _end = StoreAtDrop(&ends);
        for _ in 0..ROUNDS {
            strangers.take(next(process));
        }
    });
    process.kill(LONG).unwrap();
    strangers.are_well();
}

struct StoreAtDrop<'a>(&'a AtomicBool);

impl Drop for StoreAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Strangers {
    all: VecDeque<Child>,
    /// How many got the pid that they were to get.
    reused: usize,
}

impl Strangers {
    /// A stranger that gets `pid`, if nobody else was faster.
    fn take(&mut self, pid: u32) {
        fs::write(LAST_PID, (pid - 1).to_string()).unwrap();
        let mut command = StdCommand::new("cat");
        let stranger = command.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        self.reused += usize::from(stranger.id() == pid);
        self.all.push_back(stranger);
        if self.all.len() > STRANGERS {
            is_well(self.all.pop_front().unwrap());
        }
    }

    fn are_well(self) {
        self.all.into_iter().for_each(is_well);
        say(self.reused);
    }
}

fn is_well(mut stranger: Child) {
    drop(stranger.stdin.take());
    let status = stranger.wait().unwrap();
    assert!(status.success(), "a stranger was hit: {status}");
}

fn in_a_pid_namespace(body: impl FnOnce()) {
    if role().is_some() {
        body();
        return;
    }
    // The shell is the first process of the namespace and takes the orphans.
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let permitted = StdCommand::new(namespace[0]).args(&namespace[1..]).args(["test", "-w", LAST_PID]).output();
    if !permitted.is_ok_and(|output| output.status.success()) {
        skipped("no pid namespace may be made, or no pid chosen in it");
        return;
    }
    let by: Vec<&str> = namespace.into_iter().chain(["sh", "-c", "\"$@\"; exit $?", "sh"]).collect();
    let (status, said) = Program::start_by(&by, "inside").finish();
    assert!(status.success(), "{status}");
    let reused: usize = said[0].parse().unwrap();
    println!("{reused} pids were used again");
    assert!(reused > ROUNDS / 10, "the test tested something");
    eventually("the namespace is gone", || crate::support::children().is_empty());
}
