//! Who is told when a descriptor is ready.
//!
//! An event for a descriptor may be under way while another thread gives that registration up and makes the next one. It
//! finds who it is for, or nobody. `tests/models` proves that with loom over every interleaving.

use std::sync::{Arc, PoisonError};

use super::event_loop::Watcher;
use super::sync::{Mutex, MutexGuard};

/// Names one registration; never used twice, so that an event for a descriptor that was given up
/// in the same batch finds nobody instead of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

impl Token {
    pub(super) fn from_raw(raw: u64) -> Token {
        Token(raw)
    }

    pub(super) fn as_raw(self) -> u64 {
        self.0
    }
}

/// The upper half of a token counts how often its slot was given out.
const SLOT_BITS: u32 = 32;

pub(super) struct Registry {
    /// Leaf lock: nothing else is taken while it is held.
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    entries: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Slot {
    uses: u32,
    watched: Option<Watched>,
}

#[derive(Clone)]
pub(super) struct Watched {
    pub(super) watcher: Arc<dyn Watcher>,
    pub(super) key: u64,
}

impl Registry {
    pub(super) fn new() -> Registry {
        Registry { slots: Mutex::new(Slots::default()) }
    }

    pub(super) fn add(&self, watched: Watched) -> Token {
        let mut slots = self.lock();
        let index = slots.free.pop().unwrap_or(slots.entries.len());
        if index == slots.entries.len() {
            slots.entries.push(Slot::default());
        }
        let slot = &mut slots.entries[index];
        slot.watched = Some(watched);
        Token((u64::from(slot.uses) << SLOT_BITS) | index as u64)
    }

    pub(super) fn remove(&self, token: Token) {
        let mut slots = self.lock();
        let (index, uses) = split(token);
        let Some(slot) = slots.entries.get_mut(index) else { return };
        if slot.uses == uses && slot.watched.is_some() {
            let watched = slot.watched.take();
            slot.uses = slot.uses.wrapping_add(1);
            slots.free.push(index);
            drop(slots);
            // The watcher's drop may run anything: not under our lock.
            drop(watched);
        }
    }

    pub(super) fn get(&self, token: Token) -> Option<Watched> {
        let slots = self.lock();
        let (index, uses) = split(token);
        slots.entries.get(index).filter(|slot| slot.uses == uses)?.watched.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn split(token: Token) -> (usize, u32) {
    ((token.0 & u64::from(u32::MAX)) as usize, (token.0 >> SLOT_BITS) as u32)
}
