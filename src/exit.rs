//! How a run ended: what the kernel told us, what we know besides, and what of it was our own doing.
//!
//! An [`Exit`] is made once, when a run is over, and never changes. It keeps more than a wait status
//! does: whether the stop was asked for, whether it took SIGKILL, how long the run was, and what this one
//! child used. When another part of the program took the status away it says so
//! ([`ExitReason::Lost`]) and makes nothing up.

use std::fmt;
use std::time::Duration;

use crate::readable::Readable;
use crate::signal::Signal;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitReason {
    /// It ended by itself with this exit code, 0 to 255 (`_exit(2)` keeps the low eight bits).
    Exited(i32),
    /// It was ended by this signal.
    Signaled(Signal),
    /// It is gone, but another part of the program took its status (a `waitpid(-1)`, or SIGCHLD set to
    /// *ignore*) and the kernel does not keep it (before Linux 6.15).
    Lost,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "killed by {signal}"),
            Self::Lost => f.write_str("lost: another part of the program took its status"),
        }
    }
}

/// What a run did wrong, so that it was stopped though nobody asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It was not ready within [`Builder::ready_within`](crate::Builder::ready_within).
    NotReady,
    /// It missed its watchdog interval, or reported itself broken (`WATCHDOG=trigger`).
    WatchdogMissed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "it was not ready in time",
            Self::WatchdogMissed => "it missed its watchdog",
        })
    }
}

/// What one run used, as getrusage(2) counts it: the process itself and the children it waited for.
///
/// All zero when the status was lost.
///
/// # Example
///
/// ```
/// let usage = pkit::Usage::default();
/// assert!(usage.user().is_zero() && usage.system().is_zero());
/// assert_eq!(usage.max_rss(), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) max_rss: u64,
}

impl Usage {
    /// Processor time spent in the program.
    pub fn user(&self) -> Duration {
        self.user
    }

    /// Processor time spent in the kernel on its behalf.
    pub fn system(&self) -> Duration {
        self.system
    }

    /// The most memory it held at one time, in bytes: of the largest process, not of the sum.
    ///
    /// Of a command it is never less than what this program held at the start: until its exec the child lives in the memory of this program, and Linux counts
    /// that as its own, as it does for `posix_spawn`. So from a large program it tells nothing of small ones.
    pub fn max_rss(&self) -> u64 {
        self.max_rss
    }
}

/// What is known at the end of a run; becomes an [`Exit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExitFacts {
    pub(crate) reason: ExitReason,
    pub(crate) core_dumped: bool,
    pub(crate) pid: u32,
    pub(crate) requested: bool,
    pub(crate) forced: bool,
    pub(crate) fault: Option<Fault>,
    pub(crate) runtime: Duration,
    pub(crate) usage: Usage,
    pub(crate) output_leaked: bool,
}

/// How one run of a process ended.
///
/// Its [`Display`](fmt::Display) is made for the log: `exit code 3 after 1.2 s`,
/// `killed by SIGKILL after 10.2 s, as asked, by force`.
///
/// # Example
///
/// ```
/// use pkit::{Exit, ExitReason};
///
/// fn advice(exit: &Exit) -> &'static str {
///     match exit.reason() {
///         ExitReason::Exited(0) => "all is well",
///         ExitReason::Exited(_) => "read its log",
///         ExitReason::Signaled(_) if exit.requested() => "we did that",
///         ExitReason::Signaled(_) => "look for a core",
///         _ => "nobody knows",
///     }
/// }
/// # let _ = advice;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit(ExitFacts);

impl From<ExitFacts> for Exit {
    fn from(facts: ExitFacts) -> Self {
        Self(facts)
    }
}

impl Exit {
    /// The exit code, 0 to 255; `None` when a signal ended it or the status was lost.
    pub fn code(&self) -> Option<i32> {
        match self.0.reason {
            ExitReason::Exited(code) => Some(code),
            ExitReason::Signaled(_) | ExitReason::Lost => None,
        }
    }

    /// The signal that ended it; `None` when it ended by itself or the status was lost.
    pub fn signal(&self) -> Option<Signal> {
        match self.0.reason {
            ExitReason::Signaled(signal) => Some(signal),
            ExitReason::Exited(_) | ExitReason::Lost => None,
        }
    }

    /// The signal made it dump core (`CLD_DUMPED`, sigaction(2)).
    pub fn core_dumped(&self) -> bool {
        self.0.core_dumped
    }

    /// It ended by itself with exit code 0.
    pub fn success(&self) -> bool {
        self.0.reason == ExitReason::Exited(0)
    }

    /// Why it ended.
    pub fn reason(&self) -> ExitReason {
        self.0.reason
    }

    /// The process id it had. By now it may be another process's.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Someone asked for the stop while the leader lived; else it ended of its own accord, by another's hand, or
    /// because of a [`fault`](Exit::fault).
    pub fn requested(&self) -> bool {
        self.0.requested
    }

    /// SIGKILL was sent to it or to what it left behind: a ladder came to its end, or someone asked for
    /// [`kill`](crate::Process::kill).
    pub fn forced(&self) -> bool {
        self.0.forced
    }

    /// Why it was stopped though nobody asked; `None` when it ended of its own accord, or as asked.
    pub fn fault(&self) -> Option<Fault> {
        self.0.fault
    }

    /// From the start to the end of the leader, by the monotonic clock.
    pub fn runtime(&self) -> Duration {
        self.0.runtime
    }

    /// What this run used of processor and memory.
    pub fn usage(&self) -> Usage {
        self.0.usage
    }

    /// When its output was no longer waited for, another process still held one of its output pipes: what
    /// that one writes later is not seen.
    pub fn output_leaked(&self) -> bool {
        self.0.output_leaked
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.0;
        write!(f, "{}", facts.reason)?;
        if facts.core_dumped {
            f.write_str(" (core dumped)")?;
        }
        // After "took its status" all this would be said of the thief.
        if facts.reason != ExitReason::Lost {
            write!(f, " after {}", Readable(facts.runtime))?;
            if facts.requested {
                f.write_str(", as asked")?;
            }
            if facts.forced {
                let leader = facts.reason == ExitReason::Signaled(Signal::KILL);
                f.write_str(if leader { ", by force" } else { "; what it left behind was killed" })?;
            }
        }
        if let Some(fault) = facts.fault {
            write!(f, "; stopped because {fault}")?;
        }
        if facts.output_leaked {
            f.write_str("; another process still holds its output")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(reason: ExitReason, millis: u64) -> ExitFacts {
        ExitFacts {
            reason,
            core_dumped: false,
            pid: 7,
            requested: false,
            forced: false,
            fault: None,
            runtime: Duration::from_millis(millis),
            usage: Usage::default(),
            output_leaked: false,
        }
    }

    #[test]
    fn display() {
        let kill = ExitReason::Signaled(Signal::KILL);
        let cases = [
            (facts(ExitReason::Exited(3), 1_234), "exit code 3 after 1.2 s"),
            (facts(kill, 9_000), "killed by SIGKILL after 9 s"),
            (
                ExitFacts { core_dumped: true, requested: true, ..facts(kill, 20) },
                "killed by SIGKILL (core dumped) after 20 ms, as asked",
            ),
            (
                ExitFacts { requested: true, forced: true, ..facts(kill, 10_250) },
                "killed by SIGKILL after 10.2 s, as asked, by force",
            ),
            (
                ExitFacts { fault: Some(Fault::NotReady), ..facts(ExitReason::Exited(0), 30_000) },
                "exit code 0 after 30 s; stopped because it was not ready in time",
            ),
            (
                ExitFacts { output_leaked: true, ..facts(ExitReason::Exited(0), 60_000) },
                "exit code 0 after 60 s; another process still holds its output",
            ),
            (
                ExitFacts { requested: true, ..facts(ExitReason::Lost, 5) },
                "lost: another part of the program took its status",
            ),
        ];
        for (facts, text) in cases {
            assert_eq!(Exit::from(facts).to_string(), text);
        }
    }

    #[test]
    fn each_reason_answers_only_its_own_question() {
        let code = Exit::from(facts(ExitReason::Exited(0), 1));
        assert_eq!((code.code(), code.signal(), code.success()), (Some(0), None, true));
        let bad = Exit::from(facts(ExitReason::Exited(1), 1));
        assert_eq!((bad.code(), bad.signal(), bad.success()), (Some(1), None, false));
        let signal = Exit::from(facts(ExitReason::Signaled(Signal::SEGV), 1));
        assert_eq!((signal.code(), signal.signal(), signal.success()), (None, Some(Signal::SEGV), false));
        let lost = Exit::from(facts(ExitReason::Lost, 1));
        assert_eq!((lost.code(), lost.signal(), lost.success()), (None, None, false));
        assert_eq!(lost.reason(), ExitReason::Lost);
    }

    #[test]
    fn the_facts_come_back_as_they_went_in() {
        let usage = Usage { user: Duration::from_millis(3), system: Duration::from_millis(2), max_rss: 4096 };
        let exit = Exit::from(ExitFacts {
            core_dumped: true,
            requested: true,
            forced: true,
            fault: Some(Fault::WatchdogMissed),
            output_leaked: true,
            usage,
            ..facts(ExitReason::Signaled(Signal::ABRT), 8)
        });
        assert_eq!((exit.pid(), exit.runtime(), exit.usage()), (7, Duration::from_millis(8), usage));
        assert_eq!(exit.fault(), Some(Fault::WatchdogMissed));
        assert!(exit.core_dumped() && exit.requested() && exit.forced() && exit.output_leaked());
    }
}
