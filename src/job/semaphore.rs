//! A number of things to be had, and those who stand in line for them.
//!
//! What comes back goes from hand to hand: to the first in line, under the lock under which he stands there, and it is
//! free only when nobody does. So who comes later takes nothing away from who is there, and nobody waits beside one that is free.
//! Each waits on a ticket of his own: one is woken where one is served. He who gives up leaves the line under the same
//! lock, and is told there if he was served before. `tests/models` proves with loom that none is lost or given twice.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::sync::{Condvar, Mutex, MutexGuard};

pub(crate) struct Semaphore {
    /// Held for moments; a ticket's lock comes after it.
    inside: Mutex<Inside>,
}

struct Inside {
    /// Zero where anybody stands in line.
    free: usize,
    waiting: VecDeque<Arc<Ticket>>,
}

/// A place in the line.
pub(crate) struct Ticket {
    /// Leaf lock.
    answer: Mutex<Option<Answer>>,
    answered: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// One of them is his.
    Served,
    /// He left the line, or was sent away.
    Gone,
}

impl Semaphore {
    pub(crate) fn new(free: usize) -> Semaphore {
        Semaphore { inside: Mutex::new(Inside { free, waiting: VecDeque::new() }) }
    }

    /// Takes the last place. Who does has to [`wait`](Semaphore::wait): he may be served at any moment from now on.
    pub(crate) fn line_up(&self) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket { answer: Mutex::new(None), answered: Condvar::new() });
        let mut inside = self.lock();
        if inside.free > 0 {
            inside.free -= 1;
            ticket.tell(Answer::Served);
        } else {
            inside.waiting.push_back(Arc::clone(&ticket));
        }
        ticket
    }

    /// Waits until he is served; not when the time passed or he was [sent away](Semaphore::send_away).
    pub(crate) fn wait(&self, ticket: &Arc<Ticket>, until: Option<Instant>) -> bool {
        let mut answer = ticket.lock();
        loop {
            if let Some(answer) = *answer {
                return answer == Answer::Served;
            }
            answer = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => ticket.answered.wait(answer).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => {
                    drop(answer);
                    // From then on there is an answer, this one or the one that came just before.
                    self.send_away(ticket);
                    ticket.lock()
                }
                Some(left) => ticket.answered.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// He is served no more, if he was not yet.
    pub(crate) fn send_away(&self, ticket: &Arc<Ticket>) {
        let mut inside = self.lock();
        if let Some(place) = inside.waiting.iter().position(|other| Arc::ptr_eq(other, ticket)) {
            inside.waiting.remove(place);
            ticket.tell(Answer::Gone);
        }
    }

    /// One comes back.
    pub(crate) fn give_back(&self) {
        let mut inside = self.lock();
        match inside.waiting.pop_front() {
            Some(first) => first.tell(Answer::Served),
            None => inside.free += 1,
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.lock().free
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    fn tell(&self, answer: Answer) {
        *self.lock() = Some(answer);
        self.answered.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
