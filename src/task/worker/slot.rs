//! Where the end of a task arrives.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::callbacks::Callbacks;
use crate::panics::guarded;
use crate::sys::locked;
use crate::task::handle::Ended;

/// Foreign code, which may do anything: take its time, or a lock. So it runs on no thread that waits for something else.
#[derive(Default)]
#[must_use = "somebody waits"]
pub(super) struct Wakers(Vec<Waker>);

impl Wakers {
    pub(super) fn add(&mut self, mut others: Wakers) {
        self.0.append(&mut others.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn wake(self) {
        // A panic is told by the panic hook.
        self.0.into_iter().for_each(|waker| guarded(|| waker.wake(), || ()));
    }

    /// The same on a thread that has time for it, whatever locks are held here.
    pub(super) fn wake_elsewhere(self) {
        if !self.0.is_empty() {
            Callbacks::get().run(move || self.wake());
        }
    }
}

/// Filled once, and emptied once.
#[derive(Default)]
pub(super) struct Slot {
    /// Leaf lock.
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Default)]
struct Inside {
    is_done: bool,
    ended: Option<Ended>,
    waker: Option<Waker>,
    /// Signalling nobody is a system call all the same.
    sleepers: usize,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        locked(&self.inside)
    }

    /// The first end holds. Whom to wake, when no lock is held.
    pub(super) fn fill(&self, ended: Ended) -> Wakers {
        let mut inside = self.lock();
        if inside.is_done {
            return Wakers::default();
        }
        (inside.is_done, inside.ended) = (true, Some(ended));
        let (waker, sleepers) = (inside.waker.take(), inside.sleepers);
        drop(inside);
        if sleepers > 0 {
            self.changed.notify_all();
        }
        Wakers(waker.into_iter().collect())
    }

    pub(super) fn is_done(&self) -> bool {
        self.lock().is_done
    }

    pub(super) fn take(&self) -> Option<Ended> {
        self.lock().ended.take()
    }

    /// Until it is filled, or that moment.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let mut inside = self.lock();
        while !inside.is_done {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            inside.sleepers += 1;
            inside = match left {
                None => self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            inside.sleepers -= 1;
        }
    }

    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Ended> {
        let waker = context.waker().clone();
        let mut inside = self.lock();
        if let Some(ended) = inside.ended.take() {
            return Poll::Ready(ended);
        }
        let before = inside.waker.replace(waker);
        drop(inside);
        drop(before);
        Poll::Pending
    }
}
