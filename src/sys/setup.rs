//! What a new process does to itself before it runs its program or its function.
//!
//! A child that is to execute a program borrows the memory of its parent while threads of the parent go on; one made by
//! `fork` of a threaded program has a copy of locks that nobody will ever release. In both, one may hardly do
//! anything: no allocation, no drop, no lock, no panic, no formatting. So the work is cut in two. [`Prepared::new`]
//! runs in the parent and allocates all that is needed; [`Prepared::apply`] runs in the child, walks over it and makes
//! nothing but syscalls.
//!
//! The syscalls are raw. For `setuid` and its like that is a must: the C library's wrappers signal every thread of the
//! process, and in a borrowed memory "the process" is, as far as the library can tell, the parent. For the rest it keeps errno,
//! cancellation points and lazily bound library state out of the child.
//!
//! The order of the steps matters: the cgroup first, so that all that follows is accounted there; limits, nice and
//! groups while we still may; the uid after them; the parent-death signal after the uid, because the kernel clears it
//! on a change of credentials; the signal mask last, because from then on signals are delivered.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::c_int;

use self::descriptors::Descriptors;
use super::affinity::{self, Cores};
use super::creator::Creator;
use super::process::FIRST_OF_LIBRARY;
use super::syscall::syscall;

/// What a child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "tasks", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Step {
    /// Finding a thread to make it on.
    Thread,
    /// Asking the fork server for it.
    #[cfg(feature = "tasks")]
    Server,
    /// Making the process itself; nothing ran in the child.
    Create,
    Cgroup,
    Session,
    Group,
    /// Giving a descriptor the number named here.
    Descriptor(i32),
    CloseDescriptors,
    Umask,
    Directory,
    Nice,
    Cores,
    /// Setting the limit of the resource named here (`RLIMIT_*`).
    Limit(i32),
    Groups,
    Gid,
    Uid,
    NoNewPrivs,
    ParentDeath,
    Signals,
    Exec,
}

/// What a child changes about itself; the default changes nothing but its signals.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "tasks", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Setup {
    /// An open `cgroup.procs` to which the child writes itself.
    pub(crate) cgroup: Option<RawFd>,
    /// Lead a new session, and so a new group.
    pub(crate) session: bool,
    /// Join this process group; `Some(0)` leads one of its own. A new session implies a group, and this is ignored.
    pub(crate) group: Option<i32>,
    /// (source in the parent, number in the child), in any order, with any overlap. 0, 1 and 2 are inherited when they
    /// are not mentioned.
    pub(crate) fds: Vec<(RawFd, i32)>,
    /// Close everything but 0, 1, 2 and the numbers given by `fds`.
    pub(crate) close_others: bool,
    pub(crate) directory: Option<CString>,
    pub(crate) umask: Option<u32>,
    /// The nice value itself, not a difference.
    pub(crate) nice: Option<i32>,
    pub(crate) cores: Option<Vec<usize>>,
    /// (`RLIMIT_*`, soft, hard).
    pub(crate) limits: Vec<(i32, u64, u64)>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) gid: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) no_new_privs: bool,
    /// The signal that the death of the creating thread sends.
    pub(crate) parent_death: Option<i32>,
    /// The child's signal mask: bit n-1 blocks signal n.
    pub(crate) signal_mask: u64,
}

impl Setup {
    /// The same descriptor, with a number that is given to nothing else.
    pub(crate) fn beside(&self, mut fd: OwnedFd) -> io::Result<OwnedFd> {
        while self.fds.iter().any(|&(_, target)| target == fd.as_raw_fd()) {
            let lowest = fd.as_raw_fd().saturating_add(1);
            let next = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
            // SAFETY: fcntl has just made it, and nobody else knows it.
            fd = unsafe { OwnedFd::from_raw_fd(next) };
        }
        Ok(fd)
    }
}

/// Where and with which errno a child stopped. `Copy`, so that nothing in the child has a destructor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Halt {
    pub(super) step: Step,
    pub(super) errno: i32,
}

/// Which signal handlers of this program a child has, to take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handlers {
    /// The kernel did it.
    None,
    /// All but those of the C library, which is used on: it asks all threads by signal to change their user, and thinks that its
    /// handler is there since it made its first thread.
    OfProgram,
    All,
}

/// A [`Setup`] with everything allocated that the child needs.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    setup: &'a Setup,
    /// As the child will see it in getppid().
    parent: usize,
    descriptors: Descriptors,
    cores: Option<Run>,
}

/// Where a child runs, if not where its creating thread does.
#[derive(Debug)]
enum Run {
    On(Cores),
    /// As its caller.
    LikeCaller(Cores),
}

impl<'a> Prepared<'a> {
    /// Allocates for `setup`; `keep` are descriptors that `close_others` leaves open, for the caller's own use; `parent` is the child's.
    pub(super) fn new(setup: &'a Setup, keep: &[RawFd], parent: u32) -> Result<Prepared<'a>, Halt> {
        let cores = match &setup.cores {
            Some(cores) => Some(Run::On(Cores::of(cores).ok_or(Halt { step: Step::Cores, errno: libc::EINVAL })?)),
            None => None,
        };
        Ok(Prepared {
            setup,
            parent: parent as usize,
            descriptors: Descriptors::new(&setup.fds, setup.close_others, keep),
            cores,
        })
    }

    /// The thread that makes the child may be bound to one processor; the child is not to be, unless the calling thread is.
    pub(super) fn made_by(mut self, creator: Creator<'_>) -> Prepared<'a> {
        if matches!(creator, Creator::Elsewhere(_)) && self.cores.is_none() && affinity::may_be_set() {
            self.cores = Cores::of_this_thread().map(Run::LikeCaller);
        }
        self
    }

    /// Called on the thread that makes the child: that gets its seccomp filter as well.
    pub(super) fn heed_filter(&mut self) {
        self.cores.take_if(|run| matches!(run, Run::LikeCaller(_)) && !affinity::may_be_set());
    }

    /// Does it all, in the child.
    ///
    /// # Safety
    /// Only in a child that may change: one made by `fork`, or by `clone` without `CLONE_FILES`, `CLONE_FS` and
    /// `CLONE_SIGHAND`. All signals must be blocked; they are not any more when this returns. The child has no handlers but those
    /// that `handlers` tells of.
    pub(super) unsafe fn apply(&mut self, handlers: Handlers) -> Result<(), Halt> {
        // SAFETY: each of these asks for what this function asks for.
        unsafe { self.join() }?;
        // SAFETY: as above.
        unsafe { self.descriptors.place() }?;
        // SAFETY: as above.
        unsafe { self.descriptors.close_others() }?;
        // SAFETY: as above.
        unsafe { self.surroundings() }?;
        // SAFETY: as above.
        unsafe { self.credentials() }?;
        // SAFETY: as above.
        unsafe { self.parent_death() }?;
        // SAFETY: as above, and all signals are blocked.
        unsafe { self.signals(handlers) }
    }

    /// Cgroup, session and group.
    unsafe fn join(&self) -> Result<(), Halt> {
        if let Some(fd) = self.setup.cgroup {
            let zero: *const u8 = b"0".as_ptr();
            // SAFETY: write(2) reads one byte of a static.
            check(Step::Cgroup, unsafe { syscall!(libc::SYS_write, fd, zero, 1_usize) })?;
        }
        if self.setup.session {
            // SAFETY: setsid(2) takes no argument and concerns this process only.
            check(Step::Session, unsafe { syscall!(libc::SYS_setsid) })?;
        } else if let Some(group) = self.setup.group {
            // SAFETY: setpgid(2) takes numbers only.
            check(Step::Group, unsafe { syscall!(libc::SYS_setpgid, 0, group) })?;
        }
        Ok(())
    }

    /// Umask, directory, nice value, cores and limits.
    unsafe fn surroundings(&self) -> Result<(), Halt> {
        if let Some(umask) = self.setup.umask {
            // SAFETY: umask(2) takes a number and cannot fail.
            check(Step::Umask, unsafe { syscall!(libc::SYS_umask, umask) })?;
        }
        if let Some(directory) = &self.setup.directory {
            // SAFETY: chdir(2) reads a string that ends in NUL, which a CString does.
            check(Step::Directory, unsafe { syscall!(libc::SYS_chdir, directory.as_ptr()) })?;
        }
        if let Some(nice) = self.setup.nice {
            // SAFETY: setpriority(2) takes numbers only; 0 means this process.
            check(Step::Nice, unsafe { syscall!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice) })?;
        }
        match &self.cores {
            Some(Run::On(cores)) => check(Step::Cores, cores.bind())?,
            Some(Run::LikeCaller(cores)) => cores.restore(),
            None => {}
        }
        for &(resource, soft, hard) in &self.setup.limits {
            let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
            let old: *mut libc::rlimit64 = ptr::null_mut();
            // SAFETY: prlimit64(2) reads one rlimit64, and writes no old one when that pointer is null.
            let result = unsafe { syscall!(libc::SYS_prlimit64, 0, resource, &raw const limit, old) };
            check(Step::Limit(resource), result)?;
        }
        Ok(())
    }

    /// Groups, gid and uid, in this order: the later ones take away the right to the earlier ones.
    unsafe fn credentials(&self) -> Result<(), Halt> {
        if let Some(groups) = &self.setup.groups {
            // SAFETY: setgroups(2) reads as many 32-bit numbers as it is told.
            let result = unsafe { syscall!(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
            check(Step::Groups, result)?;
        }
        if let Some(gid) = self.setup.gid {
            // SAFETY: setresgid(2) takes numbers only.
            check(Step::Gid, unsafe { syscall!(libc::SYS_setresgid, gid, gid, gid) })?;
        }
        if let Some(uid) = self.setup.uid {
            // SAFETY: setresuid(2) takes numbers only.
            check(Step::Uid, unsafe { syscall!(libc::SYS_setresuid, uid, uid, uid) })?;
        }
        if self.setup.no_new_privs {
            // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers only.
            let result = unsafe { syscall!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            check(Step::NoNewPrivs, result)?;
        }
        Ok(())
    }

    /// Asks for the signal, then looks whether the parent died before the kernel knew that we care.
    unsafe fn parent_death(&self) -> Result<(), Halt> {
        let Some(signal) = self.setup.parent_death else { return Ok(()) };
        // SAFETY: PR_SET_PDEATHSIG takes a number.
        check(Step::ParentDeath, unsafe { syscall!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal) })?;
        if self.is_orphaned() {
            // SAFETY: getpid(2) cannot fail.
            let me = check(Step::ParentDeath, unsafe { syscall!(libc::SYS_getpid) })?;
            // What the kernel would have done a moment later. It is pending until the mask is set, as that would be.
            // SAFETY: kill(2) takes numbers only, and this pid is ours.
            check(Step::ParentDeath, unsafe { syscall!(libc::SYS_kill, me, signal) })?;
        }
        Ok(())
    }

    /// Whether the parent is gone. One in a pid namespace that we do not see cannot be told of.
    pub(super) fn is_orphaned(&self) -> bool {
        // SAFETY: getppid(2) cannot fail.
        let parent = unsafe { syscall!(libc::SYS_getppid) };
        parent.is_ok_and(|parent| parent != self.parent && parent != 0)
    }

    /// Handlers to their default, then the mask: the other way round a pending signal would run a handler of the
    /// parent, in the parent's memory.
    unsafe fn signals(&self, handlers: Handlers) -> Result<(), Halt> {
        // Ignored stays ignored (nohup), but Rust programs ignore SIGPIPE without having been asked.
        // SAFETY: the caller's promise.
        unsafe { set_default(libc::SIGPIPE) }?;
        // SAFETY: the caller's promise.
        unsafe { remove_handlers(handlers) }?;
        let mask = self.setup.signal_mask;
        let old: *mut u64 = ptr::null_mut();
        // SAFETY: rt_sigprocmask(2) reads the eight bytes it is told about.
        let result =
            unsafe { syscall!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, old, size_of::<u64>()) };
        check(Step::Signals, result).map(drop)
    }
}

/// # Safety
/// As for [`Prepared::apply`].
unsafe fn remove_handlers(handlers: Handlers) -> Result<(), Halt> {
    let kept = match handlers {
        Handlers::None => return Ok(()),
        Handlers::OfProgram => FIRST_OF_LIBRARY..libc::SIGRTMIN(),
        Handlers::All => 0..0,
    };
    let has_one = |signal: &c_int| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP) && !kept.contains(signal);
    for signal in (1..=LAST_SIGNAL).filter(has_one) {
        let mut action = KernelAction::DEFAULT;
        let none: *const KernelAction = ptr::null();
        // SAFETY: rt_sigaction(2) writes one kernel sigaction, which KernelAction is at least as large as.
        let result = unsafe { syscall!(libc::SYS_rt_sigaction, signal, none, &raw mut action, size_of::<u64>()) };
        check(Step::Signals, result)?;
        if !matches!(action.handler, libc::SIG_DFL | libc::SIG_IGN) {
            // SAFETY: the caller's promise.
            unsafe { set_default(signal) }?;
        }
    }
    Ok(())
}

/// # Safety
/// As for [`Prepared::apply`].
unsafe fn set_default(signal: c_int) -> Result<(), Halt> {
    let default = KernelAction::DEFAULT;
    let old: *mut KernelAction = ptr::null_mut();
    // SAFETY: rt_sigaction(2) reads one kernel sigaction; all zero is valid and means the default.
    let result = unsafe { syscall!(libc::SYS_rt_sigaction, signal, &raw const default, old, size_of::<u64>()) };
    check(Step::Signals, result).map(drop)
}

/// The kernel's `_NSIG`, which counts the two that the C library keeps for itself.
const LAST_SIGNAL: c_int = 64;

/// The kernel's `struct sigaction`, not the C library's. The handler comes first wherever we run.
#[repr(C)]
struct KernelAction {
    handler: libc::sighandler_t,
    flags: u64,
    restorer: usize,
    mask: u64,
}

impl KernelAction {
    const DEFAULT: KernelAction = KernelAction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
}

/// A syscall's result, or the step with errno.
pub(super) fn check<T>(step: Step, result: Result<T, i32>) -> Result<T, Halt> {
    result.map_err(|errno| Halt { step, errno })
}

mod descriptors;
#[cfg(test)]
mod tests;
