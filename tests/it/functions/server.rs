//! The fork server itself: preloads, deaths, hangs, and who may use it.

use std::sync::OnceLock;

use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{Process, Target};

use super::{park, printed, sum};
use crate::program::{Program, role, say, stay};
use crate::support::{LONG, eventually, is_alive, tests};

static TABLE: OnceLock<Vec<u64>> = OnceLock::new();

fn build_table() {
    TABLE.get_or_init(|| (0..1000).map(|n| n * n).collect());
}

fn table(at: usize) {
    print!("{:?}", TABLE.get().map(|table| table[at]));
}

fn signal_server(signal: Raw) -> u32 {
    let server = pkit::testing::fork_server().unwrap();
    kill(Pid::from_raw(server as i32), signal).unwrap();
    server
}

fn add(numbers: Vec<u8>) -> Option<i32> {
    let process = Process::new(Target::function(sum, numbers));
    process.start(true).unwrap();
    process.join().unwrap().code()
}

tests! {
    fn what_is_preloaded_is_there_in_every_process() {
        let print = || printed(Process::builder(Target::function(table, 7)));
        assert_eq!(print(), "None");
        pkit::preload(build_table).unwrap();
        assert!(TABLE.get().is_none(), "it is the server that has it");
        assert_eq!(print(), "Some(49)");
        let server = signal_server(Raw::SIGKILL);
        eventually("it is gone", || !is_alive(server));
        assert_eq!(print(), "Some(49)", "the next server has it, too");
    }

    fn a_preload_that_fails_is_told() {
        let error = pkit::preload(|| panic!("no table")).unwrap_err().to_string();
        assert!(error.contains("cannot preload") && error.contains("it panicked"), "{error}");
        fn with_a_thread() {
            std::thread::spawn(|| park(()));
        }
        let error = pkit::preload(with_a_thread).unwrap_err().to_string();
        assert!(error.contains("cannot preload `with_a_thread`") && error.contains("threads"), "{error}");
        let error = pkit::preload(|| std::process::abort()).unwrap_err().to_string();
        assert!(error.contains("ended"), "{error}");
        assert_eq!(add(vec![1, 2]), Some(3));
    }

    fn the_servers_death_costs_nobody() {
        let process = Process::new(Target::function(park, ()));
        let pid = process.start(true).unwrap();
        for _ in 0..20 {
            let server = signal_server(Raw::SIGKILL);
            assert_eq!(add(vec![4, 5]), Some(9));
            eventually("it is gone", || !is_alive(server));
        }
        assert!(is_alive(pid));
        process.kill(true).unwrap();
    }

    fn starts_beside_a_server_that_is_killed_again_and_again() {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut killed = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Some(server) = pkit::testing::fork_server() {
                        let _ = kill(Pid::from_raw(server as i32), Raw::SIGKILL);
                        killed += 1;
                        eventually("another", || {
                            pkit::testing::fork_server() != Some(server) || done.load(std::sync::atomic::Ordering::Relaxed)
                        });
                    }
                    std::thread::yield_now();
                }
                killed
            });
            let starters: Vec<_> = (0..4).map(|_| scope.spawn(|| {
                let (mut good, mut bad) = (0, 0);
                for _ in 0..50 {
                    let process = Process::new(Target::function(sum, vec![4, 5]));
                    match process.start(true) {
                        Ok(_) => {
                            assert_eq!(process.join().unwrap().code(), Some(9));
                            good += 1;
                        }
                        Err(error) => {
                            assert!(error.to_string().contains("fork server"), "{error}");
                            bad += 1;
                        }
                    }
                }
                (good, bad)
            })).collect();
            let counts: Vec<(u32, u32)> = starters.into_iter().map(|starter| starter.join().unwrap()).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(killer.join().unwrap() > 0);
            assert!(counts.iter().all(|(good, bad)| good + bad == 50 && *good > 0), "{counts:?}");
        });
    }

    fn a_server_that_hangs_is_replaced() {
        assert_eq!(add(vec![1]), Some(1));
        let server = signal_server(Raw::SIGSTOP);
        let error = Process::new(Target::function(sum, vec![1])).start(true).unwrap_err().to_string();
        assert!(error.contains("fork server") && error.contains("within 10 s"), "{error}");
        assert_eq!(add(vec![1, 1]), Some(2));
        eventually("the other is gone", || !is_alive(server));
    }

    fn no_function_survives_a_killed_program() {
        if role().is_some() {
            let process = Process::new(Target::function(park, ()));
            // By a thread that ends.
            let pid = std::thread::scope(|scope| scope.spawn(|| process.start(true).unwrap()).join().unwrap());
            say(pid);
            say(pkit::testing::fork_server().unwrap());
            stay();
        }
        let mut program = Program::start("parent");
        let pids: Vec<u32> = (0..2).map(|_| program.line().unwrap().parse().unwrap()).collect();
        assert!(pids.iter().all(|pid| is_alive(*pid)));
        drop(program);
        eventually("all are gone", || !pids.iter().any(|pid| is_alive(*pid)));
    }

    fn it_starts_beside_many_threads() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let receiver = std::sync::Mutex::new(receiver);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| _ = receiver.lock().unwrap().recv());
            }
            assert_eq!(add(vec![2, 3]), Some(5));
            drop(sender);
        });
        let process = Process::new(Target::function(park, ()));
        process.start(true).unwrap();
        process.terminate(LONG).unwrap();
    }

    fn the_variable_alone_makes_no_server() {
        if role().is_some() {
            say("main");
            stay();
        }
        let own = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(own);
        let output = command.arg("--list").env("PKIT_FORK_SERVER", "3").output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("the_variable_alone"));
    }
}
