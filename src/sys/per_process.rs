//! State that belongs to one process, not to a program: a fork makes its own.

use std::ptr;
use std::sync::atomic::Ordering;

use super::process;
use super::sync::AtomicPtr;

/// A static that is made at first use, and made afresh in a child that `fork` copied from us.
///
/// What the parent had is left as it is there and never touched again: its locks may have been held by threads that
/// the child does not have. It takes no lock itself, so it works in a child forked at any moment.
/// One value is leaked for each process of a chain of forks. `tests/models` shows with loom that one value wins.
pub(crate) struct PerProcess<T: 'static> {
    current: AtomicPtr<Owned<T>>,
}

struct Owned<T> {
    incarnation: u32,
    value: T,
}

impl<T: Send + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value of this process. `make` may be called by several threads at once, of which one wins:
    /// it must be cheap and without effect.
    pub(crate) fn get_or_init(&'static self, make: impl Fn() -> T) -> &'static T {
        let incarnation = process::incarnation();
        let mut seen = self.current.load(Ordering::Acquire);
        loop {
            if !seen.is_null() {
                // SAFETY: only pointers from Box::into_raw below are ever stored, none is freed.
                let owned: &'static Owned<T> = unsafe { &*seen };
                if owned.incarnation == incarnation {
                    return &owned.value;
                }
            }
            let fresh = Box::into_raw(Box::new(Owned { incarnation, value: make() }));
            match self.current.compare_exchange(seen, fresh, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: `fresh` came from Box::into_raw, is published now and never freed.
                Ok(_) => return &unsafe { &*fresh }.value,
                Err(other) => {
                    seen = other;
                    // SAFETY: `fresh` was not published, so this is its only owner.
                    drop(unsafe { Box::from_raw(fresh) });
                }
            }
        }
    }
}
