//! What every test needs: a process of its own, and a check that it left nothing behind.

#![allow(dead_code, reason = "not every binary uses all of it")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use pkit::{Command, Process};

/// Long enough on a loaded machine; nothing waits that long unless it is broken.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Tests that each run in a process of their own (so that they may count descriptors, threads and children, and change what is
/// process-wide) and end with the check that nothing is left of them.
macro_rules! tests {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        rusty_fork::rusty_fork_test! {
            #![rusty_fork(timeout_ms = 240000)]
            $(
                #[test]
                $(#[$meta])*
                fn $name() {
                    crate::support::checked(|| $body);
                }
            )*
        }
    };
}
pub(crate) use tests;

/// Runs a test body and fails if it leaves a child, a zombie, a descriptor or a thread behind.
pub(crate) fn checked(body: impl FnOnce()) {
    if crate::OLD_KERNEL {
        pkit::testing::pretend_old_kernel();
    }
    // The threads and descriptors that pkit keeps are there before the count.
    let warm = Process::builder(Command::new("true")).on_exit(|_, _| ()).build().unwrap();
    warm.start(true).unwrap();
    warm.join().unwrap();
    drop(warm);
    let descriptors = open_descriptors();
    let strangers_before = thread_names().iter().filter(|name| !name.starts_with("pkit-")).count();
    body();
    pkit::testing::end_fork_server();
    // The last handle was dropped perhaps an instant ago, and a drop does not wait.
    eventually("no child is left", || children().is_empty());
    eventually("no descriptor is left", || open_descriptors().is_subset(&descriptors));
    eventually("no thread is left but pkit's own", || {
        let threads = thread_names();
        let callbacks = threads.iter().filter(|name| *name == "pkit-callback").count();
        let strangers = threads.iter().filter(|name| !name.starts_with("pkit-")).count();
        callbacks <= 1 && strangers <= strangers_before
    });
}

/// Says that the test, or a part of it, is passed over, and for want of what. The test runner hides it where the rest passes, so it
/// goes into a file as well, if one is named.
pub(crate) fn skipped(why: &str) {
    println!("skipped: {why}");
    let Some(path) = std::env::var_os("PKIT_SKIPPED") else { return };
    let binary = module_path!().split("::").next().unwrap();
    let thread = std::thread::current();
    let line = format!("{binary}: {}: {why}\n", thread.name().unwrap_or("?"));
    fs::File::options().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
}

/// Waits for something that nothing announces, such as the end of a stranger. Fails after [`LONG`].
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < LONG,
            "not in time: {what}; children {:?}, fds {:?}, threads {:?}",
            children(),
            open_descriptors(),
            thread_names()
        );
        std::thread::yield_now();
    }
}

/// The pids of our children, zombies included.
pub(crate) fn children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// What is open: number and target. (The directory that is being read is not counted.)
pub(crate) fn open_descriptors() -> BTreeSet<(i32, String)> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
        Some((entry.file_name().to_str()?.parse().ok()?, target))
    });
    open.filter(|(_, target)| !target.ends_with("/fd")).collect()
}

pub(crate) fn thread_names() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter_map(|task| Some(fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned())).collect()
}

/// Waits until the threads of pkit that are there are up, and sleep: for a test that leaves no memory to a thread that starts.
pub(crate) fn settle() {
    let process = Process::new(Command::new("true"));
    process.start(true).unwrap();
    // With a limit it is the reaper that sees the end.
    process.join_timeout(LONG).unwrap().expect("it ends");
    eventually("all threads of pkit sleep", || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        stats.filter(|stat| stat.contains("(pkit-")).all(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('S'))
    });
}

/// Of this process, so far.
pub(crate) fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let [user, system] = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds());
    Duration::from_micros((user + system) as u64)
}

/// Whether a process is there and has not ended: a zombie is not alive, one whose main thread alone has ended is.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = rest.split(' ').collect();
    !matches!(fields[0], "Z" | "X") || fields[17].parse::<u32>().unwrap() > 1
}

/// With the soft limit of this process at `soft`.
pub(crate) fn limited<T>(limit: Resource, soft: u64, body: impl FnOnce() -> T) -> T {
    let (before, hard) = getrlimit(limit).unwrap();
    setrlimit(limit, soft, hard).unwrap();
    let result = body();
    setrlimit(limit, before, hard).unwrap();
    result
}

/// No descriptor can be made meanwhile.
pub(crate) fn without_descriptors<T>(body: impl FnOnce() -> T) -> T {
    limited(Resource::RLIMIT_NOFILE, 3, body)
}

/// Whether this program may become another user, among other things.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A shell script as a command.
pub(crate) fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script]).clone()
}

/// A Python script as a command. It has `tell(text)` for the notify socket, where there is one.
pub(crate) fn python(script: &str) -> Command {
    const PRELUDE: &str = r#"
import os, select, signal, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def tell(text):
    s.sendto(text.encode(), '\0' + os.environ['NOTIFY_SOCKET'][1:])
"#;
    Command::new("python3").args(["-c", &format!("{PRELUDE}{script}")]).clone()
}

/// For a Python script: `lingering(patience)`, a socket whose last close takes a minute. It is filled until it takes no more for so
/// many seconds.
pub(crate) const LINGERING: &str = "
server = socket.create_server(('127.0.0.1', 0), backlog=1000)
def lingering(patience):
    client = socket.create_connection(server.getsockname())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\xff\\0\\0\\0')
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client.setblocking(False)
    while select.select([], [client], [], patience)[1]: client.send(b'x' * 65536)
    return client
";

/// Waits for a state, at most [`LONG`].
pub(crate) fn wait_for(process: &Process, state: pkit::State) -> pkit::Status {
    process.wait_until(LONG, |status| status.state == state).unwrap()
}

/// The pid that is its next line.
pub(crate) fn pid_said_by(process: &Process) -> u32 {
    process.wait_for_line(LONG, |_| true).unwrap().text().trim().parse().unwrap()
}

/// Writes a line to the child's piped stdin.
pub(crate) fn say(stdin: &mut std::process::ChildStdin, line: &str) {
    stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
}
