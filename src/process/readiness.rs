//! How a process says that it is ready.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::handle::Process;

/// How a process says that it is ready for its users; for [`Builder::ready`](crate::Builder::ready).
///
/// What is not ready within [`Builder::ready_within`](crate::Builder::ready_within) (default 30 s) is a failed run: it
/// is stopped and put to the restart policy.
///
/// # Example
///
/// ```
/// use pkit::{Command, Process, Ready};
///
/// let script = "echo loading; echo now listening; read line";
/// let server = Process::builder(Command::new("sh").args(["-c", script]).stdin(pkit::Stdio::piped()))
///     .ready(Ready::line("listening"))
///     .build()?;
/// server.start(true)?; // returns when the line was seen
/// assert_eq!(server.state(), pkit::State::Ready);
/// # Ok::<(), pkit::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a readiness does nothing until it is given to a builder"]
pub struct Ready {
    pub(super) kind: Kind,
    pub(super) watchdog: Option<Duration>,
}

#[derive(Clone)]
pub(super) enum Kind {
    Spawned,
    Notify,
    Fd(i32),
    Line(Arc<str>),
    Tcp(Arc<str>),
    Unix(PathBuf),
    File(PathBuf),
    Check(Arc<dyn Fn(&Process) -> bool + Send + Sync>),
}

impl Ready {
    fn of(kind: Kind) -> Ready {
        Ready { kind, watchdog: None }
    }

    /// The default: as soon as the program was executed, or the function was entered with its signals set up.
    pub fn spawned() -> Ready {
        Ready::of(Kind::Spawned)
    }

    /// It sends `READY=1` to the socket in `NOTIFY_SOCKET`: the protocol of `sd_notify(3)`. That variable is set for it, and `WATCHDOG_PID` and
    /// `WATCHDOG_USEC` are taken out, as those that this program has are about this program.
    ///
    /// `STATUS=` goes to [`Status::text`](crate::Status), `MAINPID=` to [`Status::main_pid`](crate::Status), and
    /// `WATCHDOG=1` is understood with [`watchdog`](Ready::watchdog). Who says `STOPPING=1` is held to neither
    /// readiness nor watchdog any more, and has as long to end as after the first signal of its stop ladder, which
    /// begins then.
    ///
    /// Messages count only from the process itself and from members of its group (or of its tree, when it is
    /// contained), as told by the kernel (`SCM_CREDENTIALS`, `unix(7)`). That can be told of a living sender or a
    /// zombie: a helper that has ended and was reaped before its message was read is not believed. `RELOADING=1`, `EXTEND_TIMEOUT_USEC=`, `WATCHDOG_USEC=` and `FDSTORE=1` change nothing.
    pub fn notify() -> Ready {
        Ready::of(Kind::Notify)
    }

    /// It writes a newline to descriptor `fd` (3 or more), which is passed to it: the protocol of s6
    /// (`notification-fd`).
    pub fn fd(fd: i32) -> Ready {
        Ready::of(Kind::Fd(fd))
    }

    /// It prints a line that contains `text`, on stdout or stderr; those of the two that have no other place are
    /// [captured](crate::Stdio::captured).
    pub fn line(text: impl Into<String>) -> Ready {
        Ready::of(Kind::Line(text.into().into()))
    }

    /// It accepts connections at `address`, `host:port`; a host name is looked up at each start, and any of its addresses
    /// will do.
    ///
    /// Whoever answers there is taken for it. So if somebody does before it is created, another program or an older
    /// instance, the start is refused (`EADDRINUSE`), unless descriptors are passed to it
    /// ([`pass_fd`](crate::Builder::pass_fd)), one of which may be the listening socket. Who comes between is not told
    /// from it. Choose a free port for each run: bind port 0, read its number, close it, and pass it on. Or use what
    /// nobody else can answer: [`notify`](Ready::notify), [`fd`](Ready::fd), [`line`](Ready::line).
    pub fn tcp(address: impl Into<String>) -> Ready {
        Ready::of(Kind::Tcp(address.into().into()))
    }

    /// It accepts connections on the unix stream socket at `path`. A relative path is relative to this program's
    /// directory. Who listens there already is an error of the start, as for [`tcp`](Ready::tcp).
    pub fn unix(path: impl Into<PathBuf>) -> Ready {
        Ready::of(Kind::Unix(path.into()))
    }

    /// It makes the file at `path`, relative to this program's directory. One that is there from before does not count
    /// until it is replaced or written to. It is looked for like a [`check`](Ready::check).
    pub fn file(path: impl Into<PathBuf>) -> Ready {
        Ready::of(Kind::File(path.into()))
    }

    /// `check` says so. It is called on a callback thread, again and again, until it returns true: first after 1 ms,
    /// then twice as long each time, at most 100 ms. While it blocks, only this readiness waits, and
    /// [`Builder::ready_within`](crate::Builder::ready_within) still ends the run.
    pub fn check(check: impl Fn(&Process) -> bool + Send + Sync + 'static) -> Ready {
        Ready::of(Kind::Check(Arc::new(check)))
    }

    /// With [`notify`](Ready::notify): once ready, it has to send `WATCHDOG=1` at least every `interval`, else the run
    /// has failed and is stopped. The child finds the interval in `WATCHDOG_USEC`. With anything but
    /// `notify` it is refused by [`Builder::build`](crate::Builder::build).
    pub fn watchdog(self, interval: Duration) -> Ready {
        Ready { watchdog: Some(interval), ..self }
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Spawned => f.write_str("Ready::spawned()"),
            Kind::Notify => f.debug_struct("Ready::notify").field("watchdog", &self.watchdog).finish(),
            Kind::Fd(fd) => f.debug_tuple("Ready::fd").field(fd).finish(),
            Kind::Line(text) => f.debug_tuple("Ready::line").field(text).finish(),
            Kind::Tcp(address) => f.debug_tuple("Ready::tcp").field(address).finish(),
            Kind::Unix(path) => f.debug_tuple("Ready::unix").field(path).finish(),
            Kind::File(path) => f.debug_tuple("Ready::file").field(path).finish(),
            Kind::Check(_) => f.write_str("Ready::check(..)"),
        }
    }
}
