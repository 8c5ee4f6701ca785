//! Whose life a child's life hangs on: this program's, not that of the thread that started it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::thread;

use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{Backoff, Builder, Command, Process, Restart, Signal, Stdio, Target};

use crate::forked::{forked, tell};
use crate::program::{Program, role, say, stay};
use crate::support::{LONG, eventually, is_alive, is_root, python, sh, skipped, tests, thread_names};

/// Says when it is asked to end. (A shell would need a child to wait for, which a signal may miss before its exec.)
const WAITS: &str = "
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print('up', flush=True)
signal.sigwait([signal.SIGTERM])
print('asked', flush=True)";

tests! {
    fn the_thread_that_started_it_may_end() {
        let process = Process::builder(Command::new("cat")).stdin(Stdio::piped()).stdout(Stdio::piped()).build().unwrap();
        on_a_thread_that_ends(&process);
        let (mut to, from) = (process.stdin().unwrap(), process.stdout().unwrap());
        to.write_all(b"still there?\n").unwrap();
        let mut answer = String::new();
        BufReader::new(from).read_line(&mut answer).unwrap();
        assert_eq!(answer, "still there?\n");
        drop(to);
        assert!(process.join().unwrap().success());
    }

    fn the_thread_that_restarted_it_may_end() {
        let process = Process::new(Command::new("sleep").arg("1000"));
        let first = process.start(true).unwrap();
        let handle = process.clone();
        let end = thread::Builder::new().name("starter".into());
        let second = end.spawn(move || handle.restart(pkit::RestartMode::Kill, true).unwrap()).unwrap().join().unwrap();
        starter_is_gone();
        assert_ne!(first, second);
        // A signal that it had been sent by now would show before ours.
        process.signal(Signal::USR1).unwrap();
        assert_eq!(process.join().unwrap().signal(), Some(Signal::USR1));
    }

    fn a_fork_outlives_the_thread_that_started_it() {
        let (reader, writer) = std::io::pipe().unwrap();
        let process = Process::builder(wait_for_end_of(3)).pass_fd(reader.into(), 3).build().unwrap();
        on_a_thread_that_ends(&process);
        drop(writer);
        assert_eq!(process.join_timeout(LONG).unwrap().expect("it read the end").code(), Some(5));
    }

    fn no_child_survives_a_killed_program() {
        if role().is_some() {
            start_children_of_every_kind();
        }
        let mut program = Program::start("parent");
        let children: Vec<u32> = (0..KINDS).map(|_| program.number()).collect();
        for child in &children {
            assert!(is_alive(*child), "{child} of {children:?}");
        }
        program.kill();
        for (kind, child) in children.iter().enumerate() {
            eventually(&format!("child number {kind} is gone"), || !is_alive(*child));
        }
    }

    fn a_child_dies_when_its_parent_returns() {
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
        let parent = parent_of(python(WAITS).into(), |b| b.on_parent_death(Signal::TERM));
        let child = child_of(&parent);
        is_up(&parent);
        parent.kill(false).unwrap();
        parent.join().unwrap();
        eventually("the child has ended", || !is_alive(child));
        assert_eq!(parent.output().stdout_text().lines().last(), Some("asked"));
    }

    fn the_parents_death_is_noticed_after_a_change_of_user() {
        if !is_root() {
            skipped("only root may become another user");
            return;
        }
        // The kernel forgets the signal when the credentials change (prctl(2)).
        let parent = parent_of(Command::new("sleep").arg("100").into(), |b| b.uid(12345).gid(12345));
        let child = child_of(&parent);
        parent.kill(true).unwrap();
        eventually("the child has died", || !is_alive(child));
    }

    fn who_may_outlive_a_killed_program_does() {
        match role() {
            Some(directory) => start_those_that_outlive(Path::new(&directory)),
            None => {
                let directory = tempfile::tempdir().unwrap();
                for name in SURVIVORS {
                    nix::unistd::mkfifo(&directory.path().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
                }
                let mut program = Program::start(directory.path().to_str().unwrap());
                let bound = program.number();
                let survivors: Vec<u32> = SURVIVORS.iter().map(|_| program.number()).collect();
                program.kill();
                eventually("the bound one is gone", || !is_alive(bound));
                for name in SURVIVORS {
                    // Opening it to write waits for the reader; who is dead never comes.
                    std::fs::write(directory.path().join(name), "still there?\n").unwrap();
                    let answer = directory.path().join(format!("{name}.answer"));
                    eventually("it answers", || {
                        std::fs::read_to_string(&answer).is_ok_and(|answer| answer == "still there?\n")
                    });
                }
                for survivor in survivors {
                    assert!(is_alive(survivor));
                    kill(Pid::from_raw(survivor as i32), Raw::SIGKILL).unwrap();
                    eventually("it is gone", || !is_alive(survivor));
                }
            }
        }
    }

    fn who_cannot_see_its_parent_is_not_taken_for_an_orphan() {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).is_err() {
            skipped("no pid namespace may be made");
            return;
        }
        // The first is the first process of the namespace, and the others live as long as it does.
        let first = Process::builder(sh("read line")).stdin(Stdio::piped()).build().unwrap();
        first.start(true).unwrap();
        for _ in 0..3 {
            let next = Process::new(sh("exit 5"));
            next.start(true).unwrap();
            assert_eq!(next.join().unwrap().code(), Some(5));
        }
        first.kill(true).unwrap();
    }

    fn a_fork_may_outlive_its_parent() {
        let parent = parent_of(endless_fork(), |b| b.outlive_parent().stdout(Stdio::null()));
        let child = child_of(&parent);
        parent.kill(true).unwrap();
        assert!(is_alive(child));
        kill(Pid::from_raw(child as i32), Raw::SIGKILL).unwrap();
        eventually("the child is gone", || !is_alive(child));
    }

    fn a_detached_process_outlives_its_handles() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("end");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let process = Process::new(Command::new("cat").arg(&fifo).stdout(Stdio::null()));
        let mut events = process.subscribe();
        let pid = process.start(true).unwrap();
        process.detach();
        drop(process);
        // What the drop does is done when it returns, except for the signal's way.
        std::fs::write(&fifo, "an end by itself").unwrap();
        let exit = events.find_map(|event| match event.kind {
            pkit::EventKind::Exited(exit) => Some(exit),
            _ => None,
        });
        let exit = exit.expect("it is looked after although nobody holds it");
        assert!(exit.success() && !exit.requested() && exit.pid() == pid, "{exit}");
    }
}

/// A parent, a forked closure, that starts `child` with these options, says its pid, and stays.
fn parent_of(child: Target, options: impl Fn(Builder) -> Builder + Send + Sync + 'static) -> Process {
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

fn is_up(parent: &Process) {
    parent.wait_for_line(LONG, |line| line == "up").unwrap();
}

fn on_a_thread_that_ends(process: &Process) {
    let process = process.clone();
    let starter = thread::Builder::new().name("starter".into());
    starter.spawn(move || process.start(true).unwrap()).unwrap().join().unwrap();
    starter_is_gone();
}

/// A join returns before the kernel has finished with the thread.
fn starter_is_gone() {
    eventually("the starting thread has ended", || !thread_names().iter().any(|name| name == "starter"));
}

/// A fork that ends with 5 when descriptor `fd` says that there is nothing more.
fn wait_for_end_of(fd: i32) -> Target {
    forked(move || {
        let read = std::fs::read(format!("/proc/self/fd/{fd}"));
        std::process::ExitCode::from(if read.is_ok() { 5 } else { 6 })
    })
}

fn endless_fork() -> Target {
    forked(|| -> () { stay() })
}

const KINDS: usize = 8;

fn start_children_of_every_kind() -> ! {
    let endless = || Command::new("sleep").arg("1000").clone();
    let build = |builder: Builder| builder.build().unwrap();
    let in_session = build(Process::builder(endless()).session(true));
    let ignoring = build(Process::builder(sh("trap '' TERM HUP INT; echo up; exec sleep 1000")));
    let kept = [
        build(Process::builder(endless())),
        build(Process::builder(endless_fork())),
        build(Process::builder(endless())),
        build(Process::builder(endless_fork())),
        in_session,
        ignoring,
    ];
    for (number, process) in kept.iter().enumerate() {
        match number {
            2 | 3 => on_a_thread_that_ends(process),
            _ => {
                process.start(true).unwrap();
            }
        }
        say(process.pid().unwrap());
    }
    // Two that the policy started: a command and a fork.
    let restarted = [Target::from(endless()), endless_fork()].map(|target| {
        let process = build(Process::builder(target).restart(Restart::always().backoff(Backoff::none())));
        let first = process.start(true).unwrap();
        kill(Pid::from_raw(first as i32), Raw::SIGKILL).unwrap();
        let status = process.wait_until(LONG, |status| status.pid.is_some_and(|pid| pid != first)).unwrap();
        say(status.pid.unwrap());
        process
    });
    let _all = (kept, restarted);
    stay()
}

const SURVIVORS: [&str; 2] = ["outliving", "detached"];

fn start_those_that_outlive(directory: &Path) -> ! {
    let bound = Process::new(Command::new("sleep").arg("1000"));
    say(bound.start(true).unwrap());
    let answering = |name: &str| {
        let fifo = directory.join(name);
        // Its output goes nowhere but to the answer: the program's own would keep the test reading.
        let script = "exec >/dev/null 2>&1; while :; do read line < \"$1\" && echo \"$line\" > \"$1.answer\"; done";
        Process::builder(sh(script).arg("sh").arg(fifo))
    };
    let outliving = answering(SURVIVORS[0]).outlive_parent().build().unwrap();
    say(outliving.start(true).unwrap());
    let detached = answering(SURVIVORS[1]).build().unwrap();
    detached.detach();
    say(detached.start(true).unwrap());
    stay()
}
