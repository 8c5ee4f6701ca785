//! A process named by a descriptor.
//!
//! A pid may belong to someone else by the time it is used; a pidfd never does. All signals of this crate go through
//! one, but those to a group before 6.9, and to a fork that no descriptor was left for. What a kernel newer than 5.10 can do in addition is told by [`features`],
//! probed once.
//!
//! The group variant of `pidfd_send_signal` (6.9) reaches what is left of a group after its leader was reaped and fails
//! with ESRCH once it is empty, where `kill(-pgid)` could by then hit a stranger. `PIDFD_INFO_EXIT` (6.15) tells the
//! wait status of a process that someone else reaped.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

/// A descriptor that stands for one process, for as long as it is open, even after that was reaped.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

impl From<OwnedFd> for Pidfd {
    fn from(fd: OwnedFd) -> Pidfd {
        Pidfd(fd)
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pidfd {
    /// The process that has this pid now. Of any but an unreaped child or oneself the caller has to look
    /// again once it is open: from then on the number cannot change hands.
    pub(crate) fn open(pid: u32) -> io::Result<Pidfd> {
        // SAFETY: pidfd_open(2) takes numbers only. The descriptor is close-on-exec by definition.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Pidfd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Sends `signal` to the process.
    ///
    /// # Errors
    /// ESRCH when it was reaped; a zombie takes every signal and does nothing.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.send(signal, 0)
    }

    /// Sends `signal` to every process of the group whose id is this process's pid, also after that was reaped. Only
    /// where [`Features::group_signal`] is set.
    ///
    /// # Errors
    /// ESRCH when the group is empty. A zombie that was not reaped yet counts as a member.
    pub(crate) fn signal_group(&self, signal: i32) -> io::Result<()> {
        self.send(signal, libc::PIDFD_SIGNAL_PROCESS_GROUP)
    }

    fn send(&self, signal: i32, flags: u32) -> io::Result<()> {
        send(self.0.as_raw_fd(), signal, flags)
    }

    /// Whether its process has ended, reaped or not.
    #[cfg(feature = "tasks")]
    pub(crate) fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut end = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut end, PollTimeout::ZERO).is_ok_and(|ended| ended > 0)
    }

    /// The wait status, as `wait(2)` encodes it, once the process was reaped, by whomever. `None` while it was not, or
    /// where [`Features::exit_info`] is not set.
    pub(crate) fn exit_status(&self) -> io::Result<Option<i32>> {
        match self.info() {
            Ok(info) => Ok((info.mask & INFO_EXIT != 0).then_some(info.exit_code)),
            Err(error) => match error.raw_os_error() {
                // ESRCH: reaped, and the kernel kept nothing. The others: no such ioctl (ENOTTY, EINVAL before 6.13).
                Some(libc::ESRCH | libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP) => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn info(&self) -> io::Result<libc::pidfd_info> {
        // SAFETY: a pidfd_info is plain numbers, and all of them may be zero.
        let mut info: libc::pidfd_info = unsafe { MaybeUninit::zeroed().assume_init() };
        info.mask = INFO_EXIT;
        // SAFETY: PIDFD_GET_INFO reads and writes one structure of the size that its number encodes.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
        check(result.into())?;
        Ok(info)
    }
}

/// What the running kernel has beyond 5.10.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    pub(crate) group_signal: bool,
    pub(crate) exit_info: bool,
}

const KNOWN: u8 = 1;
const GROUP_SIGNAL: u8 = 2;
const EXIT_INFO: u8 = 4;

/// 0 until somebody asked.
static FEATURES: AtomicU8 = AtomicU8::new(0);

/// Makes sure that [`features`] is known: an answer for want of a descriptor would be a wrong one.
pub(crate) fn ensure_features() -> io::Result<()> {
    if FEATURES.load(Ordering::Relaxed) == 0 {
        know(probe()?);
    }
    Ok(())
}

/// What the kernel can do; asks it the first time.
pub(crate) fn features() -> Features {
    let bits = match FEATURES.load(Ordering::Relaxed) {
        // What cannot be asked now is asked again the next time.
        0 => probe().map_or(0, know),
        bits => bits,
    };
    Features { group_signal: bits & GROUP_SIGNAL != 0, exit_info: bits & EXIT_INFO != 0 }
}

fn know(found: u8) -> u8 {
    let bits = KNOWN | found;
    // Does not overwrite what `pretend_old_kernel` stored in between.
    match FEATURES.compare_exchange(0, bits, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => bits,
        Err(other) => other,
    }
}

/// Lets [`features`] say no to everything from now on, in the whole program.
#[cfg(any(test, feature = "_testing"))]
pub(crate) fn pretend_old_kernel() {
    FEATURES.store(KNOWN, Ordering::Relaxed);
}

/// Lets [`features`] say no to what is newer than 6.9 from now on, in the whole program.
#[cfg(any(test, feature = "_testing"))]
pub(crate) fn pretend_no_exit_info() {
    let group_signal = if features().group_signal { GROUP_SIGNAL } else { 0 };
    FEATURES.store(KNOWN | group_signal, Ordering::Relaxed);
}

/// Asks with calls that change nothing.
///
/// # Errors
/// It cannot be asked now, for want of descriptors or memory.
fn probe() -> io::Result<u8> {
    let me = match Pidfd::open(std::process::id()) {
        // A sandbox that does not know the call knows none of the newer ones.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS)) => return Ok(0),
        me => me?,
    };
    let mut bits = 0;
    // Signal 0 sends nothing. ESRCH is a yes too: we need not lead a group. An unknown flag is EINVAL.
    match me.signal_group(0).map_err(|error| error.raw_os_error()) {
        Ok(()) | Err(Some(libc::ESRCH | libc::EPERM)) => bits |= GROUP_SIGNAL,
        Err(_) => {}
    }
    // A kernel that has the ioctl does not tell, for a living process, whether it would tell of its exit. But
    // PIDFD_INFO_EXIT and PIDFD_SELF_THREAD came with the same merge (6.15), and the latter is asked for free.
    if me.info().is_ok() && send(SELF_THREAD, 0, 0).is_ok() {
        bits |= EXIT_INFO;
    }
    Ok(bits)
}

fn send(fd: i32, signal: i32, flags: u32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: pidfd_send_signal(2) reads a siginfo only where one is given.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, flags) }).map(drop)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const INFO_EXIT: u64 = libc::PIDFD_INFO_EXIT as u64;
/// "This thread" in place of a pidfd, from include/uapi/linux/pidfd.h; the libc crate does not have it.
const SELF_THREAD: i32 = -10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::Plan;
    use crate::sys::spawn::tests::{endless, finish, sh, spawn};
    use crate::sys::wait::{Change, Look, wait};

    fn grouped(script: &str) -> Plan {
        let mut plan = sh(script);
        plan.setup.group = Some(0);
        plan
    }

    #[test]
    fn signals_reach_the_process_until_it_is_reaped() {
        let child = spawn(&endless()).unwrap();
        child.pidfd.signal(0).unwrap();
        child.pidfd.signal(libc::SIGKILL).unwrap();
        assert!(matches!(finish(&child).change, Change::Killed { signal: libc::SIGKILL, .. }));
        assert_eq!(child.pidfd.signal(0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_group_is_reached_after_its_leader_is_gone() {
        crate::sys::fork::tests::in_fork(|| {
            // So that the orphan comes to us and can be reaped.
            crate::sys::process::become_subreaper().unwrap();
            if !features().group_signal {
                return;
            }
            let (reader, writer) = crate::sys::fd::pipe().unwrap();
            // The grandchild holds the pipe, tells that it is there by its parent's exit, and never ends by itself.
            let mut plan = grouped("sleep 1000 & exit 0");
            plan.setup.fds = vec![(writer.as_raw_fd(), 1)];
            let child = spawn(&plan).unwrap();
            drop(writer);
            finish(&child);
            child.pidfd.signal_group(0).unwrap();
            child.pidfd.signal_group(libc::SIGKILL).unwrap();
            let mut byte = [0];
            assert_eq!(crate::sys::fd::read(reader.as_fd(), &mut byte).unwrap(), 0);
            // Its zombie is the last of the group.
            nix::sys::wait::waitpid(None, None).unwrap();
            assert_eq!(child.pidfd.signal_group(0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        });
    }

    #[test]
    fn the_status_survives_the_reap() {
        if !features().exit_info {
            return;
        }
        let child = spawn(&sh("exit 7")).unwrap();
        crate::sys::spawn::tests::readable(child.pidfd.as_fd());
        assert_eq!(child.pidfd.exit_status().unwrap(), None, "a zombie tells nothing");
        assert!(wait(child.pidfd.as_fd(), Look::Exit { keep: false }).unwrap().is_some());
        assert_eq!(child.pidfd.exit_status().unwrap(), Some(7 << 8));
    }

    #[test]
    fn this_kernel_is_probed_right() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        let found = probe();
        let found = found.unwrap();
        assert_eq!(found & GROUP_SIGNAL != 0, version >= (6, 9), "{release}");
        assert_eq!(found & EXIT_INFO != 0, version >= (6, 15), "{release}");
    }

    #[test]
    fn an_old_kernel_can_be_pretended() {
        // In a child, because it holds for the whole program.
        crate::sys::fork::tests::in_fork(|| {
            pretend_old_kernel();
            assert!(!features().group_signal && !features().exit_info);
        });
    }
}
