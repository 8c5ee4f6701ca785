//! Starting a program, by `clone3(CLONE_VM | CLONE_PIDFD)` and `execve`.
//!
//! The child borrows our memory, and who starts it waits until it has executed its program or ended. So nothing is
//! copied, however large the parent, and the child says what went wrong by writing it down: no pipe, which a copy of
//! its writing end in some other child could keep open for ever. The pidfd comes from the same call, before anybody
//! could have reaped the child.
//!
//! The thread that makes the child need not be the one that waits ([`Creator`]), and it goes on at once: the kernel
//! itself opens the latch of who waits, at the moment when the child leaves our memory (`CLONE_CHILD_CLEARTID`, as for
//! the end of a thread). So a start costs the creating thread next to nothing, and a program on a dead file system
//! holds up nobody but its own caller.
//!
//! The price: the child must not do to our memory what the threads that go on running would notice. It runs on a stack
//! of its own, with no handler of ours (`CLONE_CLEAR_SIGHAND`), and makes nothing but raw syscalls over what was
//! prepared (see [`super::setup`]), which leave even errno alone, for that is the creating thread's.
//!
//! Sandboxes that do not know `clone3` are asked for a `vfork` in the same memory instead: the creating thread waits, and
//! the child puts the handlers away itself.
//!
//! A child that is killed before its `execve` counts as started; its exit tells the rest.

use std::ffi::{CString, c_char, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use libc::c_int;
use nix::errno::Errno;

use super::dumpable::Dumpable;
use super::event::is_readable;
use super::latch::Latch;
use super::pidfd::Pidfd;
use super::process::{block_all_signals, has_executed, pid};
use super::setup::{Halt, Handlers, Prepared};
use super::syscall::{self, CloneArgs, syscall};
use super::wait::waitid;

pub(crate) use super::creator::Creator;
pub(crate) use super::setup::{Setup, Step};

/// A program to start.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Candidates, tried in order as `execvp` does it: a missing one is passed over, and so is a forbidden one, but
    /// that is remembered; anything else ends the search.
    pub(crate) programs: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) envp: Vec<CString>,
    pub(crate) setup: Setup,
}

/// A started process. Dropping it does not reap it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: Pidfd,
}

/// Why nothing was started.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) error: io::Error,
    /// At [`Step::Exec`]: which of the candidates the error is about.
    pub(crate) program: Option<usize>,
}

impl Failure {
    pub(crate) fn at(step: Step, error: io::Error) -> Failure {
        Failure { step, error, program: None }
    }
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Failure {
        Failure::at(halt.step, io::Error::from_raw_os_error(halt.errno))
    }
}

/// Starts the program of `plan`, and returns when it runs or could not be started; then nothing is left of the child.
pub(crate) fn spawn(plan: &Plan, creator: Creator<'_>) -> Result<Child, Failure> {
    let argv = pointers(&plan.argv);
    let envp = pointers(&plan.envp);
    let stack = Stack::take()?;
    let born = Born::default();
    let mut task = Task {
        prepared: Prepared::new(&plan.setup, &[], pid())?.made_by(creator),
        programs: &plan.programs,
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        stack: stack.lowest(),
        handlers: Handlers::None,
        born: &born,
        halt: None,
        program: None,
    };
    {
        let _kept = Dumpable::keep(&plan.setup);
        let place = &raw mut task;
        // SAFETY: `make` may be called on any thread, and touches nothing once there may be a child.
        let made = unsafe { creator.act(make, place.cast(), &|| born.has_left()) };
        made.map_err(|error| Failure::at(Step::Thread, error))?;
    }
    let Some((pid, pidfd)) = born.child() else {
        return Err(task.halt.unwrap_or(Halt { step: Step::Thread, errno: libc::EAGAIN }).into());
    };
    stack.give_back();
    // SAFETY: the kernel made the descriptor for us, close-on-exec, together with the child.
    let pidfd = Pidfd::from(unsafe { OwnedFd::from_raw_fd(pidfd) });
    match task.halt {
        None => Ok(Child { pid, pidfd }),
        Some(halt) => {
            reap(&pidfd);
            Err(Failure { program: task.program, ..halt.into() })
        }
    }
}

/// Takes the status of a child that has ended or is about to.
pub(crate) fn reap(pidfd: &Pidfd) {
    // ECHILD is fine: then somebody's waitpid(-1), or SIGCHLD being ignored, was faster.
    let _ = waitid(pidfd.as_fd(), libc::WEXITED | libc::__WALL);
}

/// Everything that a child needs and tells. It belongs to who waits for its latch.
struct Task<'a> {
    prepared: Prepared<'a>,
    programs: &'a [CString],
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// [`STACK_SIZE`] bytes from here.
    stack: *mut c_void,
    handlers: Handlers,
    born: &'a Born,
    halt: Option<Halt>,
    program: Option<usize>,
}

/// What the kernel writes of a child before it runs.
#[derive(Default)]
struct Born {
    /// Not 0: there is a child.
    pid: AtomicI32,
    /// Good once there is a child; written, too, by a call that fails afterwards.
    pidfd: AtomicI32,
    /// Whoever makes the child waits for it as well, and opens the latch: nobody else may take it for open.
    is_waited_for: AtomicBool,
}

impl Born {
    fn child(&self) -> Option<(u32, RawFd)> {
        match self.pid.load(Ordering::Acquire) {
            0 => None,
            pid => Some((pid as u32, self.pidfd.load(Ordering::Relaxed))),
        }
    }

    /// Whether there is a child that is not in our memory any more; see [`Latch`].
    fn has_left(&self) -> bool {
        let child = self.child().filter(|_| !self.is_waited_for.load(Ordering::Relaxed));
        child.is_some_and(|(pid, pidfd)| {
            // SAFETY: it is the child's, and closed only after this wait.
            let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd) };
            is_readable(pidfd) || has_executed(pid) == Some(true)
        })
    }
}

/// The kernel has no `clone3` for us.
static NO_CLONE3: AtomicBool = AtomicBool::new(false);

#[cfg(any(test, feature = "_testing"))]
pub(crate) fn pretend_no_clone3() {
    NO_CLONE3.store(true, Ordering::Relaxed);
}

/// Makes the child, which opens the latch when it leaves our memory. By the time that it is made, it may have done so.
///
/// # Safety
/// `task` is a [`Task`], and nobody else's until the latch is open or the child has left.
unsafe fn make(task: *mut c_void, latch: *const Latch) {
    let place = task.cast::<Task<'_>>();
    let _blocked = block_all_signals();
    // SAFETY: the caller's promise.
    unsafe { &mut *place }.prepared.heed_filter();
    if !NO_CLONE3.load(Ordering::Relaxed) {
        // SAFETY: the caller's promise.
        let args = unsafe { &*place }.clone_args(latch);
        // SAFETY: `args` are good; the task outlives the child's stay in our memory, because its owner waits for that; all
        // signals are blocked; `run` does not return and makes raw syscalls only.
        match unsafe { syscall::clone3(&args, run, task) } {
            Ok(_) => return,
            // Unknown to the kernel or to a sandbox (those say EPERM, too), or CLONE_CLEAR_SIGHAND is.
            Err(libc::ENOSYS | libc::EPERM | libc::EINVAL) => NO_CLONE3.store(true, Ordering::Relaxed),
            Err(errno) => {
                // SAFETY: there is no child, and so it is still ours.
                unsafe { &mut *place }.halt = Some(Halt { step: Step::Create, errno });
                // SAFETY: as above.
                return unsafe { Latch::open(latch) };
            }
        }
    }
    // SAFETY: the caller's promise, and all signals are blocked.
    unsafe { vfork(place) };
    // SAFETY: the child is gone from our memory, and nobody else has opened it.
    unsafe { Latch::open(latch) };
}

/// Makes the child, and waits until it has left our memory.
///
/// # Safety
/// The task is there and nobody else's. All signals are blocked.
unsafe fn vfork(task: *mut Task<'_>) {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the caller's promise.
    let before = unsafe { &mut *task };
    before.handlers = Handlers::All;
    let top = before.stack.wrapping_byte_add(STACK_SIZE);
    let born = before.born;
    born.is_waited_for.store(true, Ordering::Relaxed);
    // SAFETY: the stack is nobody else's, large enough and grows down from its top; the task outlives the child's stay
    // in our memory; CLONE_PIDFD writes one int.
    let pid = unsafe { libc::clone(run, top, flags, task.cast(), born.pidfd.as_ptr()) };
    if pid > 0 {
        born.pid.store(pid, Ordering::Release);
    } else {
        let errno = Errno::last_raw();
        // SAFETY: there is no child, and so it is still ours.
        unsafe { &mut *task }.halt = Some(Halt { step: Step::Create, errno });
    }
}

/// Where the child begins. Never unwinds: nothing in it panics.
extern "C" fn run(task: *mut c_void) -> c_int {
    // SAFETY: `make` passes a task, and nobody touches it until this process is gone from its memory.
    let task = unsafe { &mut *task.cast::<Task<'_>>() };
    // SAFETY: this is the child of a clone without CLONE_FILES, CLONE_FS and CLONE_SIGHAND, with all signals blocked.
    task.halt = unsafe { task.start() };
    loop {
        // SAFETY: this runs no handlers and flushes nothing, which here would be the parent's.
        let _ = unsafe { syscall!(libc::SYS_exit_group, 127) };
    }
}

impl Task<'_> {
    fn clone_args(&self, latch: *const Latch) -> CloneArgs {
        let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_CLEARTID;
        let (pid, pidfd) = (self.born.pid.as_ptr(), self.born.pidfd.as_ptr());
        CloneArgs {
            flags: flags as u64 | syscall::CLEAR_SIGHAND,
            pidfd: pidfd.expose_provenance() as u64,
            child_tid: latch.expose_provenance() as u64,
            parent_tid: pid.expose_provenance() as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: self.stack.expose_provenance() as u64,
            stack_size: STACK_SIZE as u64,
            tls: 0,
        }
    }

    /// Returns only when it failed. No allocation, drop, lock or panic: see [`super::setup`].
    ///
    /// # Safety
    /// As for [`Prepared::apply`]; `argv` and `envp` end in null.
    unsafe fn start(&mut self) -> Option<Halt> {
        // SAFETY: the caller's promise.
        if let Err(halt) = unsafe { self.prepared.apply(self.handlers) } {
            return Some(halt);
        }
        let mut forbidden = None;
        let mut last = Halt { step: Step::Exec, errno: libc::ENOENT };
        for (index, program) in self.programs.iter().enumerate() {
            // SAFETY: execve(2) reads a string that ends in NUL and two arrays that end in null.
            if let Err(errno) = unsafe { syscall!(libc::SYS_execve, program.as_ptr(), self.argv, self.envp) } {
                last.errno = errno;
            }
            self.program = Some(index);
            match last.errno {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => forbidden = forbidden.or(Some(index)),
                _ => return Some(last),
            }
        }
        if forbidden.is_some() {
            last.errno = libc::EACCES;
            self.program = forbidden;
        }
        Some(last)
    }
}

/// What `execve` wants: pointers, and a null at the end.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// The child's stack: pages of its own, with some below that trap an overflow. A few are kept for the next starts.
struct Stack(*mut c_void);

/// Far more than the child's few small frames need; pages never touched cost nothing.
const STACK_SIZE: usize = 64 * 1024;
/// The largest page size of the platforms that we support.
const GUARD_SIZE: usize = 64 * 1024;

/// Stacks that nobody uses, or null. No lock, for a fork of the program could copy that while it is held.
static SPARES: [AtomicPtr<c_void>; 4] = [const { AtomicPtr::new(ptr::null_mut()) }; 4];

impl Stack {
    fn take() -> Result<Stack, Halt> {
        // Acquire: what the last child wrote to it must not overtake what ours writes.
        let mut spares = SPARES.iter().map(|spare| spare.swap(ptr::null_mut(), Ordering::Acquire));
        spares.find(|spare| !spare.is_null()).map_or_else(Stack::map, |spare| Ok(Stack(spare)))
    }

    fn map() -> Result<Stack, Halt> {
        let failed = || Halt { step: Step::Create, errno: Errno::last_raw() };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
        let base = unsafe { libc::mmap(ptr::null_mut(), GUARD_SIZE + STACK_SIZE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(failed());
        }
        let stack = Stack(base);
        // SAFETY: this is the upper part of the mapping just made, which nobody uses.
        match unsafe { libc::mprotect(stack.lowest(), STACK_SIZE, libc::PROT_READ | libc::PROT_WRITE) } {
            0 => Ok(stack),
            _ => Err(failed()),
        }
    }

    /// Of its [`STACK_SIZE`] bytes.
    fn lowest(&self) -> *mut c_void {
        self.0.wrapping_byte_add(GUARD_SIZE)
    }

    /// Keeps it for a next start, or unmaps it when enough are kept already. Only once the child has left it.
    fn give_back(self) {
        let keep = |spare: &AtomicPtr<c_void>| {
            spare.compare_exchange(ptr::null_mut(), self.0, Ordering::Release, Ordering::Relaxed).is_ok()
        };
        if SPARES.iter().any(keep) {
            std::mem::forget(self);
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole of a mapping that only this value knows, and the child is not on it any more.
        unsafe { libc::munmap(self.0, GUARD_SIZE + STACK_SIZE) };
    }
}

#[cfg(test)]
pub(super) mod tests;
