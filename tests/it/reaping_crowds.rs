//! Many exits: beside other libraries' children, and all at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pkit::{Command, ExitReason, Process, Stdio};

use crate::program::{Program, role};
use crate::support::{LONG, children, eventually, sh, skipped, tests};

/// Children of each kind that live beside each other.
const BESIDE: usize = 1_000;
/// Started before the first of them is waited for.
const BATCH: usize = 50;
/// Children that end in the same instant.
const CROWD: usize = 5_000;

tests! {
    fn nobody_takes_a_status_from_std_or_tokio() {
        // tokio keeps descriptors for as long as a program lives; so in a program of its own, which looks for children itself.
        if role().is_none() {
            let (status, _) = Program::start("mixed").finish();
            assert!(status.success(), "{status}");
            return;
        }
        thread::scope(|scope| {
            scope.spawn(ours);
            scope.spawn(children_of_std);
            scope.spawn(children_of_tokio);
        });
        eventually("no child is left", || children().is_empty());
        std::process::exit(0);
    }

    fn five_thousand_exits_in_the_same_instant() {
        if !allow_descriptors(CROWD as u64 + 100) {
            skipped("the hard limit of descriptors is too low");
            return;
        }
        let told: Arc<Vec<AtomicU32>> = Arc::new((0..CROWD).map(|_| AtomicU32::new(0)).collect());
        let (gate, opener) = std::io::pipe().unwrap();
        let gate = Stdio::from(OwnedFd::from(gate));
        let processes: Vec<Process> = (0..CROWD)
            .map(|number| {
                let told = Arc::clone(&told);
                // It reads until there is no writer any more, and fails to read a line.
                Process::builder(sh("read line || exit 3"))
                    .stdin(gate.clone())
                    .on_exit(move |_, _| {
                        told[number].fetch_add(1, Ordering::Relaxed);
                    })
                    .build()
                    .unwrap()
            })
            .collect();
        drop(gate);
        processes.iter().for_each(|process| {
            process.start(true).unwrap();
        });
        assert_eq!(children().len(), CROWD);
        let began = Instant::now();
        drop(opener);
        for process in &processes {
            let exit = process.join_timeout(LONG).unwrap().expect("the exit arrives");
            assert_eq!(exit.reason(), ExitReason::Exited(3));
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(30), "{took:?}");
        assert!(children().is_empty(), "no zombie");
        drop(processes);
        assert!(told.iter().all(|told| told.load(Ordering::Relaxed) == 1), "each told once");
        println!("{CROWD} exits in {took:?}");
    }
}

fn ours() {
    for batch in batches() {
        let processes: Vec<(i32, Process)> =
            batch.map(|code| (code, Process::new(Command::new("sh").args(script(code))))).collect();
        processes.iter().for_each(|(_, process)| {
            process.start(true).unwrap();
        });
        for (code, process) in processes {
            assert_eq!(process.join().unwrap().reason(), ExitReason::Exited(code));
        }
    }
}

fn children_of_std() {
    for batch in batches() {
        let command = |code| std::process::Command::new("sh").args(script(code)).spawn().unwrap();
        let started: Vec<_> = batch.map(|code| (code, command(code))).collect();
        for (code, mut child) in started {
            assert_eq!(child.wait().expect("nobody else waited").code(), Some(code));
        }
    }
}

fn children_of_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for batch in batches() {
            let command = |code| tokio::process::Command::new("sh").args(script(code)).spawn().unwrap();
            let started: Vec<_> = batch.map(|code| (code, command(code))).collect();
            for (code, mut child) in started {
                assert_eq!(child.wait().await.expect("nobody else waited").code(), Some(code));
            }
        }
    });
}

/// The exit codes of all children of a kind, in batches.
fn batches() -> impl Iterator<Item = impl Iterator<Item = i32>> {
    (0..BESIDE / BATCH).map(|batch| (0..BATCH).map(move |number| ((batch * BATCH + number) % 256) as i32))
}

fn script(code: i32) -> [String; 2] {
    ["-c".to_owned(), format!("exit {code}")]
}

/// Raises this program's own soft limit: each child takes a pidfd.
fn allow_descriptors(wanted: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    hard >= wanted && setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).is_ok()
}
