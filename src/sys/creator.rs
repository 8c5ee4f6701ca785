//! Which thread creates a child.
//!
//! The signal that tells a child of its parent's death comes at the end of the *thread* that created it
//! (`PR_SET_PDEATHSIG(2const)`). So who starts a child may hand over the one step that has to be done by a thread which lives
//! as long as the program, and waits for it.

use std::io;

use libc::c_void;

use super::latch::Latch;

/// Where the process is created. Everything else that a start takes happens on the calling thread.
#[derive(Clone, Copy)]
pub(crate) enum Creator<'a> {
    /// On the calling thread.
    Here,
    /// On that which does the errand.
    Elsewhere(&'a dyn Fn(Errand) -> io::Result<()>),
}

/// What the creating thread does: with what it is given, and it sees to it that the latch is opened.
pub(super) type Act = unsafe fn(*mut c_void, *const Latch);

/// To be run by another thread, while who made it waits.
pub(crate) struct Errand {
    act: Act,
    with: *mut c_void,
    latch: *const Latch,
}

// SAFETY: `Creator::act` answers for that.
unsafe impl Send for Errand {}

impl Errand {
    pub(crate) fn run(self) {
        let (act, with, latch) = (self.act, self.with, self.latch);
        // From here on `act` answers for the latch.
        std::mem::forget(self);
        // SAFETY: `Creator::act`'s promise.
        unsafe { act(with, latch) };
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        // SAFETY: it was not run, so nobody else has opened it.
        unsafe { Latch::open(self.latch) };
    }
}

impl Creator<'_> {
    /// Calls `act(with, latch)`, and returns when the latch is open, or the child `has_left` and it should be. It may be that `act`
    /// was not called.
    ///
    /// # Errors
    /// No thread is there to do it.
    ///
    /// # Safety
    /// `act` may be called with `with` on any thread, once, while the calling thread waits; it touches neither once the latch
    /// may be open, or the child may have left.
    pub(super) unsafe fn act(self, act: Act, with: *mut c_void, has_left: &dyn Fn() -> bool) -> io::Result<()> {
        let latch = Latch::new();
        match self {
            // SAFETY: the caller's promise.
            Creator::Here => unsafe { act(with, &raw const latch) },
            Creator::Elsewhere(hand_over) => hand_over(Errand { act, with, latch: &raw const latch })?,
        }
        latch.wait(has_left);
        Ok(())
    }
}
