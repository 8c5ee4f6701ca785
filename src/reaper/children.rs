//! Who looks when SIGCHLD says so, and how often that may be.
//!
//! Exits arrive through pidfds. Stops and continues do not: for those every child has to be asked, and
//! as SIGCHLDs merge none of them can be left out. Asking all costs time in proportion to their
//! number, and every exit of every child raises a SIGCHLD too; so a round may only begin when
//! fifty times as long has passed as the last one took, 10 ms at least and 2 s at most. Until then further SIGCHLDs wake
//! nobody. One exit stays O(1), and a stop is seen at once with a hundred children and after a fraction of a second with ten thousand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::event_loop::Watcher;
use crate::sys::locked;
use crate::sys::sigchld::Flag;

const PAUSE_FACTOR: u32 = 50;
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// A round may have been long because this program itself was stopped meanwhile.
const MOST_PAUSE: Duration = Duration::from_secs(2);

pub(super) struct Children {
    /// Leaf lock: nothing else is taken while it is held.
    list: Mutex<BTreeMap<u64, Arc<dyn Watcher>>>,
    /// When the next round may begin. Leaf lock.
    not_before: Mutex<Option<Instant>>,
}

impl Children {
    pub(super) fn new() -> Children {
        Children { list: Mutex::new(BTreeMap::new()), not_before: Mutex::new(None) }
    }

    pub(super) fn add(&self, id: u64, watcher: Arc<dyn Watcher>) {
        locked(&self.list).insert(id, watcher);
    }

    pub(super) fn remove(&self, id: u64) {
        let removed = locked(&self.list).remove(&id);
        // The watcher's drop may run anything: not under our lock.
        drop(removed);
    }

    /// When a round that SIGCHLD asked for may begin; `None` when it asked for none.
    pub(super) fn next_round(&self, sigchld: &Flag) -> Option<Instant> {
        if sigchld.is_set() { Some(locked(&self.not_before).unwrap_or_else(Instant::now)) } else { None }
    }

    /// Has everyone look, if SIGCHLD asks for it and it is time.
    pub(super) fn round(&self, sigchld: &Flag) {
        let began = Instant::now();
        if !sigchld.is_set() || locked(&self.not_before).is_some_and(|at| began < at) {
            return;
        }
        sigchld.clear();
        let all: Vec<_> = locked(&self.list).values().cloned().collect();
        for watcher in all {
            watcher.look();
        }
        let ended = Instant::now();
        *locked(&self.not_before) = Some(ended + pause_after(ended - began));
    }
}

fn pause_after(round: Duration) -> Duration {
    (round * PAUSE_FACTOR).clamp(LEAST_PAUSE, MOST_PAUSE)
}
