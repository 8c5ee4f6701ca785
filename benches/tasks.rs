//! What a function in a process of its own costs: beside a bare `fork`, Python's `multiprocessing` and the crate `procspawn`.
//!
//! Each side is a program of its own (this one again with `--serve`), with as much memory as it is told, so that all are measured
//! in one run, interleaved.

#![allow(unsafe_code, reason = "`fork`, the thing compared against")]

mod support;

use std::env;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use pkit::{Process, Target};
use support::{Machine, Rounds, Served, serve, smoke};

const GIB: usize = 1 << 30;
/// In a round.
const CALLS: u32 = 10;

fn main() -> io::Result<()> {
    procspawn::init();
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, side, gib] = args.as_slice()
        && flag == "--serve"
    {
        return serve_calls(side, gib.parse().expect("a number of GiB"));
    }
    println!("{}", Machine::new());
    starts("start + join of a no-op function, small parent", 0, 400, 2.0, 1.2)?;
    starts("the same, 4 GiB touched in the parent", if smoke() { 0 } else { 4 }, 60, 1.0 / 200.0, 1.0 / 500.0)?;
    values()
}

fn starts(name: &str, gib: usize, rounds: usize, must: f64, aim: f64) -> io::Result<()> {
    let mut served = [Served::start(&["process", &gib.to_string()])?, Served::start(&["fork", &gib.to_string()])?];
    let [ours, fork] = &mut served;
    let times = Rounds::new(name).side("pkit", || ours.round()).side("fork", || fork.round()).run(rounds);
    times.require("fork", if smoke() { None } else { Some(must) }, aim);
    served.into_iter().try_for_each(Served::stop)
}

/// A value back. The others are to be three times as slow.
fn values() -> io::Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/functions.py");
    let python = |method: &str| {
        let mut command = Command::new("python3");
        command.args([script, method]);
        Served::start_by(command).inspect_err(|error| println!("  missing: Python, {method}: {error}")).ok()
    };
    let mut ours = Served::start(&["run", "0"])?;
    let mut procspawn = Served::start(&["procspawn", "0"])?;
    let mut pythons = ["fork", "forkserver", "spawn"].map(|method| (format!("Python {method}"), python(method)));
    let mut rounds = Rounds::new("a call of a no-op function, with a value back");
    rounds = rounds.side("pkit", || ours.round()).side("procspawn", || procspawn.round());
    let mut others = vec!["procspawn".to_owned()];
    for (name, served) in &mut pythons {
        if let Some(served) = served {
            others.push(name.clone());
            rounds = rounds.side(name, || served.round());
        }
    }
    let times = rounds.run(100);
    for other in &others {
        times.require(other, 1.0 / 3.0, 1.0 / 7.0);
    }
    let pythons = pythons.into_iter().filter_map(|(_, served)| served);
    [ours, procspawn].into_iter().chain(pythons).try_for_each(Served::stop)
}

fn serve_calls(side: &str, gib: usize) -> io::Result<()> {
    let touched = vec![1_u8; gib * GIB];
    let process = Process::new(Target::function(|()| (), ()));
    let one = || match side {
        "process" => {
            process.start(true).expect("a function starts");
            process.join().expect("it was started");
        }
        "fork" => fork(),
        "run" => assert_eq!(pkit::run(|n: u64| n + 1, 1).expect("it runs"), 2),
        "procspawn" => assert_eq!(procspawn::spawn(1, |n: u64| n + 1).join().expect("it runs"), 2),
        other => panic!("no side {other}"),
    };
    // Several at a time: what one leaves to be done behind it, the next one waits for.
    let calls = if side == "fork" && gib > 0 { 1 } else { CALLS };
    serve(|| timed(|| (0..calls).for_each(|_| one())) / calls)?;
    drop(std::hint::black_box(touched));
    Ok(())
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn fork() {
    // SAFETY: the child does nothing.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: it ends this process, which is the child.
        unsafe { libc::_exit(0) };
    }
    assert!(pid > 0);
    // SAFETY: it writes nothing where there is no place to.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}
