//! What goes into a restart decision and what comes out of it.

use std::fmt;
use std::time::{Duration, Instant};

use crate::exit::ExitReason;
use crate::readable::Readable;

/// How an attempt to run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran and ended.
    Ended {
        reason: ExitReason,
        /// We had sent it the stop signal it died of. Says nothing of one that ended with a code.
        stopped_by_us: bool,
        /// How long it was ready, or up where it has no readiness; zero if it never got there.
        stable: Duration,
    },
    /// It was not ready in time (`stable` is zero) or missed its watchdog, and was stopped for that: a
    /// failure, however it ended then.
    Fault { stable: Duration },
    /// It could not be started. Permanent: the next try would meet the same.
    CannotStart { permanent: bool },
    /// It could not be started for lack of something that others may give back: no crash of its own.
    Shortage,
}

impl Outcome {
    /// The outcome of a start that failed with `errno`, at whatever step.
    pub(crate) fn cannot_start(errno: i32) -> Self {
        if is_shortage(errno) { Self::Shortage } else { Self::CannotStart { permanent: is_permanent(errno) } }
    }

    /// How long the run was stable; `None` if there was no run.
    pub(super) fn stable(&self) -> Option<Duration> {
        match self {
            Self::Ended { stable, .. } | Self::Fault { stable } => Some(*stable),
            Self::CannotStart { .. } | Self::Shortage => None,
        }
    }
}

/// The errno says that memory, processes or descriptors ran out: worth another try, and no fault of the
/// program that was to be started.
fn is_shortage(errno: i32) -> bool {
    // EAGAIN: RLIMIT_NPROC or pids.max (fork(2)), and RLIMIT_NPROC at execve(2) after a change of user.
    matches!(errno, libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
}

/// The errno says that starting the same thing again will fail in the same way, until someone repairs it.
fn is_permanent(errno: i32) -> bool {
    matches!(
        errno,
        // There is no such program, interpreter or directory, or the path leads nowhere.
        libc::ENOENT | libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG
        // It may not be executed or entered; or we may not become that user or raise that limit. No right
        // comes back by waiting.
        | libc::EACCES | libc::EPERM
        // It is no program: no format known, a broken one (EINVAL: two interpreters), a broken
        // interpreter. EINVAL is also an option out of its range at a step before the exec.
        | libc::ENOEXEC | libc::EINVAL | libc::ELIBBAD
        // Arguments and environment are too long, and will be so the next time.
        | libc::E2BIG
    )
    // Not here: ETXTBSY (someone still writes the program), EIO, ESRCH, ETIMEDOUT and the like. These may
    // pass; they count as crashes and the limit ends them.
}

/// What next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: a clean end, or no policy. The process is idle.
    Done,
    /// Start again at this time, which may be now.
    Again { at: Instant },
    /// The process has failed until someone starts it by hand.
    GiveUp(GiveUp),
}

/// Why a restart policy gave up; from [`EventKind::Failed`](crate::EventKind::Failed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GiveUp {
    /// A permanent exit code, or a start that cannot succeed.
    Permanent,
    /// One more would be more than the limit of the policy.
    TooMany {
        /// So many restarts are allowed
        restarts: u32,
        /// within this time.
        within: Duration,
    },
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Permanent => f.write_str("a failure that no restart can cure"),
            Self::TooMany { restarts: 0, .. } => f.write_str("it failed, and its limit allows no restart"),
            Self::TooMany { restarts, within } => {
                let plural = if restarts == 1 { "" } else { "s" };
                write!(f, "more than {restarts} restart{plural} within {}", Readable(within))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display() {
        let within = Duration::from_secs(60);
        let cases = [
            (GiveUp::Permanent, "a failure that no restart can cure"),
            (GiveUp::TooMany { restarts: 0, within }, "it failed, and its limit allows no restart"),
            (GiveUp::TooMany { restarts: 1, within }, "more than 1 restart within 60 s"),
            (GiveUp::TooMany { restarts: 8, within }, "more than 8 restarts within 60 s"),
        ];
        for (give_up, text) in cases {
            assert_eq!(give_up.to_string(), text);
        }
    }

    #[test]
    fn each_errno_is_of_one_kind() {
        for errno in [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE] {
            assert_eq!(Outcome::cannot_start(errno), Outcome::Shortage);
        }
        for errno in [libc::ENOENT, libc::EACCES, libc::ENOEXEC, libc::EPERM, libc::E2BIG] {
            assert_eq!(Outcome::cannot_start(errno), Outcome::CannotStart { permanent: true });
        }
        for errno in [libc::ETXTBSY, libc::EIO, 0, -1] {
            assert_eq!(Outcome::cannot_start(errno), Outcome::CannotStart { permanent: false });
        }
        assert!((0..200).all(|errno| !(is_shortage(errno) && is_permanent(errno))));
    }
}
