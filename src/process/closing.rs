//! Closing what others passed to us.
//!
//! To close a descriptor of a stranger's making may block for as long as that likes: a socket with `SO_LINGER`, a file of a
//! file system that does not answer. So it is done on callback threads. Of what was received it is one for each run, and what is
//! still to be closed is bounded: the run's socket waits while it [`is_behind`](Closing::is_behind). No other run does.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::callbacks::Callbacks;
use crate::sys;

/// So many may wait; one message brings 253 more at most (`SCM_MAX_FD`).
const MOST: usize = 64;

#[derive(Default)]
pub(super) struct Closing {
    /// Leaf lock, but for the callback queue.
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<OwnedFd>,
    /// A callback thread is closing, or on its way.
    busy: bool,
}

/// A socket to which anybody could send. What nobody has read closes with it.
pub(super) fn close(socket: Arc<OwnedFd>) {
    sys::socket::refuse_more(&socket);
    if sys::socket::is_empty(&socket) {
        return;
    }
    Callbacks::get().run(move || drop(socket));
}

impl Closing {
    pub(super) fn close(self: &Arc<Self>, passed: Vec<OwnedFd>) {
        if passed.is_empty() {
            return;
        }
        let mut queue = self.lock();
        queue.waiting.extend(passed);
        if !queue.busy {
            queue.busy = true;
            let closing = Arc::clone(self);
            Callbacks::get().run(move || while closing.close_one() {});
        }
    }

    /// Nothing more should be taken in.
    pub(super) fn is_behind(&self) -> bool {
        self.lock().waiting.len() >= MOST
    }

    /// False: nothing was left.
    fn close_one(&self) -> bool {
        let mut queue = self.lock();
        let next = queue.waiting.pop();
        queue.busy = next.is_some();
        drop(queue);
        next.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
