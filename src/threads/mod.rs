//! Threads that take jobs: what the callback threads and the spawners have in common.

mod jobs;
mod pool;

/// What the leaf modules lock with. The model tests compile the same files against loom.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

pub(crate) use jobs::Relief;
pub(crate) use pool::{Habits, Pool};
