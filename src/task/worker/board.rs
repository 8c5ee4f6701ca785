//! The tasks that a worker has not ended yet. Every one of them ends: by its answer, or with the worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::remote::Object;
use super::slot::{Slot, Wakers};
use crate::sys::locked;
use crate::task::error::TaskError;
use crate::task::handle::Ended;

/// One that was asked for.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) slot: Arc<Slot>,
    /// The objects that it is about, or was given: they stay until it has ended.
    pub(super) _kept: Vec<Arc<Object>>,
}

#[derive(Default)]
pub(super) struct Board {
    /// Leaf lock.
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    pending: BTreeMap<u64, Pending>,
    /// Why nothing comes any more.
    over: Option<TaskError>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        locked(&self.inside)
    }

    /// # Errors
    /// It has ended at once, with the worker. To be dropped when no lock is held: with an object's last owner the worker is told.
    pub(super) fn add(&self, id: u64, pending: Pending) -> Result<(), Pending> {
        let mut inside = self.lock();
        if let Some(error) = inside.over.clone() {
            drop(inside);
            // (Nobody has it yet.)
            pending.slot.fill(Err(error)).wake();
            return Err(pending);
        }
        inside.pending.insert(id, pending);
        Ok(())
    }

    /// It was answered. `None`: nobody had asked.
    pub(super) fn finish(&self, id: u64, ended: Ended) -> Option<Wakers> {
        // Not dropped under the lock: with an object's last owner the worker is told.
        let pending = self.lock().pending.remove(&id);
        pending.map(|pending| pending.slot.fill(ended))
    }

    /// Who waits is told that now; the answer will come, and goes nowhere. `None`: it has come.
    pub(super) fn give_up(&self, id: u64, why: TaskError) -> Option<Wakers> {
        let slot = self.lock().pending.get(&id).map(|pending| Arc::clone(&pending.slot))?;
        Some(slot.fill(Err(why)))
    }

    /// All end, and all that come later. The first reason holds.
    pub(super) fn end(&self, error: &TaskError) -> Wakers {
        let mut inside = self.lock();
        inside.over.get_or_insert_with(|| error.clone());
        let pending = std::mem::take(&mut inside.pending);
        let mut wakers = Wakers::default();
        // Under the lock: who comes after this finds that all have ended.
        pending.values().for_each(|pending| wakers.add(pending.slot.fill(Err(error.clone()))));
        drop(inside);
        drop(pending);
        wakers
    }

    /// Why nothing comes any more.
    pub(super) fn over(&self) -> Option<TaskError> {
        self.lock().over.clone()
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over.is_some()
    }
}
