//! What a worker that stays costs: beside a bare ping-pong, a `memcpy`, the crate `procspawn`, and the pools of Python.
//!
//! Each side is a program of its own (this one again with `--serve`), so that all are measured in one run, interleaved. The Python that is asked
//! is `PYTHON`, or else `python3`; what is not installed for it is told to be missing.

#![allow(unsafe_code, reason = "`fork`, for the ping-pong")]

mod support;

use std::env;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use pkit::{SharedBytes, Task, Worker};
use serde_bytes::ByteBuf;
use support::{Machine, Rounds, Served, Times, serve, smoke};

/// As in `peers/workers.py`.
const TRIPS: u32 = 200;
const MANY: u64 = 100_000;
const LARGE: usize = 100 << 20;

fn main() -> io::Result<()> {
    procspawn::init();
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, work, side, ..] = args.as_slice()
        && flag == "--serve"
    {
        return serve(work_of(work, side));
    }
    println!("{}", Machine::new());
    // One work alone, if it is named.
    let wants = |work: &str| {
        ["trip", "many", "large"].iter().all(|other| *other == work || !args.contains(&(*other).to_owned()))
    };
    if wants("trip") {
        let times = compare("a round trip of a no-op", "trip", &["ping-pong", "procspawn"], &["pool", "loky"], 100)?;
        times.require("ping-pong", 1.5, 0.7);
    }
    if wants("many") {
        let times = compare("100,000 scheduled no-ops", "many", &["procspawn"], &["executor"], 5)?;
        times.require("procspawn", 1.0 / 8.0, 1.0 / 16.0);
        times.require("Python executor", 1.0 / 50.0, 1.0 / 100.0);
        println!("  pkit: {:.0} a second, aim 1,000,000", many() as f64 / times.median().as_secs_f64());
    }
    if wants("large") {
        let sides = ["memcpy", "memcpy, new memory", "pkit, Vec", "pkit, other", "procspawn"];
        let times = compare("100 MiB there and back", "large", &sides, &["pool", "ray"], 15)?;
        times.require("memcpy", 4.0, 1.5);
        for other in ["procspawn", "Python pool", "Python ray"] {
            times.require(other, 1.0, 1.0);
        }
    }
    Ok(())
}

/// Us and all those, in rounds.
fn compare(name: &str, work: &str, sides: &[&str], pythons: &[&str], rounds: usize) -> io::Result<Times> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/workers.py");
    let mut served = Vec::new();
    for side in ["pkit"].iter().chain(sides) {
        let args = [work, side, "--smoke"];
        let args = if smoke() { &args[..] } else { &args[..2] };
        served.push(((*side).to_owned(), Served::start(args)?));
    }
    for pool in pythons {
        let mut command = Command::new(env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned()));
        command.args([script, work, pool]).env("SMOKE", if smoke() { "1" } else { "" });
        match Served::start_by(command) {
            Ok(python) => served.push((format!("Python {pool}"), python)),
            Err(error) => println!("  missing: Python {pool}: {error}"),
        }
    }
    let mut all = Rounds::new(name);
    for (side, served) in &mut served {
        all = all.side(side, || served.round());
    }
    let times = all.run(rounds);
    served.into_iter().try_for_each(|(_, served)| served.stop())?;
    Ok(times)
}

fn many() -> u64 {
    if smoke() { MANY / 100 } else { MANY }
}

fn large() -> usize {
    if smoke() { LARGE / 100 } else { LARGE }
}

fn same<T>(value: T) -> T {
    value
}

/// Of one in each page.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().step_by(4096).map(|byte| u64::from(*byte)).sum()
}

/// The same bytes, which it has looked at.
fn looked_at(bytes: SharedBytes) -> SharedBytes {
    black_box(sum(&bytes));
    bytes
}

/// Bytes of its own.
fn other(bytes: SharedBytes) -> SharedBytes {
    SharedBytes::from(black_box(bytes.to_vec()))
}

fn work_of(work: &str, side: &str) -> Box<dyn FnMut() -> Duration> {
    let (many, large) = (many(), large());
    let bytes = ByteBuf::from(vec![7_u8; if work == "large" { large } else { 0 }]);
    let procspawn_pool = || procspawn::Pool::new(1).expect("a pool");
    match (work, side) {
        ("trip", "pkit") => {
            let worker = Worker::new().expect("a worker");
            Box::new(move || trips(|n| assert_eq!(worker.invoke(same::<u32>, n).expect("it is there"), n)))
        }
        ("trip", "procspawn") => {
            let pool = procspawn_pool();
            Box::new(move || {
                trips(|n| assert_eq!(procspawn::spawn!(in pool, (n) || n).join().expect("it is there"), n))
            })
        }
        ("trip", "ping-pong") => {
            let mut other = ping_pong();
            Box::new(move || trips(|_| bounce(&mut other)))
        }
        ("many", "pkit") => {
            let worker = Worker::new().expect("a worker");
            Box::new(move || {
                timed(|| {
                    let tasks: Vec<Task<u64>> =
                        (0..many).map(|n| worker.schedule(same::<u64>, n).expect("it is there")).collect();
                    for (n, task) in tasks.into_iter().enumerate() {
                        assert_eq!(task.wait().expect("it is done"), n as u64);
                    }
                })
            })
        }
        ("many", "procspawn") => {
            let pool = procspawn_pool();
            Box::new(move || {
                timed(|| {
                    // Each has a socket until it is done: there cannot be more of them than descriptors.
                    for some in (0..many).collect::<Vec<_>>().chunks(100) {
                        let tasks: Vec<_> = some.iter().map(|n| procspawn::spawn!(in pool, (*n => n) || n)).collect();
                        for (n, task) in some.iter().zip(tasks) {
                            assert_eq!(task.join().expect("it is done"), *n);
                        }
                    }
                })
            })
        }
        ("large", "pkit") => {
            let worker = Worker::new().expect("a worker");
            Box::new(move || {
                timed(|| {
                    let back = worker.invoke(looked_at, SharedBytes::from(&bytes[..])).expect("it is there");
                    assert_eq!((sum(&back), back.len()), (sum(&bytes), large));
                })
            })
        }
        ("large", "procspawn") => {
            let (pool, mut bytes) = (procspawn_pool(), Some(bytes));
            Box::new(move || {
                timed(|| {
                    let there = bytes.take().expect("they came back");
                    let back = procspawn::spawn!(in pool, (there) || there).join();
                    assert_eq!(bytes.insert(back.expect("it is there")).len(), large);
                })
            })
        }
        ("large", "pkit, Vec") => {
            let (worker, mut bytes) = (Worker::new().expect("a worker"), Some(bytes));
            Box::new(move || {
                timed(|| {
                    let back = worker.invoke(same::<ByteBuf>, bytes.take().expect("they came back"));
                    assert_eq!(bytes.insert(back.expect("it is there")).len(), large);
                })
            })
        }
        ("large", "pkit, other") => {
            let worker = Worker::new().expect("a worker");
            Box::new(move || {
                timed(|| {
                    let back = worker.invoke(other, SharedBytes::from(&bytes[..])).expect("it is there");
                    assert_eq!((sum(&back), back.len()), (sum(&bytes), large));
                })
            })
        }
        ("large", "memcpy") => {
            let mut other = vec![1_u8; large];
            let mut back = vec![1_u8; large];
            Box::new(move || {
                timed(|| {
                    black_box(&mut other).copy_from_slice(&bytes);
                    black_box(&mut back).copy_from_slice(&other);
                })
            })
        }
        ("large", "memcpy, new memory") => {
            Box::new(move || timed(|| drop(black_box(black_box(bytes.clone()).clone()))))
        }
        other => panic!("no side {other:?}"),
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// The time of one.
fn trips(mut trip: impl FnMut(u32)) -> Duration {
    timed(|| (0..TRIPS).for_each(&mut trip)) / TRIPS
}

/// A process that sends back each byte.
fn ping_pong() -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    // SAFETY: there is no other thread.
    if unsafe { libc::fork() } == 0 {
        drop(ours);
        let mut byte = [0];
        while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
        // SAFETY: it ends this process, which is the child.
        unsafe { libc::_exit(0) };
    }
    ours
}

fn bounce(other: &mut UnixStream) {
    let mut byte = [1];
    other.write_all(&byte).expect("it is there");
    other.read_exact(&mut byte).expect("it answers");
}
