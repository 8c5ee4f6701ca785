//! Those who stand in line, and what comes back to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use loom::sync::Mutex;
use loom::thread;

use crate::explore;
use code::Semaphore;

#[allow(dead_code)]
#[path = "../../src/job/semaphore.rs"]
mod code;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

/// Has it for a moment, alone.
fn hold(semaphore: &Semaphore, held: &AtomicUsize) {
    assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "it was given twice");
    thread::yield_now();
    held.fetch_sub(1, Ordering::SeqCst);
    semaphore.give_back();
}

/// `others` do this with a semaphore of one, while one more waits for it without end.
fn beside_one_who_waits(others: usize, act: fn(&Semaphore, &AtomicUsize)) {
    explore(3, move || {
        let (semaphore, held) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..others).map(|_| {
            let (semaphore, held) = (Arc::clone(&semaphore), Arc::clone(&held));
            thread::spawn(move || act(&semaphore, &held))
        });
        let threads: Vec<_> = threads.collect();
        assert!(semaphore.wait(&semaphore.line_up(), None));
        hold(&semaphore, &held);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(semaphore.free(), 1, "one was lost");
    });
}

#[test]
fn each_has_it_once_and_alone() {
    beside_one_who_waits(2, |semaphore, held| {
        assert!(semaphore.wait(&semaphore.line_up(), None));
        hold(semaphore, held);
    });
}

#[test]
fn one_whose_time_is_over_takes_nothing_along() {
    beside_one_who_waits(2, |semaphore, held| {
        if semaphore.wait(&semaphore.line_up(), Some(Instant::now())) {
            hold(semaphore, held);
        }
    });
}

#[test]
fn one_who_is_sent_away_waits_no_more_and_takes_nothing_along() {
    explore(3, || {
        let semaphore = Arc::new(Semaphore::new(1));
        assert!(semaphore.wait(&semaphore.line_up(), None));
        let ticket = semaphore.line_up();
        let (other, his) = (Arc::clone(&semaphore), Arc::clone(&ticket));
        let waits = thread::spawn(move || {
            if other.wait(&his, None) {
                other.give_back();
            }
        });
        let other = Arc::clone(&semaphore);
        let gives_back = thread::spawn(move || other.give_back());
        semaphore.send_away(&ticket);
        waits.join().unwrap();
        gives_back.join().unwrap();
        assert_eq!(semaphore.free(), 1);
    });
}

#[test]
fn who_came_first_is_served_first() {
    explore(3, || {
        let (semaphore, order) = (Arc::new(Semaphore::new(1)), Arc::new(Mutex::new(Vec::new())));
        assert!(semaphore.wait(&semaphore.line_up(), None));
        let tickets = [semaphore.line_up(), semaphore.line_up()];
        let threads = tickets.into_iter().enumerate().map(|(number, ticket)| {
            let (semaphore, order) = (Arc::clone(&semaphore), Arc::clone(&order));
            thread::spawn(move || {
                assert!(semaphore.wait(&ticket, None));
                order.lock().unwrap().push(number);
                semaphore.give_back();
            })
        });
        let threads: Vec<_> = threads.collect();
        semaphore.give_back();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((&**order.lock().unwrap(), semaphore.free()), (&[0, 1][..], 1));
    });
}
