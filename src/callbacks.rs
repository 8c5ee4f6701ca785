//! The threads that run what the user wrote.
//!
//! Callbacks run here, never on the reaper. A thread starts when there is work and none is idle,
//! and ends when another is idle already: a callback that blocks for ever costs one thread and
//! stops nobody else. The order of one process's callbacks is kept by its own queue
//! (`process/calls.rs`), which puts itself here once while it has work.

use std::io;

use crate::sys;
use crate::threads::Pool;

pub(crate) struct Callbacks {
    pool: Pool,
}

static CALLBACKS: sys::PerProcess<Callbacks> = sys::PerProcess::new();

impl Callbacks {
    pub(crate) fn get() -> &'static Callbacks {
        CALLBACKS.get_or_init(|| Callbacks { pool: Pool::new("pkit-callback", usize::MAX, 1) })
    }

    /// Makes sure that there is a thread, so that [`run`](Callbacks::run) cannot be left without any.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        self.pool.ensure()
    }

    /// Runs `job` on a callback thread. When no thread can be started it waits for one to be free.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.run_some_time(job);
    }
}
