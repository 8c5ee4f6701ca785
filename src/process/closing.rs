//! Closing what others passed to us.
//!
//! To close a descriptor of a stranger's making may block for as long as that likes: a socket with `SO_LINGER`, a file of a
//! file system that does not answer. So it is done on callback threads. Of what was received it is one for each run, and what is
//! still to be closed is bounded: the run's socket waits while it [`is_behind`](Closing::is_behind). No other run does.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::callbacks::{Callbacks, InOrder};
use crate::sys;

/// So many may wait; one message brings 253 more at most (`SCM_MAX_FD`).
const MOST: usize = 64;

#[derive(Debug, Default, Clone)]
pub(super) struct Closing(Arc<InOrder>);

/// A socket to which anybody could send. What nobody has read closes with it.
pub(super) fn close(socket: Arc<OwnedFd>) {
    sys::socket::refuse_more(&socket);
    if sys::socket::is_empty(&socket) {
        return;
    }
    Callbacks::get().run_own(move || drop(socket));
}

impl Closing {
    pub(super) fn close(&self, passed: Vec<OwnedFd>) {
        for fd in passed {
            self.0.run(move || drop(fd));
        }
    }

    /// Nothing more should be taken in.
    pub(super) fn is_behind(&self) -> bool {
        self.0.waiting() >= MOST
    }
}
