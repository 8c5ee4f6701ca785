//! The one error type of the crate.
//!
//! It is opaque: callers ask it questions (`is_timeout()`, `is_running()`, …) instead of matching on
//! variants, so that a new kind of failure breaks nobody. It always names the process and the
//! operation, the pid where there is one, and keeps the operating system's error as its source.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::line::Line;
use crate::process::state::State;
use crate::readable::Readable;

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a process failed.
///
/// `Display` gives one line: the operation, the process, the step and the cause, for example
/// ``cannot start `redis-server`: change directory to `/nope`: No such file or directory (os error 2)``.
///
/// It is cheap to clone, since the same failure may be told to several waiting threads.
#[derive(Clone)]
pub struct Error(Arc<Details>);

struct Details {
    who: Who,
    operation: &'static str,
    kind: Kind,
}

/// What comes behind "cannot `operation` `who`: ".
#[derive(Debug, thiserror::Error)]
pub(crate) enum Kind {
    #[error("it is already running")]
    Running,
    #[error("it is not running")]
    NotRunning,
    #[error("its last handle was dropped, so nobody could stop it")]
    Dropped,
    #[error("its supervisor starts it: ask that one")]
    Overseen,
    #[error("it was never started")]
    NeverStarted,
    #[error("{0}")]
    Failed(Failure),
    #[error("it was stopped before")]
    Stopped,
    #[error("it has no child `{0}`")]
    NoChild(String),
    #[error("in a callback of its child `{0}` it would wait for itself: do not wait, or do it on another thread")]
    WithinCallback(Arc<str>),
    /// `left` is what is still waited for.
    #[error("{missing} within {}; it goes on, with {left}", Readable(*limit))]
    Late { missing: &'static str, limit: Duration, left: String },
    #[error("the {0} is closed")]
    Closed(&'static str),
    /// `missing` is what did not come: "not ready", say.
    #[error("{missing} within {}; {} `{state}`{said}", Readable(*limit), afterwards(*state))]
    Timeout { missing: &'static str, limit: Duration, state: State, said: LastWords },
    #[error("{step}: {source}")]
    Start { step: String, source: io::Error },
    #[error("{0}")]
    Io(#[source] io::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("it was not ready within {} by {ready}: {end}", Readable(*limit))]
    NotReady { ready: String, limit: Duration, end: End },
    #[error("it ended before it was ready: {0}")]
    EndedEarly(End),
    #[error("{0}")]
    Ended(End),
    #[error("the handle belongs to the process with id {owner}, of which this one is a fork")]
    Foreign { owner: u32 },
}

/// A process in an error text: its name, and its pid where it has one.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) name: Arc<str>,
    pub(crate) pid: Option<u32>,
}

/// The end of a run that somebody wanted more of.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) exit: Exit,
    pub(crate) said: LastWords,
    /// The restart policy starts it again.
    pub(crate) goes_on: bool,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.exit, self.said)?;
        if self.goes_on { f.write_str("; its restart policy goes on") } else { Ok(()) }
    }
}

/// The last line that a process wrote, where its output was captured: it often says why it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastWords(pub(crate) Option<Line>);

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As a literal: what a process writes may be anything, and this text ends up in terminals and logs.
        match &self.0 {
            Some(line) => write!(f, "; its last line on {}: {:?}", line.stream(), line.text()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.name)?;
        match self.pid {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

/// What becomes of a process whose caller waits no longer.
fn afterwards(state: State) -> &'static str {
    match state {
        State::Stopping => "its stop goes on, in state",
        _ => "it is left as it is, in state",
    }
}

impl Error {
    pub(crate) fn new(who: Who, operation: &'static str, kind: Kind) -> Error {
        Error(Arc::new(Details { who, operation, kind }))
    }

    /// The name of the process that the operation was about; or of the [slots](crate::Slots::named).
    pub fn process(&self) -> &str {
        &self.0.who.name
    }

    /// The pid that the process had when the operation failed.
    pub fn pid(&self) -> Option<u32> {
        self.0.who.pid
    }

    /// The process could not be started because a run of it is already there.
    pub fn is_running(&self) -> bool {
        matches!(self.0.kind, Kind::Running)
    }

    /// The operation needs a running process, and there is none.
    pub fn is_not_running(&self) -> bool {
        matches!(self.0.kind, Kind::NotRunning)
    }

    /// A callback wanted to start a process whose last handle was dropped: that had stopped it.
    pub fn is_dropped(&self) -> bool {
        matches!(self.0.kind, Kind::Dropped)
    }

    /// The process belongs to a [`Supervisor`](crate::Supervisor), which alone starts it.
    pub fn is_supervised(&self) -> bool {
        matches!(self.0.kind, Kind::Overseen)
    }

    /// Someone waited for the end of a process that was never started.
    pub fn is_never_started(&self) -> bool {
        matches!(self.0.kind, Kind::NeverStarted)
    }

    /// The pool that was to execute it was closed; it was not started.
    pub fn is_closed(&self) -> bool {
        matches!(self.0.kind, Kind::Closed(_))
    }

    /// The caller's own limit passed. What was under way goes on: a start, the ladder of a stop.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Timeout { .. } | Kind::Late { .. })
    }

    /// A supervisor has no child of that name.
    pub fn is_no_child(&self) -> bool {
        matches!(self.0.kind, Kind::NoChild(_))
    }

    /// A supervisor was stopped, by whomever, before what was asked for had happened.
    pub fn is_stopped(&self) -> bool {
        matches!(self.0.kind, Kind::Stopped)
    }

    /// Which child of a supervisor failed, and how, where that is the error.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.0.kind {
            Kind::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// The process could not be created; [`raw_os_error`](Error::raw_os_error) says why, where a system call failed.
    /// Nothing runs.
    pub fn is_not_created(&self) -> bool {
        matches!(self.0.kind, Kind::Start { .. })
    }

    /// An option of the builder or of the command makes no sense, or what was asked for needs one that was not given.
    /// What [`Process::new`](crate::Process::new) could not refuse is told by the start, and
    /// [`is_not_created`](Error::is_not_created) holds too.
    pub fn is_invalid(&self) -> bool {
        match &self.0.kind {
            Kind::Invalid(_) => true,
            Kind::Start { source, .. } => {
                source.kind() == io::ErrorKind::InvalidInput && source.raw_os_error().is_none()
            }
            _ => false,
        }
    }

    /// The process ended before the awaited thing happened; [`exit`](Error::exit) says how.
    pub fn is_ended(&self) -> bool {
        self.exit().is_some()
    }

    /// The start failed because it was not ready within [`Builder::ready_within`](crate::Builder::ready_within), and so was
    /// stopped. [`is_ended`](Error::is_ended) holds too.
    pub fn is_not_ready(&self) -> bool {
        matches!(&self.0.kind, Kind::NotReady { .. })
    }

    /// The handle was made in a process of which this one is a fork: what it names is not ours to touch.
    pub fn is_foreign(&self) -> bool {
        matches!(self.0.kind, Kind::Foreign { .. })
    }

    /// How the run ended, where its end is the error.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.0.kind {
            Kind::NotReady { end, .. } | Kind::EndedEarly(end) | Kind::Ended(end) => Some(&end.exit),
            _ => None,
        }
    }

    /// The `errno` of the system call that failed, where one did.
    pub fn raw_os_error(&self) -> Option<i32> {
        match &self.0.kind {
            Kind::Start { source, .. } | Kind::Io(source) => source.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { who, operation, kind } = &*self.0;
        write!(f, "cannot {operation} {who}: {kind}")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `main() -> Result` and `unwrap` print Debug: the sentence serves a person better than a tree.
        write!(f, "{self}")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.kind)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno).kind(),
            None if error.is_timeout() => io::ErrorKind::TimedOut,
            None => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
