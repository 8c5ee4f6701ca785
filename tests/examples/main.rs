//! Every example runs and does what it says.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what it calls")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pkit::{Command, Exit, Output, Process, Signal};

const LONG: Duration = Duration::from_secs(100);

/// `cargo test` builds the examples beside the tests.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let directory: PathBuf = test.parent().unwrap().parent().unwrap().join("examples");
    let program = directory.join(name);
    assert!(program.exists(), "build the examples first, as plain `cargo test` does: `cargo build --examples`");
    Command::new(program)
}

fn run(name: &str) -> (Exit, Output) {
    let process = Process::builder(example(name)).name(name).capture(1 << 20).build().unwrap();
    process.start(true).unwrap();
    let exit = process.join_timeout(LONG).unwrap().expect("the example ends");
    let output = process.output();
    assert!(exit.success(), "{exit}\n{}\n{}", output.stdout_text(), output.stderr_text());
    (exit, output)
}

#[track_caller]
fn says(name: &str, texts: &[&str]) {
    let (_, output) = run(name);
    for text in texts {
        assert!(output.stdout_text().contains(text), "{text:?} is missing in\n{}", output.stdout_text());
    }
}

#[test]
fn reuse() {
    says("reuse", &["shell (pid ", "exit code 3 after", "sleep: killed by SIGTERM"]);
}

#[test]
fn callbacks() {
    says("callbacks", &["it says: working", "3 runs, as the events have it"]);
}

#[test]
fn readiness() {
    let kinds = ["a line: ", "a descriptor: ", "sd_notify: ", "a socket: ", "a file: ", "a check: "];
    let texts = ["serving", "it ended before it was ready: exit code 3"];
    says("readiness", &[&kinds[..], &texts].concat());
}

#[test]
fn capture() {
    says("capture", &["[stdout] hello world", "[stderr] bye", r#"stdout "ready\nhello world\n", stderr "bye\n""#]);
}

#[test]
fn integration_test() {
    says("integration_test", &["the server answered, logged the request, and is gone"]);
}

#[test]
fn fork() {
    says("fork", &["the copy sees a table of 1000 squares", "copy: exit code 5", "killed by SIGABRT"]);
}

#[test]
fn function() {
    let restarts =
        ["clerk runs as process", "serve: exit code 1 after", "serve was restarted 2 times, and is failed now"];
    says("function", &[&["1229 primes below 10,000", "one in the background: 430"][..], &restarts].concat());
}

#[test]
fn override_run() {
    says(
        "override_run",
        &["makes cat.png 80 pixels wide", "Resize of cat.png: exit code 0", "Resize of dog.png: exit code 2"],
    );
}

#[test]
fn isolate_crash() {
    let crashes = [
        "[]: its process is gone, not this one: killed by SIGSEGV",
        "[1]: its process is gone, not this one: exit code 3",
    ];
    let others = ["[2, 3, 4]: 9", "[0]: panicked: a picture does not begin with 0, at examples/isolate_crash.rs"];
    says("isolate_crash", &[&crashes[..], &others].concat());
}

#[test]
fn preload() {
    says("preload", &["here it is not: true", "19999999 squared is 399999960000001,"]);
}

#[test]
fn supervise() {
    let process = Process::builder(example("supervise")).capture(1 << 20).build().unwrap();
    process.start(true).unwrap();
    for text in ["web ", "killed by SIGKILL", "next start in", "flaky ", "NAME ", "Ctrl-C stops them all"] {
        process.wait_for_line(LONG, |line| line.contains(text)).unwrap();
    }
    let table = process.output();
    let state = |name: &str| {
        let table = table.stdout_text();
        let row = table.lines().rev().find(|line| line.starts_with(name)).unwrap();
        row.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!([state("web"), state("worker"), state("flaky")], ["ready", "ready", "failed"]);
    process.signal(Signal::INT).unwrap();
    assert!(process.join_timeout(LONG).unwrap().expect("Ctrl-C ends it").success());
    let output = process.output();
    let at = |text: &str| output.stdout_text().find(text).unwrap_or_else(|| panic!("{}", output.stdout_text()));
    // Each line has its time: the lines themselves are printed by several threads.
    let time = |line: &&str| line.trim_start().split(' ').next().and_then(|time| time.parse::<f64>().ok());
    let last = |name: &str, what: &str| {
        let text = output.stdout_text();
        let line = text.lines().rev().find(|line| line.contains(name) && line.contains(what) && time(line).is_some());
        line.as_ref().and_then(time).unwrap_or_else(|| panic!("{text}"))
    };
    assert!(at("as asked") > 0);
    assert!(
        last("worker", "killed by SIGTERM") <= last("web", "stopping"),
        "in reverse order: {}",
        output.stdout_text()
    );
}

#[test]
fn supervise_and_press_ctrl_c_twice() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = example("supervise");
    command.arg(format!("sh -c 'trap \"\" TERM; echo deaf > {}; exec sleep 1000'", fifo.display()));
    let process = Process::builder(command).capture(1 << 20).build().unwrap();
    process.start(true).unwrap();
    process.wait_for_line(LONG, |line| line.contains("Ctrl-C stops them all")).unwrap();
    assert_eq!(std::fs::read_to_string(fifo).unwrap(), "deaf\n");
    process.signal(Signal::INT).unwrap();
    process.wait_for_line(LONG, |line| line.ends_with("sent SIGTERM")).unwrap();
    process.signal(Signal::INT).unwrap();
    // The stop ladder itself would come to SIGKILL after 10 s.
    assert!(process.join_timeout(Duration::from_secs(9)).unwrap().expect("the second Ctrl-C ends it").success());
    assert!(process.output().stdout_text().contains("as asked, by force"), "{}", process.output().stdout_text());
}

#[test]
fn supervise_what_is_given() {
    let mut command = example("supervise");
    command.args(["--", "sleep 1000", "python3 -m http.server --bind 127.0.0.1 0"]);
    let process = Process::builder(command).capture(1 << 20).build().unwrap();
    process.start(true).unwrap();
    process.wait_for_line(LONG, |line| line.contains("Ctrl-C stops them all")).unwrap();
    process.signal(Signal::TERM).unwrap();
    assert!(process.join_timeout(LONG).unwrap().expect("SIGTERM ends it").success());
    assert_eq!(last_state(&process.output().stdout_text(), "sleep"), "idle");
}

#[test]
fn supervise_keeps_quoted_words_together_and_leaves_nothing() {
    let mut command = example("supervise");
    // As typed in the README's form: the shell hands over each command as one word, with its own quotes in it.
    let script = "sh -c \"echo 'two  words'; sleep 1000 & exec sleep 1000\"";
    command.args(["--", script, "python3 -m http.server --bind 127.0.0.1 0"]);
    let process = Process::builder(command).capture(1 << 20).build().unwrap();
    let supervisor = process.start(true).unwrap();
    process.wait_for_line(LONG, |line| line.contains("Ctrl-C stops them all")).unwrap();
    let [shell, server] = ["sh ", "python3 "].map(|name| pid_in_table(&process.output().stdout_text(), name));
    // The words after `-c` were one argument: its script began another process and became `sleep`.
    let began = Instant::now();
    let sleeps = || members(shell).into_iter().filter(|pid| program(*pid) == "sleep 1000").collect::<Vec<_>>();
    while sleeps().len() < 2 {
        assert!(began.elapsed() < LONG, "{:?}", members(shell).into_iter().map(program).collect::<Vec<_>>());
        std::thread::yield_now();
    }
    let started = [sleeps(), vec![supervisor, server]].concat();
    process.signal(Signal::INT).unwrap();
    assert!(process.join_timeout(LONG).unwrap().expect("Ctrl-C ends it").success());
    let text = process.output().stdout_text().into_owned();
    // (An orphan that has ended may wait to be reaped by whoever has to.)
    for pid in started {
        assert!(stat(pid).is_none_or(|fields| fields[0] == "Z"), "{pid} is left\n{text}");
    }
    assert_eq!(["sh", "python3"].map(|name| last_state(&text, name)), ["idle", "idle"], "{text}");
}

/// In the last table.
fn last_state(text: &str, name: &str) -> String {
    let mut rows = text.lines().rev().map(str::split_whitespace).map(Iterator::collect::<Vec<_>>);
    let row = rows.find(|row| row.first() == Some(&name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    row[1].to_owned()
}

/// Of the row `NAME ready PID` that begins with this name.
fn pid_in_table(text: &str, name: &str) -> u32 {
    let row = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    row.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// The words of its command line.
fn program(pid: u32) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ")
}

/// The fields of `/proc/PID/stat` that follow the name: state, parent, group.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// The processes of a group.
fn members(group: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|fields| fields[2] == group.to_string())).collect()
}

#[test]
fn worker() {
    let calls = [r#"with t: ["the", "the"]"#, r#"queued: ["fox"]"#, r#"beside it: ["dog"]"#, "cancelled: true"];
    let after =
        ["its process ended before it gave a value: killed by SIGABRT", r#"again: ["lazy"]"#, "in this process: true"];
    says("worker", &[&calls[..], &after].concat());
}

#[test]
fn remote_object() {
    let ends = "the cache of 21664 numbers is dropped in process";
    says("remote_object", &["27 takes 111 steps", "the longest below 10,000: 6171, with 261 steps, after 10", ends]);
}

#[test]
fn sandbox() {
    let ended =
        ["eat memory: its process ended before it gave a value: killed by SIGABRT", "wait for ever: it was cancelled"];
    let burnt = "burn time: its process ended before it gave a value: killed by SIGXCPU";
    says("sandbox", &[&["add: Ok(\"5050\")", burnt, "open files: Err(\"Too many open files"][..], &ended].concat());
}
