//! Running a closure in a forked copy of this program.
//!
//! `clone` cannot be used here: the C library's `fork` puts its own locks and thread bookkeeping in order for the
//! child, and a closure may use all of the library. That leaves the pidfd to be opened afterwards: until then the child waits, so
//! that it cannot end, and be reaped by whoever waits for all children, before we have hold of it.
//!
//! The child goes through the same [`Setup`] as one that executes a program, then says so, then runs the closure. It
//! reports through a page of shared memory and an eventfd, and the parent waits for the eventfd or the pidfd, whichever
//! comes first. Never for the end of a pipe: a copy of its writing end, leaked into another child, would stall us for
//! as long as that lives.

use std::ffi::{CString, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::creator::Creator;
use super::dumpable::Dumpable;
use super::latch::Latch;
use super::pidfd::Pidfd;
use super::process::{block_all_signals, pid, replace_environment};
use super::setup::{Halt, Handlers, Prepared, Setup, Step};
use super::spawn::{Child, Failure, reap};

/// What the exit code of a Rust program is when its main thread panics.
const PANICKED: i32 = 101;

/// A closure that may run in a forked copy of this program.
#[derive(Clone)]
pub(crate) struct Body(Arc<dyn Fn() -> i32 + Send + Sync>);

impl Body {
    /// # Safety
    /// The child is a copy of a program that may have had other threads, with their locks as they were: `body` must not
    /// wait for any of them. It must also bear to run while the original of everything it uses is in use in the parent.
    pub(crate) unsafe fn new(body: impl Fn() -> i32 + Send + Sync + 'static) -> Body {
        Body(Arc::new(body))
    }
}

/// [`fork`] of a closure that is known to be fit for it, in an environment of its own.
pub(crate) fn fork_body(
    setup: &Setup,
    environment: Vec<CString>,
    body: &Body,
    creator: Creator<'_>,
) -> Result<Child, Failure> {
    // On the heap, all of it: see `fork`.
    let (setup, body) = (Box::new(setup.clone()), body.clone());
    let mut run = Box::new(move || {
        // SAFETY: this is the child of a fork: it has one thread.
        unsafe { replace_environment(&environment) };
        (body.0)()
    });
    // SAFETY: who made the body promised that it is fit for a forked copy.
    unsafe { fork(&setup, &mut *run, creator) }
}

/// Forks; the child sets itself up, runs `body` and exits with its result, or with 101 when it panics. Returns when the
/// child is about to run `body`, or could not; then nothing is left of it. A child that is killed before that counts
/// as started; its exit tells the rest.
///
/// # Safety
/// The child is a copy of a program that may have had other threads, with their locks as they were: `body` must not
/// wait for any of them. A panic of `body` takes such locks itself (of the hook, of backtraces, of standard error), and
/// hangs if another thread was panicking at the moment of the fork. `body` must also bear to run while the original of
/// everything it uses is in use in the parent.
///
/// Where another thread creates the child, nothing that `setup` and `body` are or refer to is on the calling thread's stack: to the
/// child that is free memory, which the C library gives to the next thread.
///
/// # Errors
/// At [`Step::Create`] also when the child was killed, and reaped by someone else, before we could get hold of it.
pub(super) unsafe fn fork(
    setup: &Setup,
    body: &mut dyn FnMut() -> i32,
    creator: Creator<'_>,
) -> Result<Child, Failure> {
    let create = |error: io::Error| Failure::at(Step::Create, error);
    let report = Report::new().map_err(create)?;
    let bell = bell_beside(setup).map_err(create)?;
    let prepared = Prepared::new(setup, &[bell.as_raw_fd()], pid())?.made_by(creator);
    let dumpable = Dumpable::of_program();
    let mut copying = Box::new(Copying { prepared, report, bell, body, dumpable, pid: None });
    let place: *mut Copying<'_> = &raw mut *copying;
    // SAFETY: `Copying::make` may be called on any thread, and touches nothing once it has opened the latch.
    let made = unsafe { creator.act(Copying::make, place.cast(), &|| false) };
    made.map_err(|error| Failure::at(Step::Thread, error))?;
    let lost = Halt { step: Step::Thread, errno: libc::EAGAIN };
    let pid = copying.pid.ok_or(lost)?.map_err(|error| create(error.into()))?;
    let pidfd = Pidfd::open(pid as u32).map_err(|error| {
        abandon(pid as u32, &error);
        create(error)
    })?;
    copying.report.have_hold();
    wait_for(&copying.report, &copying.bell, &pidfd).map_err(|error| {
        // Nobody would have hold of it. (It may have ended.)
        let _ = pidfd.signal(libc::SIGKILL);
        reap(&pidfd);
        create(error)
    })?;
    match copying.report.outcome() {
        Some(Err(halt)) => {
            reap(&pidfd);
            Err(halt.into())
        }
        // None: it was killed on its way.
        Some(Ok(())) | None => Ok(Child { pid: pid as u32, pidfd }),
    }
}

/// A fork in the making.
struct Copying<'a> {
    prepared: Prepared<'a>,
    report: Report,
    bell: OwnedFd,
    body: &'a mut dyn FnMut() -> i32,
    dumpable: i32,
    pid: Option<Result<libc::pid_t, Errno>>,
}

impl Copying<'_> {
    /// # Safety
    /// `copying` is one, and nobody else's until this has opened the latch.
    unsafe fn make(copying: *mut c_void, latch: *const Latch) {
        // SAFETY: the caller's promise.
        let copying = unsafe { &mut *copying.cast::<Copying<'_>>() };
        let _blocked = block_all_signals();
        copying.prepared.heed_filter();
        // SAFETY: what the child does until the body is fit for a forked copy; for the body `fork`'s caller promises it.
        let pid = Errno::result(unsafe { libc::fork() });
        copying.pid = Some(pid);
        if pid == Ok(0) {
            // SAFETY: this is the child of a fork, all signals are blocked, and the eventfd is its own copy.
            unsafe { copying.enter() }
        }
        // SAFETY: nobody else has opened it.
        unsafe { Latch::open(latch) };
    }

    /// The child's part.
    ///
    /// # Safety
    /// As for [`Prepared::apply`]; the bell is open and of no use to anybody in this process.
    unsafe fn enter(&mut self) -> ! {
        Dumpable::put_back(self.dumpable);
        // SAFETY: the caller's promise.
        let result = unsafe { self.prepared.apply(Handlers::OfProgram) };
        self.report.tell(result);
        let one = 1_u64;
        // SAFETY: write(2) reads eight bytes of a local.
        unsafe { libc::syscall(libc::SYS_write, self.bell.as_raw_fd(), &raw const one, size_of::<u64>()) };
        let is_held = self.report.latch().wait(&|| self.prepared.is_orphaned());
        if result.is_err() || !is_held {
            // SAFETY: _exit runs no handlers and flushes nothing, which here would be copies of the parent's.
            unsafe { libc::_exit(127) };
        }
        // SAFETY: the caller's promise; the OwnedFd of it is a copy that is never dropped here.
        unsafe { libc::close(self.bell.as_raw_fd()) };
        self.report.unmap();
        let code = panic::catch_unwind(AssertUnwindSafe(&mut *self.body)).unwrap_or_else(|payload| {
            // Its drop could panic again.
            mem::forget(payload);
            PANICKED
        });
        // SAFETY: as above.
        unsafe { libc::_exit(code) }
    }
}

/// Ends a child that we have no pidfd of, because of `error`.
pub(crate) fn abandon(pid: u32, error: &io::Error) {
    // ESRCH: someone has reaped it, and the pid may be a stranger's by now. After any other error (EMFILE, ENOMEM) the
    // pidfd was not looked for, and the child is there until we wait for it.
    if error.raw_os_error() != Some(libc::ESRCH) {
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        while nix::sys::wait::waitpid(pid, None) == Err(Errno::EINTR) {}
    }
}

/// An eventfd with a number that `setup` gives to nothing else.
fn bell_beside(setup: &Setup) -> io::Result<OwnedFd> {
    setup.beside(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?.into())
}

/// Waits until the child has reported or is dead.
fn wait_for(report: &Report, bell: &OwnedFd, pidfd: &Pidfd) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        // Dead: whatever it had to report is there. Else the eventfd rang, and the report came before that.
        if fds[1].any() == Some(true) || report.outcome().is_some() {
            return Ok(());
        }
    }
}

/// A page that parent and child share.
struct Report(*mut Page);

struct Page {
    /// One of the constants below; what else is in the page is valid once this is not `PENDING`.
    state: AtomicU32,
    /// The child's, which waits for the parent to have hold of it.
    latch: Latch,
    halt: mem::MaybeUninit<Halt>,
}

const PENDING: u32 = 0;
const ENTERED: u32 = 1;
const FAILED: u32 = 2;

impl Report {
    fn new() -> io::Result<Report> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
        let page = unsafe { libc::mmap(ptr::null_mut(), size_of::<Page>(), access, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let new = Page { state: AtomicU32::new(PENDING), latch: Latch::new(), halt: mem::MaybeUninit::uninit() };
        // SAFETY: it is mapped for writing, large enough, and aligned as a page is.
        unsafe { page.cast::<Page>().write(new) };
        Ok(Report(page.cast()))
    }

    fn latch(&self) -> &Latch {
        // SAFETY: the page is mapped, see `state`.
        let latch = unsafe { &raw const (*self.0).latch };
        // SAFETY: as above, and a latch may be shared.
        unsafe { &*latch }
    }

    /// The parent's word: the child may go on.
    fn have_hold(&self) {
        // SAFETY: the page is mapped until the drop, and nobody else opens it.
        unsafe { Latch::open(self.latch()) };
    }

    fn state(&self) -> &AtomicU32 {
        // SAFETY: the page is mapped until the drop, or in the child until `unmap`, after which it asks no more.
        let state = unsafe { &raw const (*self.0).state };
        // SAFETY: as above, and an atomic may be shared.
        unsafe { &*state }
    }

    /// The child's word.
    fn tell(&self, result: Result<(), Halt>) {
        let state = match result {
            Ok(()) => ENTERED,
            Err(halt) => {
                // SAFETY: the page is mapped, see `state`.
                let place = unsafe { &raw mut (*self.0).halt };
                // SAFETY: nobody reads it before the state below is stored.
                unsafe { place.write(mem::MaybeUninit::new(halt)) };
                FAILED
            }
        };
        // Release, so that whoever sees the state sees the page.
        self.state().store(state, Ordering::Release);
    }

    /// What the child said, if anything.
    fn outcome(&self) -> Option<Result<(), Halt>> {
        match self.state().load(Ordering::Acquire) {
            PENDING => None,
            ENTERED => Some(Ok(())),
            _ => {
                // SAFETY: the page is mapped, see `state`.
                let place = unsafe { &raw const (*self.0).halt };
                // SAFETY: the child wrote it before the state, and writes it no more.
                let halt = unsafe { place.read() };
                // SAFETY: as above.
                Some(Err(unsafe { halt.assume_init() }))
            }
        }
    }

    fn unmap(&self) {
        // SAFETY: the whole of our own mapping; nobody in this process uses it after this.
        unsafe { libc::munmap(self.0.cast(), size_of::<Page>()) };
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.unmap();
    }
}

#[cfg(test)]
pub(crate) mod tests;
