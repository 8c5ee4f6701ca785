//! What a process runs.

use std::ffi::CString;
use std::fmt;
use std::process::{ExitCode, Termination};
use std::sync::Arc;

use super::command::Command;
use crate::sys;
use crate::sys::fork::Body;
use crate::sys::spawn::{Child, Creator, Failure, Setup};

/// What a process runs: a command, or a closure in a forked copy of this program.
#[derive(Clone)]
pub struct Target(pub(super) Kind);

#[derive(Clone)]
pub(super) enum Kind {
    Command(Box<Command>),
    /// Code of this program, which executes nothing.
    Code(Arc<dyn Make>),
}

/// What makes a process that runs code of this program.
pub(crate) trait Make: Send + Sync {
    /// What the process is called, unless it is given a name.
    fn name(&self) -> String;

    /// What `Debug` shows of the target.
    fn describe(&self) -> String;

    /// Makes one that is set up as told, and runs.
    fn make(&self, setup: &Setup, environment: Vec<CString>, creator: Creator<'_>) -> Result<Child, Failure>;
}

#[cfg(feature = "tasks")]
impl Target {
    pub(crate) fn code(made: impl Make + 'static) -> Target {
        Target(Kind::Code(Arc::new(made)))
    }
}

impl Make for Body {
    fn name(&self) -> String {
        "fork".to_owned()
    }

    fn describe(&self) -> String {
        "Target::fork(..)".to_owned()
    }

    fn make(&self, setup: &Setup, environment: Vec<CString>, creator: Creator<'_>) -> Result<Child, Failure> {
        sys::fork::fork_body(setup, environment, self, creator)
    }
}

impl Target {
    /// A closure that runs in a forked copy of this program, capturing what it likes.
    ///
    /// Its result is the exit code, as from `main`; after a panic it is 101 (SIGABRT in a program built with
    /// `panic = "abort"`), with the message (and the backtrace, as `RUST_BACKTRACE` says) on its stderr. The child
    /// ends by `_exit`: nothing registered with `atexit` runs, and what was printed without a newline stays unprinted
    /// unless the closure flushes it. Every option of
    /// [`Builder`](crate::Builder) holds for it as for a command.
    ///
    /// A fork copies page tables, so it takes longer the more memory this program has touched. What can be a
    /// command of its own is cheaper as one.
    ///
    /// # Safety
    ///
    /// The child has one thread, the copy of the one that forked; every other thread of this program is gone in it, and
    /// what those had locked stays locked for ever. `fork(2)` therefore allows a child of a program
    /// with several threads only async-signal-safe functions (`signal-safety(7)`). In practice, on Linux:
    ///
    /// - forked while no other thread exists, the closure may do everything;
    /// - else it may use memory (glibc and musl make `malloc` usable after a fork), files, sockets, processes (pkit
    ///   included, any number of levels deep), new threads, and every lock that no other thread can have held;
    /// - it must not take a lock that another thread may have held at the fork: a mutex of the program, the standard
    ///   streams of Rust or C where other threads print, `log` with a logger that locks, `getaddrinfo` and what else
    ///   locks inside libc;
    /// - it must not use a handle of the parent: a `Process` of the parent answers with an error
    ///   ([`Error::is_foreign`](crate::Error::is_foreign)), connections and files are shared, not copied;
    /// - all descriptors but 0, 1, 2 and those passed are closed in it: an object that owns one must not be used.
    ///
    /// # What it begins with
    ///
    /// Every signal is at its default, and what was ignored is ignored. A library that keeps a list of its handlers does not know of
    /// that: signals that the parent registered with the crate `signal-hook` are not heard in the closure, registered anew or not;
    /// `sigaction(2)` itself does it.
    ///
    /// Its stack is that of the thread that forked: the main thread's if the start was called there, the caller's if the process
    /// outlives this program, else that of a thread of pkit's. Those have as much as the main thread may have (`RLIMIT_STACK`),
    /// at least 2 MiB and at most 64 MiB; automatic restarts always come from them.
    ///
    /// # Example
    ///
    /// ```
    /// use pkit::{Process, Target};
    ///
    /// let numbers = vec![1, 2, 3];
    /// // SAFETY: the closure only computes.
    /// let sum = unsafe { Target::fork(move || std::process::ExitCode::from(numbers.iter().sum::<u8>())) };
    /// let process = Process::new(sum);
    /// process.start(true)?;
    /// assert_eq!(process.join()?.code(), Some(6));
    /// # Ok::<(), pkit::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn fork<T: Termination>(closure: impl Fn() -> T + Send + Sync + 'static) -> Target {
        // SAFETY: the caller promises of the closure what a body needs; what is added only computes.
        Target(Kind::Code(Arc::new(unsafe { Body::new(move || exit_code(closure().report())) })))
    }

    pub(super) fn default_name(&self) -> String {
        match &self.0 {
            Kind::Command(command) => {
                let program = std::path::Path::new(&command.program);
                program.file_name().unwrap_or(&command.program).to_string_lossy().into_owned()
            }
            Kind::Code(code) => code.name(),
        }
    }
}

/// std hands the number of an `ExitCode` to nobody, but compares them.
pub(crate) fn exit_code(code: ExitCode) -> i32 {
    (0..=u8::MAX).find(|number| ExitCode::from(*number) == code).map_or(1, i32::from)
}

impl From<Command> for Target {
    fn from(command: Command) -> Target {
        Target(Kind::Command(Box::new(command)))
    }
}

impl From<&mut Command> for Target {
    /// What a chain of [`Command`]'s methods ends in.
    fn from(command: &mut Command) -> Target {
        Target::from(command.clone())
    }
}

impl From<&Command> for Target {
    fn from(command: &Command) -> Target {
        Target::from(command.clone())
    }
}

impl From<std::process::Command> for Target {
    fn from(command: std::process::Command) -> Target {
        Target::from(Command::from(command))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Command(command) => command.fmt(f),
            Kind::Code(code) => f.write_str(&code.describe()),
        }
    }
}
