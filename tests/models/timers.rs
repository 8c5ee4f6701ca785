//! The sleeper and those who set deadlines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::explore;
use code::Timers;

#[allow(dead_code)]
#[path = "../../src/reaper/timers.rs"]
mod code;

mod sync {
    pub(super) use loom::sync::Mutex;
}

/// A level, like the eventfd that the reaper polls.
struct Bell {
    rings: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    fn new() -> Bell {
        Bell { rings: Mutex::new(false), rung: Condvar::new() }
    }

    fn ring(&self) {
        *self.rings.lock().unwrap() = true;
        self.rung.notify_one();
    }

    fn silence(&self) {
        *self.rings.lock().unwrap() = false;
    }

    fn wait(&self) {
        let mut rings = self.rings.lock().unwrap();
        while !*rings {
            rings = self.rung.wait(rings).unwrap();
        }
    }
}

struct Reaper {
    timers: Timers<&'static str>,
    bell: Bell,
    zero: Instant,
}

type Change = (u64, Option<u64>, Option<(u64, &'static str)>);

impl Reaper {
    fn at(&self, second: u64) -> Instant {
        self.zero + Duration::from_secs(second)
    }

    fn set(&self, (owner, old, new): Change) {
        let new = new.map(|(second, name)| (self.at(second), name));
        if self.timers.set(owner, old.map(|second| self.at(second)), new) {
            self.bell.ring();
        }
    }

    /// The loop of the reaper, until `wanted` were due in this order. The time stands still until the next of them is
    /// the one that the sleep lasts to: to sleep until a later one would be to sleep over it, if nobody rings.
    fn run(&self, wanted: &[(u64, &'static str)]) {
        let mut left = wanted;
        let mut now = 0;
        while let [(second, name), rest @ ..] = left {
            let until = self.timers.fall_asleep();
            if until.is_some_and(|until| until <= self.at(*second)) {
                now = now.max(until.unwrap().duration_since(self.zero).as_secs());
            } else {
                self.bell.wait();
            }
            let due = self.timers.wake_up(self.at(now));
            self.bell.silence();
            if !due.is_empty() {
                assert_eq!(due, [*name]);
                left = rest;
            }
        }
    }
}

/// A deadline that tells the model that what came before it was done.
const A: Change = (2, None, Some((2, "a")));

/// Each list of changes is made by a thread of its own.
fn model(before: Option<Change>, setters: &'static [&'static [Change]], wanted: &'static [(u64, &'static str)]) {
    explore(3, move || {
        let reaper = Arc::new(Reaper { timers: Timers::new(), bell: Bell::new(), zero: Instant::now() });
        if let Some(before) = before {
            reaper.set(before);
        }
        let threads: Vec<_> = setters
            .iter()
            .map(|changes| {
                let reaper = Arc::clone(&reaper);
                thread::spawn(move || changes.iter().for_each(|change| reaper.set(*change)))
            })
            .collect();
        reaper.run(wanted);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_first_deadline_wakes_who_sleeps_for_ever() {
    model(None, &[&[(1, None, Some((5, "a")))]], &[(5, "a")]);
}

#[test]
fn an_earlier_deadline_wakes_who_sleeps_until_a_later_one() {
    model(Some((1, None, Some((9, "late")))), &[&[(2, None, Some((5, "a")))]], &[(5, "a"), (9, "late")]);
}

#[test]
fn two_who_set_deadlines_are_both_heard() {
    model(None, &[&[(1, None, Some((5, "a")))], &[(2, None, Some((7, "b")))]], &[(5, "a"), (7, "b")]);
}

#[test]
fn a_deadline_may_be_moved_either_way() {
    model(Some((1, None, Some((9, "late")))), &[&[(1, Some(9), Some((3, "moved")))]], &[(3, "moved")]);
    model(Some((1, None, Some((3, "early")))), &[&[(1, Some(3), Some((6, "moved"))), A]], &[(2, "a"), (6, "moved")]);
}

#[test]
fn what_was_removed_is_never_due() {
    const SETTER: &[Change] = &[(1, Some(3), None), (3, None, Some((9, "late"))), A];
    model(Some((1, None, Some((3, "gone")))), &[SETTER], &[(2, "a"), (9, "late")]);
}
