//! Layer 0: the only `unsafe` and the only syscalls of the crate.
//!
//! Everything here is a thin, safe face over one family of kernel interfaces, and takes and gives descriptors as
//! `OwnedFd` and `BorrowedFd`, close-on-exec from creation. It holds no policy: what to start, whom to signal and
//! when to wait is decided above. Nothing here imports from the rest of the crate.

pub(crate) mod affinity;
#[cfg(feature = "tasks")]
pub(crate) mod blob;
#[cfg(feature = "tasks")]
pub(crate) mod channel;
pub(crate) mod creator;
#[cfg(feature = "tasks")]
pub(crate) mod directory;
mod dumpable;
#[cfg(feature = "tasks")]
pub(crate) mod entry;
pub(crate) mod event;
pub(crate) mod fd;
#[cfg(feature = "tasks")]
pub(crate) mod for_thread;
pub(crate) mod fork;
#[cfg(feature = "tasks")]
pub(crate) mod image;
mod latch;
pub(crate) mod listener;
mod own_pid;
mod per_process;
pub(crate) mod pidfd;
pub(crate) mod process;
#[cfg(feature = "tasks")]
pub(crate) mod ring;
pub(crate) mod setup;
#[cfg(feature = "tasks")]
pub(crate) mod sibling;
pub(crate) mod sigchld;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod spin;
#[cfg(feature = "tasks")]
pub(crate) mod standing;
mod syscall;
pub(crate) mod wait;

pub(crate) use per_process::PerProcess;

/// What a panic under it has left is as good as it was: nothing is half done where one may panic.
pub(crate) fn locked<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the leaf modules are made of. The model tests compile the same files against loom.
mod sync {
    pub(super) use std::sync::atomic::AtomicPtr;
}
