//! What a start costs: beside `std::process` and `tokio::process`, and however much memory the parent has touched.
//!
//! Parents of different sizes are processes of their own (this one again with `--serve`), so that all sizes are
//! measured in one run, interleaved.

#![allow(unsafe_code, clippy::multiple_unsafe_ops_per_block, reason = "`pre_exec`, the thing compared against")]

mod support;

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::{Duration, Instant};

use support::{Machine, Rounds, Served, serve, smoke};

const GIB: usize = 1 << 30;
const CHILDREN: usize = 2_000;
const THREADS: usize = 4;

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, side, gib] = args.as_slice()
        && flag == "--serve"
    {
        return serve_starts(side, gib.parse().expect("a number of GiB"));
    }
    if let [flag, side] = args.as_slice()
        && flag == "--rate"
    {
        // One side alone, for a profiler to look at.
        let one = if side == "pkit" { pkit_plain } else { std_plain };
        println!("{:?} for {CHILDREN} children", from_threads(CHILDREN, one));
        return Ok(());
    }
    println!("{}", Machine::new());
    small_parent();
    large_parent()?;
    rate();
    Ok(())
}

fn small_parent() {
    let times = Rounds::new("start + join of /bin/true, small parent")
        .side("pkit", || timed(pkit_plain))
        .side("std", || timed(std_plain))
        .run(400);
    times.require("std", 1.15, 1.0);
}

/// Session, group, limit, umask, parent death and directory: std has to fork for them.
fn large_parent() -> io::Result<()> {
    let (one, four) = if smoke() { (0, 0) } else { (1, 4) };
    let mut served = [("pkit", one), ("std", one), ("pkit", 0), ("pkit", four)]
        .map(|(side, gib): (&str, usize)| Served::start(&[side, &gib.to_string()]).expect("this program starts again"));
    let [ours, std, none, large] = &mut served;
    let times = Rounds::new("the same with options set, 1 GiB touched in the parent")
        .side("pkit", || ours.round())
        .side("std pre_exec", || std.round())
        .run(60);
    times.require("std pre_exec", 1.0 / 25.0, 1.0 / 40.0);
    let times = Rounds::new("that start, 4 GiB touched in the parent against none")
        .side("pkit, 4 GiB", || large.round())
        .side("pkit, 0 GiB", || none.round())
        .run(400);
    times.require("pkit, 0 GiB", 1.25, 1.0);
    served.into_iter().try_for_each(Served::stop)
}

fn rate() {
    let children = if smoke() { 40 } else { CHILDREN };
    let name = format!("{children} short children, started from {THREADS} threads");
    let times = Rounds::new(&name)
        .side("pkit", || from_threads(children, pkit_plain))
        .side("std", || from_threads(children, std_plain))
        .run(41);
    times.require("std", 1.1, 1.0);
    // Its first child makes tokio install a SIGCHLD handler, which all sides' children call from then on: so it comes last.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.expect("a tokio runtime");
    let times = Rounds::new(&format!("{name}, with tokio's SIGCHLD handler"))
        .side("pkit", || from_threads(children, pkit_plain))
        .side("tokio", || from_tasks(children, &runtime))
        .side("std", || from_threads(children, std_plain))
        .run(41);
    times.require("tokio", 1.1, 1.0);
    times.require("std", None, 1.0);
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn pkit_plain() {
    let process = pkit::Process::new(pkit::Command::new("/bin/true"));
    process.start(true).expect("/bin/true starts");
    process.join().expect("it was started");
}

fn std_plain() {
    let mut child = std::process::Command::new("/bin/true").spawn().expect("/bin/true starts");
    child.wait().expect("it is our child");
}

fn pkit_with_options() {
    let process = pkit::Process::builder(pkit::Command::new("/bin/true"))
        .session(true)
        .rlimit(pkit::Resource::Core, 0, 0)
        .umask(0o027)
        .on_parent_death(pkit::Signal::KILL)
        .current_dir("/")
        .build()
        .expect("the options are good");
    process.start(true).expect("/bin/true starts");
    process.join().expect("it was started");
}

fn std_with_pre_exec() {
    let mut command = std::process::Command::new("/bin/true");
    command.current_dir("/");
    // SAFETY: only async-signal-safe system calls.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::umask(0o027);
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    let mut child = command.spawn().expect("/bin/true starts");
    child.wait().expect("it is our child");
}

fn from_threads(children: usize, one: fn()) -> Duration {
    timed(|| {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..children / THREADS).for_each(|_| one()));
            }
        });
    })
}

fn from_tasks(children: usize, runtime: &tokio::runtime::Runtime) -> Duration {
    async fn some(children: usize) {
        for _ in 0..children / THREADS {
            let mut child = tokio::process::Command::new("/bin/true").spawn().expect("/bin/true starts");
            child.wait().await.expect("it is our child");
        }
    }
    timed(|| {
        let tasks: Vec<_> = (0..THREADS).map(|_| runtime.spawn(some(children))).collect();
        tasks.into_iter().for_each(|task| runtime.block_on(task).expect("no panic"));
    })
}

/// A parent that has touched so much memory.
fn serve_starts(side: &str, gib: usize) -> io::Result<()> {
    let touched = vec![1_u8; gib * GIB];
    let one = if side == "pkit" { pkit_with_options } else { std_with_pre_exec };
    serve(|| timed(one))?;
    drop(std::hint::black_box(touched));
    Ok(())
}
