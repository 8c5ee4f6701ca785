//! Who looks when SIGCHLD says so, and how often that may be.
//!
//! Exits arrive through pidfds. Stops and continues do not: for those every child has to be asked, and
//! as SIGCHLDs merge none of them can be left out. Asking all costs time in proportion to their
//! number, and every exit of every child raises a SIGCHLD too; so a round may only begin when
//! fifty times as long has passed as the last one took. One exit stays O(1), and a stop is seen at
//! once with a hundred children and after a fraction of a second with ten thousand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::event_loop::Watcher;

const PAUSE_FACTOR: u32 = 50;

pub(super) struct Children {
    /// Leaf lock: nothing else is taken while it is held.
    list: Mutex<BTreeMap<u64, Arc<dyn Watcher>>>,
    pace: Mutex<Pace>,
}

/// When the next round may begin, and whether one is wanted.
#[derive(Default)]
struct Pace {
    wanted: bool,
    not_before: Option<Instant>,
}

impl Children {
    pub(super) fn new() -> Children {
        Children { list: Mutex::new(BTreeMap::new()), pace: Mutex::new(Pace::default()) }
    }

    pub(super) fn add(&self, id: u64, watcher: Arc<dyn Watcher>) {
        lock(&self.list).insert(id, watcher);
    }

    pub(super) fn remove(&self, id: u64) {
        let removed = lock(&self.list).remove(&id);
        // The watcher's drop may run anything: not under our lock.
        drop(removed);
    }

    pub(super) fn want_round(&self) {
        lock(&self.pace).wanted = true;
    }

    /// When a wanted round may begin; `None` when none is wanted.
    pub(super) fn next_round(&self) -> Option<Instant> {
        let pace = lock(&self.pace);
        if pace.wanted { Some(pace.not_before.unwrap_or_else(Instant::now)) } else { None }
    }

    pub(super) fn round(&self) {
        let began = Instant::now();
        {
            let mut pace = lock(&self.pace);
            if !pace.wanted || pace.not_before.is_some_and(|at| began < at) {
                return;
            }
            pace.wanted = false;
        }
        let all: Vec<_> = lock(&self.list).values().cloned().collect();
        for watcher in all {
            watcher.look();
        }
        let ended = Instant::now();
        lock(&self.pace).not_before = Some(ended + pause_after(ended - began));
    }
}

fn pause_after(round: Duration) -> Duration {
    round * PAUSE_FACTOR
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
