//! Who runs in a pool, and who waits to.
//!
//! What is in the list has a slot or had one; it is put there before its start and taken out when it has settled, by
//! whoever sees that first: the thread that woke its [`Running`], or one that joined it. The slot goes back once,
//! as it is taken out of the entry, under the lock, and before anybody can see that the entry is gone.
//!
//! Under the lock of the list no process is asked or told anything, and none is dropped: what a process does may wake
//! its [`Running`], which takes that lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use super::slots::{Place, Slot, Slots};
use crate::process::{Ending, Process, Rest, is_within_any_callback};
use crate::sys;
use crate::sys::locked;

pub(super) struct Roster {
    pub(super) slots: Slots,
    /// For the text of an error.
    pub(super) owner_pid: u32,
    /// Of the program that may touch it; a fork of it may not.
    incarnation: u32,
    /// Before the lock of the slots.
    list: Mutex<List>,
    /// Signalled when an entry is gone, or was started.
    changed: Condvar,
}

#[derive(Default)]
struct List {
    closed: bool,
    /// What starts from now on is stopped at once.
    stopping: bool,
    last_id: u64,
    waiting: Vec<Place>,
    entries: BTreeMap<u64, Entry>,
}

struct Entry {
    running: Arc<Running>,
    /// Until it will not run again.
    slot: Option<Slot>,
    /// Its start has returned.
    started: bool,
    /// It is to be started again when a callback of it has returned that waits for a slot.
    waits: bool,
}

/// Why nobody gets in.
pub(super) enum Refusal {
    Closed,
    /// All slots are kept for processes that are to be started again when somebody returns who waits for one of them.
    Stuck,
}

impl Roster {
    pub(super) fn new(slots: Slots) -> Roster {
        let (owner_pid, incarnation) = (sys::process::pid(), sys::process::incarnation());
        Roster { slots, owner_pid, incarnation, list: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.incarnation != sys::process::incarnation()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for a slot and puts the process on the list. `None`: there was none in time.
    pub(super) fn admit(
        self: &Arc<Self>,
        process: &Process,
        until: Option<Instant>,
    ) -> Result<Option<Arc<Running>>, Refusal> {
        // With a limit it is not for ever.
        let keeper = if until.is_none() { self.keeper() } else { None };
        let mut list = self.lock();
        if list.closed {
            return Err(Refusal::Closed);
        }
        if let Some(keeper) = &keeper {
            list.waits(keeper.id, true);
            let kept = list.entries.values().filter(|entry| entry.waits && entry.slot.is_some()).count();
            if kept == self.slots.size() {
                list.waits(keeper.id, false);
                return Err(Refusal::Stuck);
            }
        }
        // Under the lock: who closes sees everyone who stands in line, and sends him away.
        let place = self.slots.line_up();
        list.waiting.push(place.clone());
        drop(list);
        let slot = place.clone().wait(until);
        let ending = Ending::of_next_start(process);
        let mut list = self.lock();
        list.waiting.retain(|other| !other.is(&place));
        if let Some(keeper) = &keeper {
            list.waits(keeper.id, false);
        }
        if list.closed {
            return Err(Refusal::Closed);
        }
        let Some(slot) = slot else { return Ok(None) };
        list.last_id += 1;
        let id = list.last_id;
        let running = Arc::new(Running { id, process: process.clone(), ending, roster: Arc::clone(self) });
        let entry = Entry { running: Arc::clone(&running), slot: Some(slot), started: false, waits: false };
        list.entries.insert(id, entry);
        Ok(Some(running))
    }

    /// Who keeps a slot for when the callback has returned that this thread is in.
    fn keeper(&self) -> Option<Arc<Running>> {
        if !is_within_any_callback() {
            return None;
        }
        self.entries().into_iter().find(|running| running.process.restarts_after_this_callback())
    }

    /// From now on nobody gets in. Who is in the list.
    pub(super) fn close(&self, stop: bool) -> Vec<Arc<Running>> {
        let mut list = self.lock();
        list.closed = true;
        list.stopping |= stop;
        let waiting = std::mem::take(&mut list.waiting);
        drop(list);
        // One that was served meanwhile finds the pool closed, and gives it back.
        waiting.iter().for_each(Place::give_up);
        self.entries()
    }

    pub(super) fn entries(&self) -> Vec<Arc<Running>> {
        self.lock().entries.values().map(|entry| Arc::clone(&entry.running)).collect()
    }

    /// Waits until the list is empty. Within a callback that could be to wait for oneself, or for another callback
    /// that waits for this one: there, until the runs that are there are over. One of its own may never be, unless it was
    /// stopped: its output may wait for the callback.
    pub(super) fn wait(&self, until: Option<Instant>) -> bool {
        if !is_within_any_callback() {
            return self.wait_while(until, |list| !list.entries.is_empty());
        }
        if !self.wait_while(until, |list| list.entries.values().any(|entry| !entry.started)) {
            return false;
        }
        let stopping = self.lock().stopping;
        let entries = self.entries();
        let mut awaited = entries.iter().filter(|running| stopping || !running.process.is_calling());
        awaited.all(|running| running.process.wait_run(until))
    }

    fn wait_while(&self, until: Option<Instant>, unfinished: impl Fn(&List) -> bool) -> bool {
        let mut list = self.lock();
        while unfinished(&list) {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            list = match left {
                None => self.changed.wait(list).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => self.changed.wait_timeout(list, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        locked(&self.list)
    }
}

impl List {
    fn waits(&mut self, id: u64, waits: bool) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.waits = waits;
        }
    }
}

/// A process of a pool. It wakes itself: there is nobody who waits for its end.
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) process: Process,
    ending: Ending,
    roster: Arc<Roster>,
}

impl Running {
    /// Its start has succeeded.
    pub(super) fn started(self: &Arc<Self>) {
        let mut list = self.roster.lock();
        if let Some(entry) = list.entries.get_mut(&self.id) {
            entry.started = true;
        }
        let stopping = list.stopping;
        drop(list);
        self.roster.changed.notify_all();
        if stopping {
            // Who stopped them all may have found it not begun.
            let _ = self.process.terminate(false);
        }
        self.look();
    }

    /// It does not run, or not any more, and there is nothing to be told of it.
    pub(super) fn strike(&self) {
        let mut list = self.roster.lock();
        let mut entry = list.entries.remove(&self.id);
        drop(entry.as_mut().and_then(|entry| entry.slot.take()));
        drop(list);
        self.roster.changed.notify_all();
        // With it the process, perhaps: not under the lock.
        drop(entry);
    }

    /// Gives back the slot if it will not run again, and sees to it that somebody looks again if it may.
    pub(super) fn look(self: &Arc<Self>) {
        match self.ending.look(&Waker::from(Arc::clone(self))) {
            Rest::None => {}
            Rest::Over => {
                let mut list = self.roster.lock();
                drop(list.entries.get_mut(&self.id).and_then(|entry| entry.slot.take()));
            }
            Rest::Settled => self.strike(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.roster.is_foreign() {
            // In a fork the list may be as a thread left it that is not there: nothing of it is dropped.
            std::mem::forget(Arc::clone(&self.roster));
        }
    }
}

impl Wake for Running {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}
