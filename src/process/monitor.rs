//! A state under a lock, and everyone who waits for it to change: threads, and futures by their wakers.
//!
//! Who waits looks at the state and registers, or goes to sleep, in one stay under the lock. Who changes it counts the
//! turn and takes the wakers under the same lock, and only then wakes. So a change comes before the look, and is seen,
//! or after the registration, and wakes. One who looked, let go of the lock and comes back remembers the number of
//! turns that it saw. `tests/models` proves that with loom over every interleaving.
//!
//! No waker is cloned, woken or dropped under the lock: it may run anything, a lock of this monitor included.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Instant;

use super::sync::{Condvar, Mutex, MutexGuard};
use crate::panics::guarded;

pub(crate) struct Monitor<T> {
    inside: Mutex<Inside<T>>,
    /// Signalled after every turn that changed something.
    changed: Condvar,
}

/// What the lock guards.
pub(crate) struct Inside<T> {
    state: T,
    /// Counts the turns that changed something.
    turns: u64,
    /// How many threads wait: signalling nobody is a system call all the same.
    sleepers: usize,
    /// By the number of who waits.
    wakers: Vec<(u64, Waker)>,
}

pub(crate) type Guard<'a, T> = MutexGuard<'a, Inside<T>>;

impl<T> Monitor<T> {
    pub(crate) fn new(state: T) -> Monitor<T> {
        let inside = Inside { state, turns: 0, sleepers: 0, wakers: Vec::new() };
        Monitor { inside: Mutex::new(inside), changed: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the lock. If something `changed`, threads that wait look again; if that may be what futures wait for,
    /// it is `over`, and they do too.
    pub(crate) fn release(&self, mut inside: Guard<'_, T>, changed: bool, over: bool) {
        inside.turns += u64::from(changed);
        let wakers = if over { std::mem::take(&mut inside.wakers) } else { Vec::new() };
        let wanted = changed && inside.sleepers > 0;
        drop(inside);
        if wanted {
            self.changed.notify_all();
        }
        wakers.into_iter().for_each(|(_, waker)| wake(waker));
    }

    /// Waits until `done` has an answer; `None` when the time passed.
    pub(crate) fn wait<R>(
        &self,
        mut inside: Guard<'_, T>,
        until: Option<Instant>,
        done: impl Fn(&T) -> Option<R>,
    ) -> Option<R> {
        loop {
            if let Some(answer) = done(&inside.state) {
                return Some(answer);
            }
            inside = self.sleep(inside, until).ok()?;
        }
    }

    /// Waits until there were more turns than `seen`; gives the lock back as an error when the time passed.
    pub(crate) fn wait_past<'a>(
        &self,
        mut inside: Guard<'a, T>,
        seen: u64,
        until: Option<Instant>,
    ) -> Result<Guard<'a, T>, Guard<'a, T>> {
        while inside.turns == seen {
            inside = self.sleep(inside, until)?;
        }
        Ok(inside)
    }

    fn sleep<'a>(&self, mut inside: Guard<'a, T>, until: Option<Instant>) -> Result<Guard<'a, T>, Guard<'a, T>> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(inside);
        }
        inside.sleepers += 1;
        let mut inside = match left {
            None => self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner),
            Some(left) => self.changed.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0,
        };
        inside.sleepers -= 1;
        Ok(inside)
    }

    /// What `done` answers, or a registration under number `id` in place of the one before.
    pub(crate) fn poll<'a, R>(
        &'a self,
        lock: impl FnOnce() -> Guard<'a, T>,
        id: u64,
        waker: &Waker,
        done: impl FnOnce(&T) -> Option<R>,
    ) -> Poll<R> {
        let waker = waker.clone();
        let mut inside = lock();
        let old = inside.take_waker(id);
        let answer = match done(&inside.state) {
            Some(answer) => Poll::Ready(answer),
            None => {
                // Under the same lock under which the end is told: it cannot come in between.
                inside.wakers.push((id, waker));
                Poll::Pending
            }
        };
        drop(inside);
        drop(old);
        answer
    }

    /// Number `id` does not wait any more.
    pub(crate) fn forget(&self, id: u64) {
        let waker = self.lock().take_waker(id);
        drop(waker);
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        &mut self.inside.get_mut().unwrap_or_else(PoisonError::into_inner).state
    }
}

/// A number for who waits with a waker; no other has it.
pub(crate) fn new_id() -> u64 {
    static IDS: AtomicU64 = AtomicU64::new(0);
    IDS.fetch_add(1, Ordering::Relaxed)
}

impl<T> Inside<T> {
    pub(crate) fn turns(&self) -> u64 {
        self.turns
    }

    /// Whether anybody waits.
    pub(crate) fn has_waiters(&self) -> bool {
        self.sleepers > 0 || !self.wakers.is_empty()
    }

    fn take_waker(&mut self, id: u64) -> Option<Waker> {
        let index = self.wakers.iter().position(|(of, _)| *of == id)?;
        Some(self.wakers.swap_remove(index).1)
    }
}

/// Wakes, and survives a waker that panics: it is foreign code, and whoever wakes (the reaper above all) has others to
/// serve. The panic hook has told of it.
pub(crate) fn wake(waker: Waker) {
    guarded(|| waker.wake(), || ());
}

impl<T> Deref for Inside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Inside<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}
