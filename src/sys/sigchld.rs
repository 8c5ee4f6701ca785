//! Hearing SIGCHLD beside everyone else who does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::SigId;

use super::event::Bell;

/// Whether a SIGCHLD came since it was last asked for. Only the first of several rings.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    /// To be called before looking, so that what changes meanwhile rings again.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Rings `bell` at the first SIGCHLD after each [`Flag::clear`].
///
/// The handler is chained by signal-hook: those that were there before are called after ours. One that replaces it
/// later takes it from us, until the program ends.
pub(crate) fn register(flag: Arc<Flag>, bell: Arc<Bell>) -> io::Result<SigId> {
    let action = move || {
        if !flag.0.swap(true, Ordering::SeqCst) {
            bell.ring();
        }
    };
    // SAFETY: the action is async-signal-safe: it swaps an atomic and calls write(2) on an eventfd that does not
    // block; signal-hook saves errno around it.
    unsafe { signal_hook::low_level::register(libc::SIGCHLD, action) }
}

pub(crate) fn unregister(action: SigId) {
    signal_hook::low_level::unregister(action);
}
