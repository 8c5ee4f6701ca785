//! Lines of captured output: how they are cut, and waiting for one.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pkit::{Command, Line, Process, Restart, Stdio, Stream};

use crate::support::{LONG, python, say, sh, tests};

/// Runs it to its end and returns its lines.
fn lines_of(command: Command) -> Vec<Line> {
    let lines: Arc<Mutex<Vec<Line>>> = Arc::default();
    let into = Arc::clone(&lines);
    let on_line = move |line: &Line| into.lock().unwrap().push(line.clone());
    let process = Process::builder(command).on_line(on_line).build().unwrap();
    process.start(true).unwrap();
    assert!(process.join().unwrap().success());
    // It has returned for the last one: no copy of the closure is in use.
    std::mem::take(&mut *lines.lock().unwrap())
}

tests! {
    fn a_small_buffer_cuts_no_line() {
        let process = Process::builder(sh("printf '%10000d\\n' 7; exec sleep 1000")).capture(1024).build().unwrap();
        process.start(true).unwrap();
        let line = process.wait_for_line(LONG, |_| true).unwrap();
        assert_eq!((line.bytes().len(), line.continued()), (10_000, false));
        assert_eq!(process.output().stdout().len(), 1024);
    }

    fn a_line_of_a_run_is_found_though_the_next_one_began() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = sh("[ -e $0 ] && { echo other; exec sleep 1000; }; : > $0; echo one; read x; echo needle; exit 1");
        command.arg(directory.path().join("ran"));
        let builder = Process::builder(command).stdin(Stdio::piped()).capture(1024);
        let process = builder.restart(Restart::on_failure()).build().unwrap();
        process.start(true).unwrap();
        let next_run_began = || process.wait_until(LONG, |status| status.restarts > 0 && status.pid.is_some()).unwrap();
        let mut seen = Vec::new();
        let found = process.wait_for_line(LONG, |line| {
            if line == "one" {
                drop(process.stdin());
                next_run_began();
            }
            seen.push(line.to_owned());
            line == "needle"
        });
        found.unwrap();
        assert_eq!(seen, ["one", "needle"]);
        // Who asks now asks for those of the run that is there.
        assert_eq!(process.wait_for_line(LONG, |_| true).unwrap().text(), "other");
    }

    fn who_waits_for_a_line_of_a_run_is_told_of_the_end_of_that_run() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = sh("n=$(cat $0 2>/dev/null || echo 0); n=$((n+1)); echo $n > $0; echo run; exit $n");
        command.arg(directory.path().join("runs"));
        let process = Process::builder(command).capture(1024).build().unwrap();
        for came_when_it_was_over in [false, true] {
            let first = process.start(true).unwrap();
            if came_when_it_was_over {
                process.join().unwrap();
            }
            let mut seen = 0;
            let end = process.wait_for_line(LONG, |_| {
                seen += 1;
                for _ in 0..2 {
                    process.join().unwrap();
                    process.start(true).unwrap();
                }
                process.join().unwrap();
                false
            });
            assert_eq!((end.unwrap_err().exit().unwrap().pid(), seen), (first, 1));
        }
    }

    fn long_lines_come_in_pieces() {
        const LENGTH: usize = 10 << 20;
        let script = format!("
for letter in (b'a', b'b', b'c'): sys.stdout.buffer.write(letter * {LENGTH} + b'\\n')
sys.stdout.buffer.write(b'd' * {LENGTH})");
        let pieces = lines_of(python(&script));
        assert!(pieces.iter().all(|piece| piece.bytes().len() <= 16 * 1024));
        let mut lines = vec![Vec::new()];
        for piece in &pieces {
            lines.last_mut().unwrap().extend_from_slice(piece.bytes());
            if !piece.continued() {
                lines.push(Vec::new());
            }
        }
        assert_eq!(lines.pop(), Some(Vec::new()));
        let expected = [b'a', b'b', b'c', b'd'].map(|letter| vec![letter; LENGTH]);
        assert!(lines == expected, "{} lines", lines.len());
    }

    fn what_is_not_text_and_has_no_end() {
        let lines = lines_of(sh(r"printf 'caf\351\r\n\n\000nul\nlast'"));
        let bytes: Vec<&[u8]> = lines.iter().map(Line::bytes).collect();
        assert_eq!(bytes, [&b"caf\xe9"[..], b"", b"\0nul", b"last"]);
        assert_eq!(lines[0].text(), "caf\u{fffd}");
        assert!(lines.iter().all(|line| line.stream() == Stream::Stdout && !line.continued()));
    }

    fn streams_are_told_apart() {
        let lines = lines_of(sh("echo out; echo err >&2; echo out; echo err >&2"));
        for (stream, text) in [(Stream::Stdout, "out"), (Stream::Stderr, "err")] {
            let of_stream: Vec<_> = lines.iter().filter(|line| line.stream() == stream).collect();
            assert!(of_stream.len() == 2 && of_stream.iter().all(|line| line.text() == text), "{lines:?}");
        }
    }

    fn a_line_from_before_the_call_is_found() {
        let process = Process::builder(sh("echo one; echo two; exec sleep 1000")).capture(4096).build().unwrap();
        process.start(true).unwrap();
        for _ in 0..2 {
            assert_eq!(process.wait_for_line(LONG, |line| line == "two").unwrap().text(), "two");
            assert_eq!(process.wait_for_line(LONG, |line| line == "one").unwrap().text(), "one");
        }
    }

    fn a_line_that_comes_later_is_found() {
        let builder = Process::builder(sh("while read x; do echo \"got $x\"; done")).stdin(Stdio::piped());
        let process = builder.capture(4096).build().unwrap();
        process.start(true).unwrap();
        let mut stdin = process.stdin().unwrap();
        for n in 0..50 {
            let waiter = process.clone();
            let thread = std::thread::spawn(move || waiter.wait_for_line(LONG, |line| line == format!("got {n}")));
            say(&mut stdin, &n.to_string());
            thread.join().unwrap().unwrap();
        }
    }

    fn a_line_that_does_not_come() {
        let process = Process::builder(sh("echo no; read x")).stdin(Stdio::piped()).capture(4096).build().unwrap();
        let limit = Duration::from_millis(50);
        assert!(process.wait_for_line(limit, |_| true).unwrap_err().is_never_started());
        process.start(true).unwrap();
        let error = process.wait_for_line(limit, |line| line == "yes").unwrap_err();
        assert!(error.is_timeout(), "{error}");
        say(&mut process.stdin().unwrap(), "end");
        let error = process.wait_for_line(LONG, |line| line == "yes").unwrap_err();
        assert_eq!(error.exit().unwrap().code(), Some(0), "{error}");
        // What was printed is found after the end, too.
        process.join().unwrap();
        process.wait_for_line(limit, |line| line == "no").unwrap();
        let silent = Process::new(sh("exit 0"));
        assert!(silent.wait_for_line(limit, |_| true).unwrap_err().is_invalid());
    }

    fn a_failed_start_leaves_the_output_of_the_last_run() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::copy("/bin/echo", &program).unwrap();
        let process = Process::builder(Command::new(&program).arg("hello")).capture(4096).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        std::fs::remove_file(&program).unwrap();
        assert!(process.start(true).unwrap_err().is_not_created());
        process.wait_for_line(LONG, |line| line == "hello").unwrap();
        assert!(process.wait_for_line(LONG, |line| line == "other").unwrap_err().is_ended());
    }

    fn one_who_never_stops_talking_does_not_stretch_the_limit() {
        let process = Process::builder(Command::new("yes")).capture(4096).build().unwrap();
        process.start(true).unwrap();
        let error = process.wait_for_line(Duration::from_millis(50), |line| line == "no").unwrap_err();
        assert!(error.is_timeout(), "{error}");
    }

    fn one_stream_without_end_does_not_keep_the_other_waiting() {
        let (sender, told) = std::sync::mpsc::channel();
        let on_line = move |line: &Line| {
            if line.stream() == Stream::Stderr {
                let _ = sender.send(line.text().into_owned());
            }
            // Slower than they come.
            let began = std::time::Instant::now();
            while began.elapsed() < Duration::from_micros(20) {}
        };
        let script = "while :; do echo x; done & read go; echo 'disk full' >&2; wait";
        let process = Process::builder(sh(script)).stdin(Stdio::piped()).capture(4096).on_line(on_line).build().unwrap();
        process.start(true).unwrap();
        process.wait_for_line(LONG, |line| line == "x").unwrap();
        say(&mut process.stdin().unwrap(), "go");
        process.wait_for_line(LONG, |line| line == "disk full").unwrap();
        assert_eq!(told.recv_timeout(LONG).unwrap(), "disk full");
        process.kill(true).unwrap();
    }

    fn the_end_of_the_run_ends_the_wait() {
        let process = Process::builder(sh("echo no; exec sleep 1000")).capture(4096).build().unwrap();
        process.start(true).unwrap();
        let waiter = process.clone();
        let thread = std::thread::spawn(move || waiter.wait_for_line(LONG, |line| line == "yes"));
        process.wait_for_line(LONG, |line| line == "no").unwrap();
        process.terminate(true).unwrap();
        let error = thread.join().unwrap().unwrap_err();
        assert!(error.exit().is_some_and(pkit::Exit::requested), "{error}");
    }

    fn a_line_right_before_the_end_is_found() {
        let process = Process::builder(sh("echo one; exit 3")).capture(4096).build().unwrap();
        for _ in 0..200 {
            process.start(true).unwrap();
            let wait = || process.wait_for_line(LONG, |line| line == "one").unwrap();
            std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(wait))));
            process.join().unwrap();
        }
    }

    fn no_line_is_missed_while_one_is_looked_at() {
        let process = Process::builder(sh("seq 1 20000; echo end")).capture(4096).build().unwrap();
        let mut seen = Vec::new();
        process.start(true).unwrap();
        let found = process.wait_for_line(LONG, |line| {
            seen.push(line.to_owned());
            line == "end"
        });
        found.unwrap();
        // From the first that was still kept, which may be the rest of a line, without a gap.
        let numbers = &seen[1..seen.len() - 1];
        let first: usize = numbers[0].parse().unwrap();
        assert!(numbers.iter().zip(first..).all(|(line, number)| *line == number.to_string()), "{first}");
        assert_eq!(numbers.last().unwrap(), "20000");
    }

    fn a_wait_that_begins_during_the_start_sees_the_new_run() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::copy("/bin/echo", &program).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let process = Process::builder(Command::new(&program).arg("hello"))
            .retry_text_busy(LONG)
            .capture(4096)
            .build()
            .unwrap();
        for _ in 0..2 {
            // While it is open for writing it cannot be executed: the start hangs.
            let writer = std::fs::File::options().append(true).mode(0o755).open(&program).unwrap();
            let other = process.clone();
            let starter = std::thread::spawn(move || other.start(true));
            process.wait_until(LONG, |status| status.state == pkit::State::Starting).unwrap();
            let waiter = process.clone();
            let thread = std::thread::spawn(move || {
                waiter.wait_for_line(Duration::from_secs(10), |line| line == "hello")
            });
            // It does not announce that it waits; that it has not returned is all there is to see.
            assert!(process.join_timeout(Duration::from_millis(50)).is_ok_and(|exit| exit.is_none()));
            drop(writer);
            starter.join().unwrap().unwrap();
            thread.join().unwrap().unwrap();
            process.join().unwrap();
        }
    }
}
