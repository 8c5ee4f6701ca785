//! The threads that run what the user wrote.
//!
//! Callbacks run here, never on the reaper. A thread starts when there is work, none is idle and there are fewer than 32; a callback that has
//! waited for 100 ms gets one all the same (so fast that their number doubles): some that block do not hold up others. What this crate
//! itself has to do where it may take a moment is done here as well, and waits for no callback. A thread ends when another is idle
//! already. The order of one process's callbacks is kept by its own queue
//! (`process/calls.rs`), which puts itself here once while it has work.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::panics::guarded;
use crate::sys;
use crate::sys::locked;
use crate::threads::{Habits, Pool, Relief};

pub(crate) struct Callbacks {
    pool: Pool,
}

/// There are more threads only for those that have waited, and for what is the crate's own.
const MOST: usize = 32;

const HABITS: Habits = Habits {
    name: "pkit-callback",
    most: MOST,
    relief: Relief::Late,
    keep: 1,
    linger: Duration::ZERO,
    processor: None,
};

static CALLBACKS: sys::PerProcess<Callbacks> = sys::PerProcess::new();

impl Callbacks {
    pub(crate) fn get() -> &'static Callbacks {
        CALLBACKS.get_or_init(|| Callbacks { pool: Pool::new(HABITS) })
    }

    /// Makes sure that there is a thread, so that [`run`](Callbacks::run) cannot be left without any.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        self.pool.ensure()
    }

    /// Runs what somebody else wrote on a callback thread. When no thread can be started it waits for one to be free.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.run_some_time(job);
    }

    /// The same of what is our own: it waits for nothing that somebody else wrote, if a thread can be started.
    pub(crate) fn run_own(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.run_first(job);
    }
}

/// Jobs that run one after the other, in order, on a callback thread: there is one for all that wait.
#[derive(Default)]
pub(crate) struct InOrder {
    /// Leaf lock, but for the callback queue.
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<dyn FnOnce() + Send>>,
    /// A callback thread has them, or is on its way.
    busy: bool,
}

impl InOrder {
    pub(crate) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.lock();
        queue.waiting.push_back(Box::new(job));
        if !std::mem::replace(&mut queue.busy, true) {
            let jobs = Arc::clone(self);
            Callbacks::get().run_own(move || while jobs.run_one() {});
        }
    }

    /// How many have not begun.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// False: nothing was left.
    fn run_one(&self) -> bool {
        let mut queue = self.lock();
        let next = queue.waiting.pop_front();
        queue.busy = next.is_some();
        drop(queue);
        let any = next.is_some();
        // One that panics: the others run all the same.
        guarded(|| _ = next.map(|job| job()), || log::error!("pkit: a panic on a callback thread"));
        any
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        locked(&self.queue)
    }
}

impl std::fmt::Debug for InOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InOrder").field("waiting", &self.waiting()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_run_in_order_and_one_that_panics_keeps_no_other_from_running() {
        let (jobs, (ran, runs)) = (Arc::new(InOrder::default()), channel());
        for number in 0..100 {
            let ran = ran.clone();
            jobs.run(move || {
                ran.send(number).unwrap();
                assert_ne!(number % 10, 5, "for the test");
            });
        }
        drop(ran);
        assert_eq!(runs.into_iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        assert_eq!(jobs.waiting(), 0);
    }
}
