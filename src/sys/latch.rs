//! A word on which one thread waits, and which the kernel may open.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

const OPEN: u32 = 0;
const CLOSED: u32 = 1;

/// 20 ms.
static NOW_AND_THEN: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Opened once, by [`Latch::open`], or by the kernel when a child that was made with this as `CLONE_CHILD_CLEARTID` leaves our
/// memory: at its `execve` or its end. The kernel does its best, no more: it neither writes nor wakes where the page is not there for
/// writing (a fork has just made it copy-on-write) and the fault fails, because a signal is about to kill the child or there is no
/// memory. So who waits looks for itself now and then.
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

    /// Waits until it is open; or until whoever should open it `has_left`, which is asked now and then: false.
    pub(super) fn wait(&self, has_left: &dyn Fn() -> bool) -> bool {
        while self.0.load(Ordering::Acquire) != OPEN {
            // SAFETY: FUTEX_WAIT reads the word, which is ours, and the time.
            let woken = unsafe {
                libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, CLOSED, &raw const NOW_AND_THEN)
            };
            // EAGAIN: it was opened in between. EINTR: a signal.
            if woken == -1 && Errno::last() == Errno::ETIMEDOUT && has_left() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_woken_looks_for_himself() {
        assert!(!Latch::new().wait(&|| true));
        let latch = Latch::new();
        let asked = std::cell::Cell::new(0);
        let opened = latch.wait(&|| {
            asked.set(asked.get() + 1);
            // As the kernel does, when it can clear the word and cannot wake.
            latch.0.store(OPEN, Ordering::Release);
            false
        });
        assert_eq!((opened, asked.get()), (true, 1));
    }
}
