//! The threads that run what the user wrote.
//!
//! Callbacks run here, never on the reaper. A thread starts when there is work and none is idle,
//! and ends when another is idle already: a callback that blocks for ever costs one thread and
//! stops nobody else. The order of one process's callbacks is kept by its own queue
//! (`process/calls.rs`), which puts itself here once while it has work.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::sys;

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Callbacks {
    shared: Arc<Shared>,
}

struct Shared {
    /// Leaf lock: nothing else is taken while it is held.
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static CALLBACKS: sys::PerProcess<Callbacks> = sys::PerProcess::new();

impl Callbacks {
    pub(crate) fn get() -> &'static Callbacks {
        CALLBACKS
            .get_or_init(|| Callbacks { shared: Arc::new(Shared { queue: Mutex::default(), work: Condvar::new() }) })
    }

    /// Makes sure that there is a thread, so that [`run`](Callbacks::run) cannot be left without any.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        let mut queue = self.shared.lock();
        if queue.threads == 0 {
            self.start()?;
            queue.threads = 1;
        }
        Ok(())
    }

    /// Runs `job` on a callback thread. When no thread can be started it waits for one to be free.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(Box::new(job));
        if queue.idle < queue.jobs.len() {
            match self.start() {
                Ok(()) => queue.threads += 1,
                // One that is there comes to it later. (`ensure` saw to it that one is.)
                Err(_) => {}
            }
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    fn start(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let _blocked = sys::process::block_all_signals();
        thread::Builder::new().name("pkit-callback".into()).spawn(move || shared.work())?;
        Ok(())
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    log::error!("pkit: a panic on a callback thread");
                }
                queue = self.lock();
            } else if queue.idle > 0 {
                queue.threads -= 1;
                return;
            } else {
                queue.idle += 1;
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
