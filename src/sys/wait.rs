//! `waitid`, nearly always on a pidfd. [`wait`] never blocks; what asks of more than one child says so.
//!
//! The raw syscall instead of the library's, for its fifth argument: the resource usage of exactly this child, which
//! `wait4` would give only by pid. The siginfo instead of a wait status, because it tells stops and continues apart
//! from exits that are to be left in place.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What happened to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Exited(i32),
    Killed {
        signal: i32,
        core: bool,
    },
    Stopped(i32),
    /// For who traces it, which is this program; of no concern to anybody else.
    Trapped,
    Continued,
}

impl Change {
    fn is_end(self) -> bool {
        matches!(self, Change::Exited(_) | Change::Killed { .. })
    }
}

/// What a child and its own reaped children used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// The largest resident set, in bytes.
    pub(crate) max_rss: u64,
}

/// One answer of [`wait`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    pub(crate) pid: u32,
    pub(crate) change: Change,
    pub(crate) usage: Usage,
}

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look {
    /// Its end. With `keep` it stays a zombie, and its pid and group id cannot be reused.
    Exit { keep: bool },
    /// A stop or a continue, each told once.
    Stops,
}

/// Looks once; `None` when there is nothing yet.
///
/// # Errors
/// ECHILD when someone else took the child's status, or it is no child of ours.
pub(crate) fn wait(pidfd: BorrowedFd<'_>, look: Look) -> io::Result<Option<Waited>> {
    // __WALL: a child whose exit signal is not SIGCHLD is a child too.
    let options = libc::WNOHANG
        | libc::__WALL
        | match look {
            Look::Exit { keep: true } => libc::WEXITED | libc::WNOWAIT,
            Look::Exit { keep: false } => libc::WEXITED,
            Look::Stops => libc::WSTOPPED | libc::WCONTINUED,
        };
    match look {
        // Of one that we trace, its stops are told whatever is asked for (ptrace(2)).
        Look::Exit { .. } => Ok(waitid(pidfd, options)?.filter(|waited| waited.change.is_end())),
        // Those are its tracer's to take.
        Look::Stops => match waitid(pidfd, options | libc::WNOWAIT)? {
            None | Some(Waited { change: Change::Trapped, .. }) => Ok(None),
            Some(_) => waitid(pidfd, options),
        },
    }
}

/// Waits until the process has ended, or its status is not there any more.
pub(crate) fn wait_for_end(pidfd: BorrowedFd<'_>) {
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) => return,
            Err(Errno::EINTR) => {}
            // `RLIMIT_NOFILE` is 0.
            Err(_) => match waitid(pidfd, libc::WEXITED | libc::WNOWAIT | libc::__WALL) {
                // It is traced by us, and stands still: there is nothing to wait for but time.
                Ok(Some(waited)) if !waited.change.is_end() => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            },
        }
    }
}

/// Whether any child at all has ended and was not waited for. Takes nothing.
pub(crate) fn is_any_zombie() -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // ECHILD: there is no child.
    matches!(waitid_of(libc::P_ALL, 0, options), Ok(Some(_)))
}

/// Takes the statuses of all children that have ended in the group of that number. `is_ours` is asked before each: what this program traces is
/// shown here, too, and need not be its child.
pub(crate) fn take_group(group: u32, is_ours: impl Fn(u32) -> bool) {
    let one = |keep: i32| waitid_of(libc::P_PGID, group as i32, libc::WEXITED | libc::WNOHANG | libc::__WALL | keep);
    // ECHILD: there is no child in it.
    while let Ok(Some(waited)) = one(libc::WNOWAIT) {
        // (What is not taken is shown again and again.)
        if !waited.change.is_end() || !is_ours(waited.pid) {
            return;
        }
        if one(0).is_err() {
            return;
        }
    }
}

/// `waitid` with any options, EINTR retried; `None` only with `WNOHANG`.
pub(super) fn waitid(pidfd: BorrowedFd<'_>, options: i32) -> io::Result<Option<Waited>> {
    waitid_of(libc::P_PIDFD, pidfd.as_raw_fd(), options)
}

fn waitid_of(kind: libc::idtype_t, id: i32, options: i32) -> io::Result<Option<Waited>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: waitid(2) writes at most one siginfo and one rusage, and both have room for it.
        let result =
            unsafe { libc::syscall(libc::SYS_waitid, kind, id, info.as_mut_ptr(), options, usage.as_mut_ptr()) };
        if result != -1 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: a siginfo is plain numbers, and was all zero before the kernel wrote to it.
    let info = unsafe { info.assume_init() };
    // SAFETY: the kernel leaves it zero, or fills in the fields of a child.
    let pid = unsafe { info.si_pid() } as u32;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above, this is a child's siginfo.
    let status = unsafe { info.si_status() };
    // SAFETY: an rusage is plain numbers, and was all zero before the kernel wrote to it.
    let usage = unsafe { usage.assume_init() };
    Ok(Some(Waited { pid, change: from_code(info.si_code, status), usage: Usage::from(usage) }))
}

fn from_code(code: i32, status: i32) -> Change {
    match code {
        libc::CLD_EXITED => Change::Exited(status),
        libc::CLD_KILLED => Change::Killed { signal: status, core: false },
        libc::CLD_DUMPED => Change::Killed { signal: status, core: true },
        libc::CLD_CONTINUED => Change::Continued,
        libc::CLD_TRAPPED => Change::Trapped,
        _ => Change::Stopped(status),
    }
}

/// Decodes a status as `wait(2)` gives it.
pub(crate) fn from_status(status: i32) -> Change {
    if libc::WIFEXITED(status) {
        Change::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSTOPPED(status) {
        Change::Stopped(libc::WSTOPSIG(status))
    } else if libc::WIFCONTINUED(status) {
        Change::Continued
    } else {
        Change::Killed { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
    }
}

impl From<libc::rusage> for Usage {
    fn from(usage: libc::rusage) -> Usage {
        Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            // The kernel counts in KiB.
            max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::tests::{finish, readable, sh, spawn};
    use std::os::fd::AsFd;

    #[test]
    fn an_exit_is_kept_and_then_taken_once() {
        let child = spawn(&sh("exit 3")).unwrap();
        readable(child.pidfd.as_fd());
        for _ in 0..2 {
            let seen = wait(child.pidfd.as_fd(), Look::Exit { keep: true }).unwrap().unwrap();
            assert_eq!(seen.change, Change::Exited(3));
        }
        let taken = wait(child.pidfd.as_fd(), Look::Exit { keep: false }).unwrap().unwrap();
        assert_eq!(taken.change, Change::Exited(3));
        assert!(taken.usage.max_rss > 100 * 1024, "{taken:?}");
        let error = wait(child.pidfd.as_fd(), Look::Exit { keep: false }).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_stop_and_a_continue_are_told_once_each() {
        let child = spawn(&sh("kill -STOP $$; exec sleep 1000000")).unwrap();
        let pidfd = child.pidfd.as_fd();
        let stopped = waitid(pidfd, libc::WSTOPPED | libc::WNOWAIT).unwrap().unwrap();
        assert_eq!(stopped.change, Change::Stopped(libc::SIGSTOP));
        assert!(wait(pidfd, Look::Exit { keep: false }).unwrap().is_none());
        assert_eq!(wait(pidfd, Look::Stops).unwrap().unwrap().change, Change::Stopped(libc::SIGSTOP));
        assert!(wait(pidfd, Look::Stops).unwrap().is_none());
        child.pidfd.signal(libc::SIGCONT).unwrap();
        assert_eq!(waitid(pidfd, libc::WCONTINUED).unwrap().unwrap().change, Change::Continued);
        child.pidfd.signal(libc::SIGKILL).unwrap();
        assert_eq!(finish(&child).change, Change::Killed { signal: libc::SIGKILL, core: false });
    }

    #[test]
    fn a_status_is_decoded() {
        assert_eq!(from_status(0x0300), Change::Exited(3));
        assert_eq!(from_status(0x0009), Change::Killed { signal: 9, core: false });
        assert_eq!(from_status(0x008b), Change::Killed { signal: 11, core: true });
        assert_eq!(from_status(0x137f), Change::Stopped(19));
        assert_eq!(from_status(0xffff), Change::Continued);
    }

    #[test]
    fn a_core_is_told() {
        // si_code decides; whether a file is written is the system's affair.
        assert_eq!(from_code(libc::CLD_DUMPED, 6), Change::Killed { signal: 6, core: true });
        assert_eq!(from_code(libc::CLD_KILLED, 6), Change::Killed { signal: 6, core: false });
    }
}
