//! The test's own program, executed once more: something with threads and children of its own that may be killed.
//!
//! It runs the body of the same test again. The body asks [`role`] first and does there what the role says.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

/// The variable that carries the role; its presence is what makes a program another one.
const ROLE: &str = "PKIT_TEST_ROLE";
/// Begins each line that is meant for the test: the test harness prints too.
const MARK: &str = "@ ";

/// What this program is there for; `None` in the test itself.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Says a line to the test.
pub(crate) fn say(text: impl std::fmt::Display) {
    say_to(std::io::stdout().lock(), text);
}

/// The same, by what was its stdout.
pub(crate) fn say_to(mut out: impl Write, text: impl std::fmt::Display) {
    // After the newline, because the harness leaves its own line unfinished.
    writeln!(out, "\n{MARK}{text}").unwrap();
    out.flush().unwrap();
}

/// A program in a role. It is killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(role: &str) -> Program {
        Program::start_by(&[], role)
    }

    /// Executed by another program, which gets its command line behind `by`.
    pub(crate) fn start_by(by: &[&str], role: &str) -> Program {
        let own = std::env::current_exe().unwrap();
        let mut words: Vec<_> = by.iter().map(std::ffi::OsString::from).collect();
        words.push(own.into());
        words.extend(std::env::args_os().skip(1));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Program { child, lines }
    }

    /// The next line that was said; `None` after the last.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.trim_end().strip_prefix(MARK) {
                return Some(said.to_owned());
            }
            line.clear();
        }
        None
    }

    /// A number that was said.
    pub(crate) fn number(&mut self) -> u32 {
        self.line().expect("it said something").parse().expect("it said a number")
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Waits until it ends, with what it said meanwhile.
    pub(crate) fn finish(mut self) -> (ExitStatus, Vec<String>) {
        let said: Vec<String> = std::iter::from_fn(|| self.line()).collect();
        (self.child.wait().unwrap(), said)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // InvalidInput: it has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Never returns: the test ends this program.
pub(crate) fn stay() -> ! {
    loop {
        std::thread::park();
    }
}
