//! A word on which one thread waits, and which the kernel may open.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

const OPEN: u32 = 0;
const CLOSED: u32 = 1;

/// Opened once, by [`Latch::open`], or by the kernel when a child that was made with this as `CLONE_CHILD_CLEARTID` leaves our
/// memory: at its `execve` or its end.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Latch(AtomicU32);

impl Latch {
    pub(super) fn new() -> Latch {
        Latch(AtomicU32::new(CLOSED))
    }

    /// # Safety
    /// It is still there: nobody has opened it yet.
    pub(super) unsafe fn open(latch: *const Latch) {
        // SAFETY: the caller's promise.
        unsafe { (*latch).0.store(OPEN, Ordering::Release) };
        // From here on it may be gone. To wake whoever waits at this address by now does no harm: all who wait on a futex must
        // bear it (futex(2)).
        // SAFETY: FUTEX_WAKE does not read the word. Not a private one, as the kernel's own is not.
        let _ = unsafe { libc::syscall(libc::SYS_futex, latch, libc::FUTEX_WAKE, 1) };
    }

    pub(super) fn wait(&self) {
        while self.0.load(Ordering::Acquire) != OPEN {
            let forever: *const libc::timespec = ptr::null();
            // EAGAIN: it was opened in between. EINTR: a signal.
            // SAFETY: FUTEX_WAIT reads the word, which is ours.
            let _ = unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, CLOSED, forever) };
        }
    }
}
