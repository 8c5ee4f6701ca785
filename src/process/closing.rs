//! Closing what others passed to us.
//!
//! To close a descriptor of a stranger's making may block for as long as that likes: a socket with `SO_LINGER`, a file of a
//! file system that does not answer. So it is done on a callback thread, by one of them for all, and what is still to be
//! closed is bounded: who listens to a socket waits while it [`is_behind`].

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::callbacks::Callbacks;
use crate::sys;

/// So many may wait; one message brings 253 more at most (`SCM_MAX_FD`).
const MOST: usize = 64;

#[derive(Default)]
struct Closing {
    waiting: Vec<OwnedFd>,
    /// A callback thread is closing, or on its way.
    busy: bool,
}

pub(super) fn close(passed: Vec<OwnedFd>) {
    if passed.is_empty() {
        return;
    }
    let mut closing = lock();
    closing.waiting.extend(passed);
    if !closing.busy {
        closing.busy = true;
        Callbacks::get().run(|| while close_one() {});
    }
}

/// Nothing more should be taken in.
pub(super) fn is_behind() -> bool {
    lock().waiting.len() >= MOST
}

/// False: nothing was left.
fn close_one() -> bool {
    let mut closing = lock();
    let next = closing.waiting.pop();
    closing.busy = next.is_some();
    drop(closing);
    if let Some(fd) = &next {
        sys::socket::forget_linger(fd);
    }
    next.is_some()
}

fn lock() -> MutexGuard<'static, Closing> {
    /// Leaf lock, but for the callback queue.
    static CLOSING: sys::PerProcess<Mutex<Closing>> = sys::PerProcess::new();
    CLOSING.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}
