//! Forks while other threads are at work.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use nix::sys::resource::Resource as Limit;
use pkit::{Backoff, Process, Restart};

use crate::forked::{forked, tell};
use crate::support::{LONG, limited, sh, tests};

const THREADS: usize = 8;
const FORKS: usize = 200;

static STOP: AtomicBool = AtomicBool::new(false);
static TURNS: AtomicUsize = AtomicUsize::new(0);
static LOCKED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Allocates and locks until it is told to stop.
fn busy() {
    // The cores are few, and the forks have work too. (On Linux a nice value is the thread's own.)
    #[allow(unsafe_code, reason = "nix has no setpriority")]
    // SAFETY: setpriority(2) takes numbers only.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    assert_eq!(result, 0);
    let mut mine = Vec::new();
    while !STOP.load(Ordering::Relaxed) {
        let turn = TURNS.fetch_add(1, Ordering::Relaxed);
        mine.push(vec![1_u8; 16 << (turn % 12)]);
        let mut locked = LOCKED.lock().unwrap();
        locked.push(format!("turn {turn}"));
        if locked.len() > 100 {
            locked.clear();
        }
        drop(locked);
        if mine.len() > 50 {
            mine.clear();
        }
    }
}

/// Runs `closure` again and again beside busy threads.
fn beside_busy_threads(forks: usize, closure: impl Fn() -> ExitCode + Send + Sync + 'static) {
    let process = Process::builder(forked(closure)).capture(10_000).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(busy);
        }
        let ends = (0..forks).map(|_| {
            process.start(true)?;
            process.join_timeout(LONG)
        });
        let ends: Vec<_> = ends.collect();
        STOP.store(true, Ordering::Relaxed);
        for end in ends {
            let exit = end.unwrap().expect("a fork hangs");
            assert_eq!(exit.code(), Some(7), "{exit}: {}", process.output().stderr_text());
        }
    });
    assert!(TURNS.load(Ordering::Relaxed) > forks);
    assert_eq!(process.output().stdout_text(), "done");
}

/// Of this program, which never used pkit itself: every other test is a process of its own.
#[test]
fn a_first_use_of_pkit_in_a_fork_while_another_changes_the_environment() {
    crate::forked::beside_changes_of_the_environment(|| {
        for _ in 0..10 {
            crate::forked::in_a_raw_fork(|| {
                let process = Process::new(sh("exit 7"));
                process.start(true).unwrap();
                assert_eq!(process.join().unwrap().code(), Some(7));
            });
        }
    });
}

/// As above: here for the same reason.
#[test]
fn a_first_use_of_pkit_without_memory() {
    crate::forked::in_a_raw_fork(|| {
        let process = limited(Limit::RLIMIT_AS, 1 << 20, || Process::new(sh("exit 9")));
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(9));
    });
}

/// As above: a daemon is a fork of such a program.
#[test]
fn the_stack_of_a_copy_in_a_daemon_is_as_large_as_mains() {
    crate::forked::in_a_raw_fork(|| {
        let process = Process::new(forked(needs_3_mib));
        thread::scope(|scope| scope.spawn(|| process.start(true).map(drop)).join().unwrap()).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(1));
    });
}

fn needs_3_mib() -> ExitCode {
    let mut large = [0_u8; 3 << 20];
    std::hint::black_box(&mut large).fill(1);
    ExitCode::from(large[large.len() / 2])
}

tests! {
    fn while_others_allocate_and_lock() {
        beside_busy_threads(FORKS, || {
            let texts: Vec<String> = (0..1000).map(|number| format!("number {number}")).collect();
            assert_eq!(texts.iter().map(String::len).sum::<usize>(), 9890);
            let large = vec![1_u8; 1 << 20];
            assert_eq!(large.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 1 << 20);
            assert_eq!(thread::spawn(|| 5).join().unwrap(), 5);
            tell("done");
            ExitCode::from(7)
        });
    }

    fn while_others_allocate_and_lock_and_pkit_is_used_inside() {
        beside_busy_threads(FORKS / 4, || {
            let process = Process::builder(sh("echo inside")).capture(100).build().unwrap();
            process.start(true).unwrap();
            assert!(process.join().unwrap().success());
            assert_eq!(process.output().stdout_text(), "inside\n");
            tell("done");
            ExitCode::from(7)
        });
    }

    fn while_another_changes_the_environment() {
        crate::forked::beside_changes_of_the_environment(|| {
            for _ in 0..FORKS / 20 {
                let process = Process::new(forked(|| {
                    let process = Process::new(sh("exit 7"));
                    process.start(true).unwrap();
                    ExitCode::from(process.join().unwrap().code().unwrap() as u8)
                }));
                process.start(true).unwrap();
                assert_eq!(process.join_timeout(LONG).unwrap().expect("it does not hang").code(), Some(7));
            }
        });
    }

    fn a_copy_with_threads_becomes_another_user() {
        // The C library asks all threads by signal, with a handler that it installed for the first thread of all.
        thread::spawn(|| ()).join().unwrap();
        let process = Process::new(forked(|| {
            let inside = Process::new(sh("exit 7"));
            inside.start(true).unwrap();
            nix::unistd::setuid(nix::unistd::getuid()).unwrap();
            ExitCode::from(inside.join().unwrap().code().unwrap() as u8)
        }));
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(7));
    }

    fn the_stack_of_a_copy_is_as_large_as_mains() {
        let process = Process::builder(forked(needs_3_mib));
        let again = Restart::on_failure().backoff(Backoff::none()).limit(2, LONG);
        let process = process.restart(again).build().unwrap();
        // By pkit's threads all of them, the restarts in any case.
        let start = || process.start(true).map(drop);
        thread::scope(|scope| scope.spawn(start).join().unwrap()).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(1));
        assert_eq!(process.restarts(), 2);
    }

    fn one_that_was_made_in_a_callback_is_in_none() {
        let (sender, receiver) = mpsc::channel();
        let sender = Mutex::new(sender);
        let inside = || {
            let again = Restart::on_failure().backoff(Backoff::none()).limit(2, LONG);
            // One of the first of its program, as that is whose callback this is.
            let process = || Process::builder(sh("exit 3")).restart(again.clone()).on_exit(|_, _| ()).build().unwrap();
            let restarts = std::iter::repeat_with(process).take(10).map(|process| {
                process.start(true).unwrap();
                assert_eq!(process.join().unwrap().code(), Some(3));
                process.restarts()
            });
            ExitCode::from(restarts.sum::<u64>() as u8)
        };
        let outer = Process::builder(sh("exit 0")).on_start(move |_| {
            let copy = Process::builder(forked(inside)).outlive_parent().build().unwrap();
            copy.start(true).unwrap();
            sender.lock().unwrap().send(copy.join().unwrap().code()).unwrap();
        });
        let outer = outer.build().unwrap();
        outer.start(true).unwrap();
        assert_eq!(receiver.recv_timeout(LONG).unwrap(), Some(20));
        outer.join().unwrap();
    }

    fn threads_that_come_back_in_the_child_do_no_harm() {
        crate::forked::threads_come_back_in_forks();
        for _ in 0..3 {
            let start = || {
                let process = Process::new(forked(|| ExitCode::from(7)));
                process.start(true).unwrap();
                process.join().unwrap().code()
            };
            assert_eq!(thread::spawn(start).join().unwrap(), Some(7));
        }
    }

    fn started_by_many_threads_at_once() {
        thread::scope(|scope| {
            for number in 0..THREADS as u8 {
                scope.spawn(move || {
                    let process = Process::new(forked(move || ExitCode::from(number)));
                    for _ in 0..20 {
                        process.start(true).unwrap();
                        assert_eq!(process.join().unwrap().code(), Some(number.into()));
                    }
                });
            }
        });
    }
}
