//! What many children cost: the time of one exit, memory for each, wake-ups, threads.

mod support;

use std::fs;
use std::io;
use std::time::{Duration, Instant};
use std::{env, thread};

use pkit::{Command, Process};
use support::report::judge;
use support::{Machine, Rounds, Served, serve, smoke};

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, children] = args.as_slice()
        && flag == "--serve"
    {
        return serve_kills(children.parse().expect("a number of children"));
    }
    println!("{}", Machine::new());
    one_exit()?;
    let (mine, sided) = if smoke() { (20, 16) } else { (1_000, 1_000) };
    idle(mine);
    threads(sided);
    Ok(())
}

/// Two parents, of few and of many children; a round starts one more child of each, kills it and joins.
fn one_exit() -> io::Result<()> {
    let (few, many) = if smoke() { (5, 10) } else { (100, 10_000) };
    let (mut with_few, mut with_many) = (Served::start(&[&few.to_string()])?, Served::start(&[&many.to_string()])?);
    let times = Rounds::new("kill + join of one child among many live ones")
        .side(&format!("{many} live"), || with_many.round())
        .side(&format!("{few} live"), || with_few.round())
        .run(300);
    times.require(&format!("{few} live"), 1.5, 1.0);
    with_few.stop()?;
    with_many.stop()
}

fn sleeper() -> Process {
    let process = Process::new(Command::new("/bin/sleep").arg("100000"));
    process.start(false).expect("sleep starts, with the limits raised");
    process
}

fn serve_kills(children: usize) -> io::Result<()> {
    raise_limits();
    let live: Vec<Process> = (0..children).map(|_| sleeper()).collect();
    serve(|| {
        let victim = sleeper();
        let began = Instant::now();
        victim.kill(false).expect("it is ours");
        victim.join().expect("it was started");
        began.elapsed()
    })?;
    kill_all(live);
    Ok(())
}

fn kill_all(processes: Vec<Process>) {
    processes.iter().for_each(|process| process.kill(false).expect("it is ours"));
    processes.iter().for_each(|process| drop(process.join()));
}

/// One descriptor for each child is needed, and a few.
fn raise_limits() {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("it can be read");
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).expect("soft may be hard");
}

fn idle(children: usize) {
    raise_limits();
    // The first child brings the threads.
    let first = sleeper();
    let before = anonymous_memory();
    let processes: Vec<Process> = (0..children).map(|_| sleeper()).collect();
    let memory = anonymous_memory().saturating_sub(before) as f64 / children as f64;
    println!("\nmemory in the parent for each of {children} idle children: {:.2} KiB", memory / 1024.0);
    judge("KiB for each idle child", Some(4.0), 2.0, memory / 1024.0);
    let threads = thread_names().len();
    judge(&format!("threads with {children} children started from the main thread"), Some(3.0), 3.0, threads as f64);
    let watched = Duration::from_secs(if smoke() { 1 } else { 10 });
    let wakes = wake_ups();
    thread::sleep(watched);
    let wakes = wake_ups() - wakes;
    judge(&format!("wake-ups of pkit's threads in {watched:?}"), Some(0.0), 0.0, wakes as f64);
    kill_all(processes);
    kill_all(vec![first]);
}

fn threads(children: usize) {
    let processes: Vec<Process> = thread::scope(|scope| {
        let starters: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..children / 8).map(|_| sleeper()).collect::<Vec<_>>())).collect();
        starters.into_iter().flat_map(|starter| starter.join().expect("no panic")).collect()
    });
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let bound = (3 + cores) as f64;
    let what = format!("threads with {} children started from 8 threads, which have ended", processes.len());
    judge(&what, Some(bound), bound, thread_names().len() as f64);
    kill_all(processes);
}

/// Resident memory that is neither a file nor shared, in bytes.
fn anonymous_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("kernel 4.5 or newer");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

fn thread_names() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("proc is mounted").flatten();
    tasks.filter_map(|task| Some(fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned())).collect()
}

/// How often pkit's threads were put on a processor because they were woken.
fn wake_ups() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("proc is mounted").flatten();
    let status = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let ours = status.filter(|status| status.lines().next().is_some_and(|name| name.contains("pkit-")));
    ours.filter_map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    })
    .sum()
}
