//! Jobs, and the agreement between who brings one and the threads that take them.
//!
//! A job is put into the queue under the lock under which a thread counts itself idle. So who brings more jobs than
//! there are idle threads knows it, and starts one more unless there are as many as there may be; and those that are
//! not idle look into the queue once more before they sleep. One that is idle may linger before it sleeps, and need not be woken for a
//! job: it looks, too. No job is left while all sleep. `tests/models` proves that
//! with loom over every interleaving.
//!
//! Where there are as many threads as there may be, jobs wait; who looks after that in a while has more of them started, as [`Relief`] says.
//! An urgent job never waits for the others: it gets a thread at once, and comes first.

use std::collections::VecDeque;
use std::sync::PoisonError;

use super::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Jobs<J> {
    /// Leaf lock: nothing else is taken while it is held.
    queue: Mutex<Queue<J>>,
    work: Condvar,
    /// So many may sleep; who finds them asleep already ends.
    keep: usize,
    relief: Relief,
}

/// When there are more threads than there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relief {
    /// One more while a job waits and none is taken: all threads are held up.
    HeldUp,
    /// One more for each job that has waited since the last look, but at most twice as many as there are.
    Late,
}

#[derive(Debug)]
struct Queue<J> {
    /// Each with its number.
    jobs: VecDeque<(u64, J)>,
    threads: usize,
    /// There are never more than this, but those for urgent jobs, and those that [`relieve`](Jobs::relieve) adds.
    most: usize,
    idle: usize,
    /// So many of the idle ones do not sleep yet.
    lingering: usize,
    /// How many were ever brought, and taken; and at the last look.
    brought: u64,
    taken: u64,
    looked: (u64, u64),
}

impl<J> Queue<J> {
    /// A look begins, or has ended.
    fn mark(&mut self) {
        self.looked = (self.brought, self.taken);
    }
}

impl<J> Jobs<J> {
    pub(crate) fn new(most: usize, keep: usize, relief: Relief) -> Jobs<J> {
        let jobs = VecDeque::new();
        let queue = Queue { jobs, threads: 0, most, idle: 0, lingering: 0, brought: 0, taken: 0, looked: (0, 0) };
        Jobs { queue: Mutex::new(queue), work: Condvar::new(), keep, relief }
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

    /// There are not to be more threads than `most`. (No thread ends for it.) How many there are.
    pub(crate) fn limit(&self, most: usize) -> usize {
        let mut queue = self.lock();
        queue.most = most;
        queue.threads
    }

    /// Brings a job. It comes back when there is no thread and none can be started. True: no thread is free for it, and
    /// [`relieve`](Jobs::relieve) is to be called in a while.
    pub(crate) fn push<E>(&self, job: J, start: impl FnOnce() -> Result<(), E>) -> Result<bool, (J, E)> {
        self.bring(job, false, start)
    }

    /// The same of one that is not to wait for the others.
    pub(crate) fn push_urgent<E>(&self, job: J, start: impl FnOnce() -> Result<(), E>) -> Result<bool, (J, E)> {
        self.bring(job, true, start)
    }

    fn bring<E>(&self, job: J, is_urgent: bool, start: impl FnOnce() -> Result<(), E>) -> Result<bool, (J, E)> {
        let mut queue = self.lock();
        let mut waits = queue.idle <= queue.jobs.len();
        if waits && (is_urgent || queue.threads < queue.most) {
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
        self.add(queue, job, is_urgent);
        Ok(waits)
    }

    /// [`relieve`](Jobs::relieve) will be called in a while.
    pub(crate) fn mark(&self) {
        self.lock().mark();
    }

    /// Starts threads for jobs that have waited since the last call, or [`mark`](Jobs::mark). True: to be called again in a while.
    pub(crate) fn relieve<E>(&self, mut start: impl FnMut() -> Result<(), E>) -> bool {
        let mut queue = self.lock();
        if queue.jobs.is_empty() {
            return false;
        }
        let (brought, taken) = queue.looked;
        let late = queue.jobs.iter().filter(|(number, _)| *number <= brought).count();
        let more = match self.relief {
            _ if queue.threads == 0 => 1,
            Relief::HeldUp => usize::from(late > 0 && queue.taken == taken),
            Relief::Late => late.min(queue.threads),
        };
        for _ in 0..more {
            if start().is_err() {
                break;
            }
            queue.threads += 1;
        }
        queue.mark();
        true
    }

    /// Leaves a job to a thread that will be started some time.
    pub(crate) fn leave(&self, job: J) {
        self.add(self.lock(), job, false);
    }

    fn add(&self, mut queue: MutexGuard<'_, Queue<J>>, job: J, is_urgent: bool) {
        queue.brought += 1;
        let job = (queue.brought, job);
        if is_urgent {
            queue.jobs.push_front(job);
        } else {
            queue.jobs.push_back(job);
        }
        let is_awaited = queue.jobs.len() <= queue.lingering;
        drop(queue);
        if !is_awaited {
            self.work.notify_one();
        }
    }

    /// Whether a thread sleeps, and no job waits for it.
    pub(crate) fn is_any_asleep(&self) -> bool {
        let queue = self.lock();
        queue.idle.saturating_sub(queue.lingering) > queue.jobs.len()
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
            if let Some((_, job)) = queue.jobs.pop_front() {
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
