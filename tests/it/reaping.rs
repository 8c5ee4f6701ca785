//! Every exit arrives, whatever is done to SIGCHLD and whoever else waits for children.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command as StdCommand;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource as Limit, getrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal as Raw, sigaction, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use pkit::{Command, EventKind, ExitReason, Process, Resource, Restart, Signal, Stop, Survivors};

use crate::forked::forked;
use crate::program::{Program, role};
use crate::support::{LONG, children, eventually, is_alive, limited, sh, skipped, tests};

/// Subscribing and running do not hang.
fn is_told_of_a_run() {
    let process = Process::new(Command::new("true"));
    let events = process.subscribe();
    process.start(true).unwrap();
    process.join().unwrap();
    drop(process);
    assert!(events.count() > 2);
}

tests! {
    fn exits_arrive_with_sigchld_blocked_in_every_thread() {
        block_sigchld();
        exits_arrive(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                // A new thread has its parent's mask.
                scope.spawn(|| exits_arrive(false));
            }
        });
        assert_eq!(blocked_in_this_thread(), SigSet::from(Raw::SIGCHLD));
    }

    fn exits_arrive_with_sigchld_ignored_after_the_first_use() {
        set_sigchld(SigHandler::SigIgn);
        // The kernel reaps; only a newer one keeps the status.
        exits_arrive(!pkit::testing::has_exit_info());
        restarts_go_on();
    }

    fn exits_arrive_with_sigchld_ignored_before_the_first_use() {
        if role().is_none() {
            // An ignored signal stays ignored across an exec.
            // (Not by `sh`: dash cannot be told to ignore this one.)
            let script = "import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])";
            let by = ["python3", "-c", script];
            let (status, _) = Program::start_by(&by, "ignoring").finish();
            assert!(status.success(), "{status}");
            return;
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        assert_ne!(ignored & 1 << (Raw::SIGCHLD as i32 - 1), 0, "it is ignored, and stays so");
        exits_arrive(!pkit::testing::has_exit_info());
        restarts_go_on();
    }

    fn exits_arrive_with_the_handler_replaced() {
        extern "C" fn handler(_: i32) {
            HANDLED.fetch_add(1, Ordering::Relaxed);
        }
        static HANDLED: AtomicU32 = AtomicU32::new(0);
        set_sigchld(SigHandler::Handler(handler));
        exits_arrive(false);
        restarts_go_on();
        // It runs on whichever thread the kernel chose, when that comes to it.
        eventually("the handler was in place", || HANDLED.load(Ordering::Relaxed) > 0);
    }

    fn a_thief_takes_no_exit_from_us_on_kernels_between() {
        // 6.9 to 6.14: groups are signalled by pidfd, stolen statuses are lost.
        pkit::testing::pretend_no_exit_info();
        a_thief_is_about();
    }

    fn a_closure_that_ends_at_once_is_told_of_with_sigchld_ignored() {
        set_sigchld(SigHandler::SigIgn);
        let runs = || {
            let process = Process::builder(forked(|| std::process::ExitCode::from(7))).outlive_parent().build().unwrap();
            for _ in 0..100 {
                process.start(true).unwrap();
                let reason = process.join().unwrap().reason();
                let told = if pkit::testing::has_exit_info() { ExitReason::Exited(7) } else { ExitReason::Lost };
                assert_eq!(reason, told);
            }
        };
        runs();
        thread::spawn(runs).join().unwrap();
    }

    fn a_stolen_exit_is_lost_on_kernels_between() {
        pkit::testing::pretend_no_exit_info();
        // The kernel itself is the thief, and takes all of them.
        set_sigchld(SigHandler::SigIgn);
        exits_arrive(true);
        restarts_go_on();
    }

    fn what_a_stolen_leader_left_is_ended_on_kernels_between() {
        pkit::testing::pretend_no_exit_info();
        set_sigchld(SigHandler::SigIgn);
        let script = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & read line; exit 4";
        let process = Process::builder(sh(script))
            .stdin(pkit::Stdio::piped())
            .survivors(Survivors::stop(Stop::signal(Signal::TERM, Duration::from_millis(50))))
            .capture(1024)
            .build()
            .unwrap();
        process.start(true).unwrap();
        let left: u32 = process.wait_for_line(LONG, |_| true).unwrap().text().parse().unwrap();
        drop(process.stdin());
        let exit = process.join_timeout(LONG).unwrap().expect("the exit arrives");
        assert_eq!(exit.reason(), ExitReason::Lost);
        // Before 6.9 nobody can tell any more whose that group is, once its leader was reaped.
        assert_eq!(is_alive(left), !pkit::testing::has_group_signal());
        if is_alive(left) {
            let group = nix::unistd::getpgid(Some(Pid::from_raw(left as i32))).unwrap();
            nix::sys::signal::killpg(group, Raw::SIGKILL).unwrap();
            eventually("it is gone", || !is_alive(left));
        }
    }

    fn a_thief_takes_no_exit_from_us() {
        a_thief_is_about();
    }

    fn a_fork_in_the_middle_of_a_sigchld_does_not_hang() {
        // Another handler forks. The child is still in it: what it copied says that a handler is being run, for ever.
        is_told_of_a_run();
        crate::forked::fork_in_a_handler(is_told_of_a_run);
        assert!(matches!(nix::sys::wait::wait().unwrap(), nix::sys::wait::WaitStatus::Exited(_, 0)));
    }

    fn a_handler_on_top_of_that_of_a_fork_is_called_in_its_forks() {
        is_told_of_a_stop();
        crate::forked::in_a_raw_fork(|| {
            is_told_of_a_stop();
            crate::forked::put_a_handler_on_top();
            is_told_of_a_stop();
            crate::forked::in_a_raw_fork(is_told_of_a_stop);
        });
    }

    fn stops_are_told_in_a_fork_of_a_program_that_listens_itself() {
        crate::forked::register_with_signal_hook();
        let process = Process::new(forked(is_told_of_a_stop));
        process.start(true).unwrap();
        assert!(process.join().unwrap().success());
    }

    fn who_asked_for_no_zombies_gets_none() {
        set_sigchld_with(SaFlags::SA_NOCLDWAIT, SigHandler::SigDfl);
        is_told_of_a_stop();
        let mut child = StdCommand::new("true").spawn().unwrap();
        eventually("the kernel reaps it", || !Path::new(&format!("/proc/{}", child.id())).exists());
        assert_eq!(child.wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    fn a_join_does_not_need_descriptors() {
        if crate::OLD_KERNEL {
            return; // There who is left in the group is asked of `/proc`.
        }
        let process = Process::new(sh("read x; exit 3").stdin(pkit::Stdio::piped()).clone());
        process.start(true).unwrap();
        let stdin = process.stdin();
        limited(Limit::RLIMIT_NOFILE, 0, || {
            thread::scope(|scope| {
                let join = scope.spawn(|| process.join());
                drop(stdin);
                assert_eq!(join.join().unwrap().unwrap().code(), Some(3));
            });
        });
    }

    fn stops_are_told_once_sigchld_is_no_longer_ignored() {
        set_sigchld(SigHandler::SigIgn);
        let process = Process::new(Command::new("true"));
        drop(process.subscribe());
        set_sigchld(SigHandler::SigDfl);
        is_told_of_a_stop();
    }

    fn forks_of_forks_hear_their_own() {
        fn in_forks(deep: u32) {
            is_told_of_a_stop();
            if deep > 0 {
                crate::forked::in_a_raw_fork(|| in_forks(deep - 1));
            }
        }
        in_forks(3);
    }

    fn a_core_dump_is_told() {
        let (_, hard) = getrlimit(Limit::RLIMIT_CORE).unwrap();
        if hard == 0 {
            skipped("the limit of core dumps cannot be raised");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        // The kernel's word to somebody else is what it has to be: no core is written where the machine is set up so.
        let aborts = "ulimit -c $(ulimit -H -c); kill -ABRT $$";
        let dumps = StdCommand::new("sh").args(["-c", aborts]).current_dir(&directory).status().unwrap().core_dumped();
        if !dumps {
            skipped("no core is dumped on this machine");
        }
        let end = |signal: Signal| {
            let process = Process::builder(sh(&format!("kill -{} $$", signal.as_raw()))).current_dir(directory.path());
            let process = process.rlimit(Resource::Core, hard, hard).build().unwrap();
            process.start(true).unwrap();
            process.join().unwrap()
        };
        let aborted = end(Signal::ABRT);
        assert_eq!((aborted.signal(), aborted.core_dumped()), (Some(Signal::ABRT), dumps));
        assert_eq!(aborted.to_string().contains("core dumped"), dumps, "{aborted}");
        let killed = end(Signal::KILL);
        assert_eq!((killed.signal(), killed.core_dumped()), (Some(Signal::KILL), false));
        // The status that is told of a child that the kernel reaped has it too.
        set_sigchld(SigHandler::SigIgn);
        let told = dumps && pkit::testing::has_exit_info();
        assert_eq!(end(Signal::ABRT).core_dumped(), told);
    }

    fn what_a_child_used_is_told() {
        let script = "import resource\nx = sum(i * i for i in range(3000000))";
        let busy = Process::new(Command::new("python3").args(["-c", script]));
        busy.start(true).unwrap();
        let exit = busy.join().unwrap();
        assert!(exit.usage().user() > Duration::from_millis(5) && exit.usage().user() < exit.runtime() * 4, "{exit:?}");
        assert!(exit.usage().max_rss() > 1 << 20, "{exit:?}");
    }
}

/// Exits of every kind, each as it was, or all of them lost where the kernel keeps nothing.
fn exits_arrive(lost: bool) {
    for code in [0, 1, 7, 255] {
        let process = Process::new(sh(&format!("exit {code}")));
        process.start(true).unwrap();
        let exit = process.join_timeout(LONG).unwrap().expect("the exit arrives");
        assert_eq!(exit.reason(), if lost { ExitReason::Lost } else { ExitReason::Exited(code) });
    }
    let process = Process::new(Command::new("sleep").arg("1000"));
    process.start(true).unwrap();
    process.terminate(LONG).unwrap();
    let exit = process.join().unwrap();
    assert_eq!(exit.reason(), if lost { ExitReason::Lost } else { ExitReason::Signaled(Signal::TERM) });
    assert!(exit.requested());
}

/// As [`exits_arrive`], `count` at a time; how many were lost.
fn exits_arrive_or_are_lost(count: i32) -> usize {
    let processes: Vec<Process> = (0..count).map(|code| Process::new(sh(&format!("exit {code}")))).collect();
    processes.iter().for_each(|process| {
        process.start(true).unwrap();
    });
    let exits = processes.iter().map(|process| process.join_timeout(LONG).unwrap().expect("the exit arrives"));
    let reasons: Vec<ExitReason> = exits.map(|exit| exit.reason()).collect();
    for (code, reason) in (0..).zip(&reasons) {
        assert!(matches!(reason, ExitReason::Lost) || *reason == ExitReason::Exited(code), "{code}: {reason:?}");
    }
    reasons.iter().filter(|reason| matches!(reason, ExitReason::Lost)).count()
}

fn restarts_go_on() {
    let process = Process::builder(Command::new("sleep").arg("1000"))
        .restart(Restart::always().backoff(pkit::Backoff::none()))
        .build()
        .unwrap();
    let first = process.start(true).unwrap();
    let victim = Pid::from_raw(first as i32);
    nix::sys::signal::kill(victim, Raw::SIGKILL).unwrap();
    process.wait_until(LONG, |status| status.pid.is_some_and(|pid| pid != first)).unwrap();
    process.kill(LONG).unwrap();
    assert!(children().is_empty(), "no zombie");
}

/// Its SIGCHLD comes to pkit.
fn is_told_of_a_stop() {
    let process = Process::new(Command::new("sleep").arg("1000"));
    let mut events = process.subscribe();
    process.start(true).unwrap();
    process.signal(Signal::STOP).unwrap();
    while !matches!(events.next_timeout(LONG).expect("it is told").kind, EventKind::Paused) {}
    process.kill(true).unwrap();
}

fn block_sigchld() {
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::from(Raw::SIGCHLD)), None).unwrap();
}

fn blocked_in_this_thread() -> SigSet {
    SigSet::thread_get_mask().unwrap()
}

fn set_sigchld(handler: SigHandler) {
    set_sigchld_with(SaFlags::SA_RESTART, handler);
}

#[allow(unsafe_code)]
fn set_sigchld_with(flags: SaFlags, handler: SigHandler) {
    let action = SigAction::new(handler, flags, SigSet::empty());
    // SAFETY: the handlers of these tests only count in an atomic.
    unsafe { sigaction(Raw::SIGCHLD, &action) }.unwrap();
}

/// A thread that waits for every child it can get.
struct Thief {
    ends: Arc<AtomicBool>,
    thread: thread::JoinHandle<usize>,
}

impl Thief {
    fn start() -> Thief {
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let steal = move || {
            let mut stolen = 0;
            while !told.load(Ordering::Relaxed) {
                match waitpid(None, None) {
                    Ok(_) => stolen += 1,
                    // There is no child to wait for.
                    Err(error) => {
                        assert_eq!(error, nix::Error::ECHILD);
                        thread::yield_now();
                    }
                }
            }
            stolen
        };
        Thief { ends, thread: thread::spawn(steal) }
    }

    fn stop(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn a_thief_is_about() {
    let thief = Thief::start();
    let (mut lost, rounds) = (0, 10);
    for _ in 0..rounds {
        lost += exits_arrive_or_are_lost(20);
    }
    restarts_go_on();
    let stolen = thief.stop();
    assert!(stolen > 0, "the thief took something");
    if !pkit::testing::has_exit_info() {
        assert!(lost > 0, "{stolen} were stolen, and the kernel tells nothing of them");
    } else {
        assert_eq!(lost, 0, "of {stolen} stolen");
    }
}
