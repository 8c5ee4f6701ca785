//! Many processes: how many of them at once, and what became of each.

mod execution;
mod pool;
mod roster;
mod semaphore;
mod slots;

/// What the semaphore locks with. The model tests compile the same file against loom.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

pub use execution::Execution;
pub use pool::Pool;
pub use slots::{Slot, Slots};
