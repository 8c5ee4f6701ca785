//! Jobs, and the agreement between who brings one and the threads that take them.
//!
//! A job is put into the queue under the lock under which a thread counts itself idle. So who brings more jobs than
//! there are idle threads knows it, and starts one more unless there are as many as there may be; and those that are
//! not idle look into the queue once more before they sleep. One that is idle may linger before it sleeps, and need not be woken for a
//! job: it looks, too. No job is left while all sleep. `tests/models` proves that
//! with loom over every interleaving.

use std::collections::VecDeque;
use std::sync::PoisonError;

use super::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Jobs<J> {
    /// Leaf lock: nothing else is taken while it is held.
    queue: Mutex<Queue<J>>,
    work: Condvar,
    /// There are never more threads than this, but those that [`relieve`](Jobs::relieve) adds.
    most: usize,
    /// So many may sleep; who finds them asleep already ends.
    keep: usize,
}

#[derive(Debug)]
struct Queue<J> {
    jobs: VecDeque<J>,
    threads: usize,
    idle: usize,
    /// So many of the idle ones do not sleep yet.
    lingering: usize,
    /// How many were ever taken, and how many of them when it was looked for the last time whether any are.
    taken: u64,
    looked: u64,
}

impl<J> Jobs<J> {
    pub(crate) fn new(most: usize, keep: usize) -> Jobs<J> {
        let queue = Queue { jobs: VecDeque::new(), threads: 0, idle: 0, lingering: 0, taken: 0, looked: 0 };
        Jobs { queue: Mutex::new(queue), work: Condvar::new(), most, keep }
    }

    /// Makes sure that there is a thread; `start` makes one, which calls [`next`](Jobs::next) until it gets nothing.
    pub(crate) fn ensure<E>(&self, start: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut queue = self.lock();
        if queue.threads == 0 {
            start()?;
            queue.threads = 1;
        }
        Ok(())
    }

    /// Brings a job. It comes back when there is no thread and none can be started. True: no thread is free for it, and
    /// [`relieve`](Jobs::relieve) is to be called in a while.
    pub(crate) fn push<E>(&self, job: J, start: impl FnOnce() -> Result<(), E>) -> Result<bool, (J, E)> {
        let mut queue = self.lock();
        let mut waits = queue.idle <= queue.jobs.len();
        if waits && queue.threads < self.most {
            match start() {
                Ok(()) => {
                    queue.threads += 1;
                    waits = false;
                }
                Err(error) if queue.threads == 0 => return Err((job, error)),
                // Those that are there may come to it.
                Err(_) => {}
            }
        }
        self.add(queue, job);
        Ok(waits)
    }

    /// Starts one more thread if jobs wait and none was taken since the last call: all that are there are held up. True: to be
    /// called again in a while.
    pub(crate) fn relieve<E>(&self, start: impl FnOnce() -> Result<(), E>) -> bool {
        let mut queue = self.lock();
        if queue.jobs.is_empty() {
            return false;
        }
        if (queue.threads == 0 || queue.taken == queue.looked) && start().is_ok() {
            queue.threads += 1;
        }
        queue.looked = queue.taken;
        true
    }

    /// Leaves a job to a thread that will be started some time.
    pub(crate) fn leave(&self, job: J) {
        self.add(self.lock(), job);
    }

    fn add(&self, mut queue: MutexGuard<'_, Queue<J>>, job: J) {
        queue.jobs.push_back(job);
        let is_awaited = queue.jobs.len() <= queue.lingering;
        drop(queue);
        if !is_awaited {
            self.work.notify_one();
        }
    }

    /// Whether a thread has nothing to do, and no job waits for it.
    pub(crate) fn is_any_idle(&self) -> bool {
        let queue = self.lock();
        queue.idle > queue.jobs.len()
    }

    /// Whether a job waits.
    pub(crate) fn is_any(&self) -> bool {
        !self.lock().jobs.is_empty()
    }

    /// The next job of a thread, which sleeps until there is one, and lingers first; `None`: it is not needed any more.
    pub(crate) fn next(&self, linger: impl FnOnce()) -> Option<J> {
        let mut queue = self.lock();
        let mut linger = Some(linger);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                queue.taken += 1;
                return Some(job);
            }
            if queue.idle >= self.keep {
                queue.threads -= 1;
                return None;
            }
            queue.idle += 1;
            if let Some(linger) = linger.take() {
                queue.lingering += 1;
                drop(queue);
                linger();
                queue = self.lock();
                queue.lingering -= 1;
            } else {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
