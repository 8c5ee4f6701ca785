//! Where output goes: captured, piped, into a file, to the log.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pkit::{Command, Process, Ready, State, Stdio};
use smol::future::{block_on, poll_once};

use crate::support::{LONG, python, sh, tests};

/// The most memory this program ever held, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A logger that keeps what it is told of the output of children.
struct Kept(Mutex<Vec<String>>);

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

impl log::Log for Kept {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "pkit::output"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// A logger that panics at whatever it is told.
struct Panics;

impl log::Log for Panics {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        panic!("{}", record.args());
    }

    fn flush(&self) {}
}

/// Ends after it said "up" and more than is taken in before those who want lines have taken some, and is ready.
fn said_in_time(command: Command) {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let process = Process::builder(command).capture(1).on_line(move |_| _ = wait.lock().unwrap().recv());
    let process = process.ready(Ready::line("up")).build().unwrap();
    process.start(true).unwrap();
    drop(go_on);
    assert!(process.join().unwrap().success());
}

tests! {
    fn a_line_that_was_said_in_time_counts_though_nobody_has_taken_those_before_it() {
        said_in_time(sh("yes | head -c 70000; echo up"));
    }

    fn a_line_that_was_said_in_time_counts_in_a_pipe_in_packet_mode() {
        // First whole pages: packets are appended to what is none.
        let script = "
import fcntl
os.write(1, b'y\\n' * 20480)
fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)
for packet in [b'x\\n'] * 10 + [b'up\\n']: os.write(1, packet)";
        said_in_time(python(script));
    }

    fn a_logger_that_panics_takes_no_line_away() {
        log::set_logger(&Panics).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        let count = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&count);
        let builder = Process::builder(sh("seq 100")).capture(1000);
        let process = builder.on_line(move |_| _ = counting.fetch_add(1, Ordering::Relaxed)).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 100);
    }

    fn a_gibibyte_is_neither_lost_nor_kept() {
        const LINE: usize = 16 * 1024;
        let lines: u64 = if crate::OLD_KERNEL { 1024 } else { 64 * 1024 };
        let script = format!("
filler = b'x' * ({LINE} - 9) + b'\\n'
for n in range({lines}): sys.stdout.buffer.write(b'%08d' % n + filler)");
        let (seen, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, sum) = (Arc::clone(&seen), Arc::clone(&bytes));
        let filler = vec![b'x'; LINE - 9];
        let on_line = move |line: &pkit::Line| {
            let expected = format!("{:08}", count.fetch_add(1, Ordering::Relaxed));
            let (number, rest) = line.bytes().split_at(8);
            assert!(number == expected.as_bytes() && rest == filler && !line.continued());
            sum.fetch_add(line.bytes().len() as u64 + 1, Ordering::Relaxed);
        };
        let process = Process::builder(python(&script)).on_line(on_line).build().unwrap();
        let before = peak_memory();
        process.start(true).unwrap();
        assert!(process.join().unwrap().success());
        assert_eq!((seen.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed)), (lines, lines * LINE as u64));
        assert!(peak_memory() - before < 8 << 20, "it grew from {before} to {}", peak_memory());
        assert_eq!(process.output().stdout_dropped() + process.output().stdout().len() as u64, lines * LINE as u64);
    }

    fn all_of_it_can_be_kept() {
        let count = Arc::new(AtomicU64::new(0));
        let lines = Arc::clone(&count);
        let process = Process::builder(sh("seq 1 100000; echo problem >&2")).capture(usize::MAX);
        let process = process.on_line(move |_| _ = lines.fetch_add(1, Ordering::Relaxed)).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 100_001);
        let wanted: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
        assert!(process.output().stdout_text() == wanted);
    }

    fn the_last_bytes_are_kept() {
        let process = Process::builder(sh("seq 1 100000; echo problem >&2")).capture(8192).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        let total: u64 = (1..=100_000_u64).map(|n| n.to_string().len() as u64 + 1).sum();
        let output = process.output();
        assert_eq!(output.stdout().len(), 8192);
        assert!(output.stdout_text().ends_with("\n99999\n100000\n"));
        assert_eq!(output.stdout_dropped(), total - 8192);
        assert_eq!((output.stderr_text().as_ref(), output.stderr_dropped()), ("problem\n", 0));
    }

    fn few_bytes_are_kept_where_few_are_wanted() {
        let process = Process::builder(sh("printf 0123456789")).capture(4).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        assert_eq!((process.output().stdout(), process.output().stdout_dropped()), (&b"6789"[..], 6));
    }

    fn output_outlives_the_run_and_not_the_next() {
        let process = Process::builder(sh("echo run $$")).capture(4096).build().unwrap();
        assert_eq!(process.output().stdout(), b"");
        for _ in 0..10 {
            let pid = process.start(true).unwrap();
            process.join().unwrap();
            assert_eq!(process.output().stdout_text(), format!("run {pid}\n"));
        }
    }

    fn stdout_closed_early() {
        let process = Process::builder(sh("echo first; exec >&-; echo second >&2; read x; echo third >&2; exit 4"))
            .stdin(Stdio::piped())
            .capture(4096)
            .build()
            .unwrap();
        process.start(true).unwrap();
        process.wait_for_line(LONG, |line| line == "second").unwrap();
        assert!(process.is_alive());
        process.stdin().unwrap().write_all(b"go on\n").unwrap();
        let exit = process.join().unwrap();
        assert_eq!((exit.code(), exit.output_leaked()), (Some(4), false));
        let output = process.output();
        assert_eq!((output.stdout_text().as_ref(), output.stderr_text().as_ref()), ("first\n", "second\nthird\n"));
    }

    fn a_slow_callback_makes_the_child_wait() {
        let (release, gate) = mpsc::channel::<()>();
        let (lines, received) = mpsc::channel();
        let gate = Mutex::new(gate);
        let on_line = move |line: &pkit::Line| {
            // Waits for each of the first lines until told, and for none when the sender is gone.
            let _ = gate.lock().unwrap().recv();
            lines.send(line.text().parse::<u32>().unwrap()).unwrap();
        };
        let process = Process::builder(sh("exec seq 1 200000")).on_line(on_line).build().unwrap();
        process.start(true).unwrap();
        release.send(()).unwrap();
        assert_eq!(received.recv().unwrap(), 1);
        // More than a megabyte: it cannot end.
        assert_eq!(process.join_timeout(Duration::from_millis(300)).unwrap(), None);
        drop(release);
        let exit = process.join().unwrap();
        assert_eq!((exit.code(), exit.output_leaked()), (Some(0), false));
        assert!(received.try_iter().eq(2..=200_000));
    }

    fn a_slow_callback_after_the_end_loses_nothing() {
        let (release, gate) = mpsc::channel::<()>();
        let (lines, received) = mpsc::channel();
        let gate = Mutex::new(gate);
        let on_line = move |line: &pkit::Line| {
            let _ = gate.lock().unwrap().recv();
            lines.send(line.text().parse::<u32>().unwrap()).unwrap();
        };
        // It ends with more in its pipe than the buffer takes.
        let process = Process::builder(sh("exec seq 1 10000"))
            .on_line(on_line)
            .capture(4096)
            .drain(Duration::from_millis(10))
            .build()
            .unwrap();
        let pid = process.start(true).unwrap();
        crate::support::eventually("it has ended", || !crate::support::is_alive(pid));
        assert_eq!(process.join_timeout(Duration::from_millis(200)).unwrap(), None);
        drop(release);
        assert!(!process.join().unwrap().output_leaked());
        assert!(received.try_iter().eq(1..=10_000));
    }

    fn a_leaked_pipe_holds_up_no_exit() {
        // It leaves the group and keeps stdout.
        let process = Process::builder(sh("setsid sh -c 'echo $$; exec sleep 1000' & read x; exit 5"))
            .stdin(Stdio::piped())
            .capture(4096)
            .drain(Duration::from_millis(50))
            .build()
            .unwrap();
        process.start(true).unwrap();
        let stranger = process.wait_for_line(LONG, |_| true).unwrap().text().parse().unwrap();
        process.stdin().unwrap().write_all(b"go on\n").unwrap();
        let exit = process.join().unwrap();
        assert_eq!((exit.code(), exit.output_leaked()), (Some(5), true));
        let stranger = nix::unistd::Pid::from_raw(stranger);
        nix::sys::signal::kill(stranger, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    fn a_child_that_closes_its_output_goes_on() {
        let script = "echo last; exec >&- 2>&-; read x; exit 5";
        let process = Process::builder(sh(script)).stdin(Stdio::piped()).capture(4096).build().unwrap();
        process.start(true).unwrap();
        let mut stdin = process.stdin().unwrap();
        process.wait_for_line(LONG, |line| line == "last").unwrap();
        assert_eq!(process.join_timeout(Duration::from_millis(50)).unwrap(), None, "its output is not its life");
        assert!(process.is_alive());
        stdin.write_all(b"go on\n").unwrap();
        let exit = process.join().unwrap();
        assert_eq!((exit.code(), exit.output_leaked()), (Some(5), false));
    }

    fn stdin_piped_is_written_and_closed() {
        let process = Process::builder(Command::new("cat")).stdin(Stdio::piped()).capture(4096).build().unwrap();
        for text in ["one", "two"] {
            process.start(true).unwrap();
            let mut stdin = process.stdin().unwrap();
            assert!(process.stdin().is_none());
            stdin.write_all(text.as_bytes()).unwrap();
            drop(stdin);
            assert!(process.join().unwrap().success());
            assert_eq!(process.output().stdout_text(), text);
        }
        // `join` closes what nobody took.
        process.start(true).unwrap();
        assert!(process.join().unwrap().success());
    }

    fn who_waits_while_it_is_created_closes_its_stdin_too() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::copy("/bin/cat", &program).unwrap();
        // While somebody writes to it, it cannot be executed.
        let writer = fs::File::options().append(true).open(&program).unwrap();
        let builder = Process::builder(Command::new(&program)).stdin(Stdio::piped()).stdout(Stdio::null());
        let process = builder.retry_text_busy(LONG).build().unwrap();
        std::thread::scope(|scope| {
            let started = scope.spawn(|| process.start(true));
            process.wait_until(LONG, |status| status.state == State::Starting).unwrap();
            let mut exited = process.exited();
            assert!(block_on(poll_once(&mut exited)).is_none());
            drop(writer);
            started.join().unwrap().unwrap();
            assert!(block_on(exited).unwrap().success());
        });
    }

    fn a_look_at_the_end_leaves_stdin_open() {
        let process = Process::builder(Command::new("cat")).stdin(Stdio::piped()).capture(100).build().unwrap();
        process.start(true).unwrap();
        assert!(process.join_timeout(Duration::ZERO).unwrap().is_none());
        let mut stdin = process.stdin().unwrap();
        stdin.write_all(b"still open").unwrap();
        drop(stdin);
        assert!(process.join().unwrap().success());
        assert_eq!(process.output().stdout_text(), "still open");
    }

    fn stdin_of_a_child_that_is_gone() {
        let process = Process::builder(sh("exec sleep 1000")).stdin(Stdio::piped()).build().unwrap();
        process.start(true).unwrap();
        let mut stdin = process.stdin().unwrap();
        process.kill(true).unwrap();
        let error = stdin.write_all(b"too late").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }

    fn both_streams_may_go_into_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let process = Process::builder(sh("echo out; echo err >&2"))
            .stdout(Stdio::file(&path))
            .stderr(Stdio::file(&path))
            .build()
            .unwrap();
        for _ in 0..2 {
            process.start(true).unwrap();
            process.join().unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "out\nerr\nout\nerr\n");
    }

    fn captured_lines_are_logged() {
        log::set_logger(&KEPT).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        let process = Process::builder(sh("echo one; echo two >&2")).name("talker").capture(4096).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        let mut lines = std::mem::take(&mut *KEPT.0.lock().unwrap());
        lines.sort();
        assert_eq!(lines, ["DEBUG talker: one", "DEBUG talker: two"]);
    }

    fn a_given_descriptor_is_closed_with_the_process() {
        let (mut read, write) = std::io::pipe().unwrap();
        let process = Process::builder(sh("echo seen")).stdout(OwnedFd::from(write)).build().unwrap();
        for _ in 0..2 {
            process.start(true).unwrap();
            process.join().unwrap();
        }
        // It stayed open here for the next start; now the reader comes to an end.
        drop(process);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "seen\nseen\n");
    }
}
