//! The event loop that every process of the program shares.
//!
//! One permanent thread, `pkit-reaper`, sleeps in one `epoll_wait` over the pidfds and pipes of
//! all children, the SIGCHLD wake-up and the timers. It knows nothing of processes: it tells a
//! [`Watcher`] that a descriptor is ready, that its time has come, or that SIGCHLD asks everyone to
//! look. What that means is decided one layer up.
//!
//! It does not wait for anything but events: creating processes is left to the spawners and user
//! code to the callback threads, so no child, however stuck, delays the exit of another.
//!
//! Lock order: a watcher's own lock, then the registry, the timers or the list of children (all are leaves).

mod children;
mod event_loop;
mod registry;
mod timers;

/// What the leaf modules lock with. The model tests compile the same files against loom.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

pub(crate) use event_loop::{Reaper, Watcher};
pub(crate) use registry::Token;
