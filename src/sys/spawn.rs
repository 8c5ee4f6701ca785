//! Starting a program, by `clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD)` and `execve`.
//!
//! The child borrows our memory and this thread waits until it has executed its program or ended. So nothing is copied,
//! however large the parent, and the child says what went wrong by writing it down: no pipe, which a copy of its
//! writing end in some other child could keep open for ever. The pidfd comes from the same call, before anybody could
//! have reaped the child.
//!
//! The price: the child must not do to our memory what the threads that go on running would notice. It runs on a stack
//! of its own, all signals are blocked around it, so that no handler of ours runs in it, and it makes nothing but raw
//! syscalls over what was prepared (see [`super::setup`]). Errno is this thread's own, and the thread waits.
//!
//! A child that is killed before its `execve` counts as started; its exit tells the rest.

use std::ffi::{CString, c_char, c_void};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;

use super::per_process::PerProcess;
use super::pidfd::Pidfd;
use super::process::block_all_signals;
use super::setup::{Halt, Prepared, check, errno};
use super::wait::waitid;

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

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Failure {
        Failure { step: halt.step, error: io::Error::from_raw_os_error(halt.errno), program: None }
    }
}

/// Starts the program of `plan`, and returns when it runs or could not be started; then nothing is left of the child.
pub(crate) fn spawn(plan: &Plan) -> Result<Child, Failure> {
    let argv = pointers(&plan.argv);
    let envp = pointers(&plan.envp);
    let stack = Stack::take()?;
    let mut task = Task {
        prepared: Prepared::new(&plan.setup, None)?,
        programs: &plan.programs,
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        halt: None,
        program: None,
    };
    let cloned = {
        let _kept = Dumpable::keep(&plan.setup);
        clone(&stack, &raw mut task)
    };
    let (pid, fd) = cloned?;
    stack.give_back();
    // SAFETY: the kernel made the descriptor for us, close-on-exec, together with the child.
    let pidfd = Pidfd::from(unsafe { OwnedFd::from_raw_fd(fd) });
    match task.halt {
        None => Ok(Child { pid: pid as u32, pidfd }),
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

/// Puts back what a child's change of credentials does to the memory that it borrows: the kernel marks it as not
/// dumpable (`PR_SET_DUMPABLE(2const)`), and ours it stays. From then on this program would leave no core, its
/// `/proc/self` would be root's, and no debugger of its user could attach.
///
/// Only once no such child is left in our memory: until then the mark is what keeps the child's new user from attaching to
/// it, and so to us.
struct Dumpable;

#[derive(Default)]
struct Borrowed {
    by: usize,
    /// Before the first of them.
    was_dumpable: bool,
}

/// Leaf lock. Of one process: a fork could copy it while it is held.
static BORROWED: PerProcess<Mutex<Borrowed>> = PerProcess::new();

impl Dumpable {
    fn keep(setup: &Setup) -> Option<Dumpable> {
        if setup.uid.is_none() && setup.gid.is_none() {
            return None;
        }
        let mut borrowed = Dumpable::lock();
        if borrowed.by == 0 {
            borrowed.was_dumpable = nix::sys::prctl::get_dumpable() == Ok(true);
        }
        borrowed.by += 1;
        Some(Dumpable)
    }

    fn lock() -> MutexGuard<'static, Borrowed> {
        BORROWED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut borrowed = Dumpable::lock();
        borrowed.by -= 1;
        if borrowed.by == 0 && borrowed.was_dumpable {
            // It fails only for a wrong value.
            let _ = nix::sys::prctl::set_dumpable(true);
        }
    }
}

/// Everything that the child needs and tells.
struct Task<'a> {
    prepared: Prepared<'a>,
    programs: &'a [CString],
    argv: *const *const c_char,
    envp: *const *const c_char,
    halt: Option<Halt>,
    program: Option<usize>,
}

/// Makes the child and waits until it has left our memory. Returns pid and pidfd.
fn clone(stack: &Stack, task: *mut Task<'_>) -> Result<(c_int, c_int), Halt> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    let _blocked = block_all_signals();
    // SAFETY: the stack is nobody else's, large enough and grows down from its top; `task` outlives the child's stay in
    // our memory, because this thread goes on only then; all signals are blocked; CLONE_PIDFD writes one int.
    let pid = unsafe { libc::clone(run, stack.top(), flags, task.cast(), &raw mut pidfd) };
    check(Step::Create, pid.into())?;
    Ok((pid, pidfd))
}

/// Where the child begins. Never unwinds: nothing in it panics.
extern "C" fn run(task: *mut c_void) -> c_int {
    // SAFETY: `clone` above passes a task, and touches it no more until this process is gone from its memory.
    let task = unsafe { &mut *task.cast::<Task<'_>>() };
    // SAFETY: this is the child of a clone without CLONE_FILES, CLONE_FS and CLONE_SIGHAND, with all signals blocked.
    task.halt = unsafe { task.start() };
    // SAFETY: _exit runs no handlers and flushes nothing, which here would be the parent's.
    unsafe { libc::_exit(127) }
}

impl Task<'_> {
    /// Returns only when it failed. No allocation, drop, lock or panic: see [`super::setup`].
    ///
    /// # Safety
    /// As for [`Prepared::apply`]; `argv` and `envp` end in null.
    unsafe fn start(&mut self) -> Option<Halt> {
        // SAFETY: the caller's promise.
        if let Err(halt) = unsafe { self.prepared.apply() } {
            return Some(halt);
        }
        let mut forbidden = None;
        let mut last = Halt { step: Step::Exec, errno: libc::ENOENT };
        for (index, program) in self.programs.iter().enumerate() {
            // SAFETY: execve(2) reads a string that ends in NUL and two arrays that end in null.
            unsafe { libc::syscall(libc::SYS_execve, program.as_ptr(), self.argv, self.envp) };
            last.errno = errno();
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

/// The child's stack: pages of its own, with one below that traps an overflow. One is kept for the next start.
struct Stack(*mut c_void);

/// Far more than the child's few small frames need; pages never touched cost nothing.
const STACK_SIZE: usize = 64 * 1024;
/// The largest page size of the platforms that we support.
const GUARD_SIZE: usize = 64 * 1024;

/// A stack that nobody uses, or null. No lock, for a fork of the program could copy that while it is held.
static SPARE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

impl Stack {
    fn take() -> Result<Stack, Halt> {
        // Acquire: what the last child wrote to it must not overtake what ours writes.
        let spare = SPARE.swap(ptr::null_mut(), Ordering::Acquire);
        if spare.is_null() { Stack::map() } else { Ok(Stack(spare)) }
    }

    fn map() -> Result<Stack, Halt> {
        let failed = || Halt { step: Step::Create, errno: errno() };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
        let base = unsafe { libc::mmap(ptr::null_mut(), GUARD_SIZE + STACK_SIZE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(failed());
        }
        let stack = Stack(base);
        let usable = base.wrapping_byte_add(GUARD_SIZE);
        // SAFETY: this is the upper part of the mapping just made, which nobody uses.
        match unsafe { libc::mprotect(usable, STACK_SIZE, libc::PROT_READ | libc::PROT_WRITE) } {
            0 => Ok(stack),
            _ => Err(failed()),
        }
    }

    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(GUARD_SIZE + STACK_SIZE)
    }

    /// Keeps it for the next start, or unmaps it when one is kept already. Only once the child has left it.
    fn give_back(self) {
        let kept = SPARE.compare_exchange(ptr::null_mut(), self.0, Ordering::Release, Ordering::Relaxed);
        if kept.is_ok() {
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
