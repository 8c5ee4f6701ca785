//! What may take its time to be dropped.

use std::ops::Deref;

use super::owner::Owner;
use crate::callbacks::Callbacks;

/// Is dropped on a thread that has time for it: to close descriptors that somebody else sent may block, as long as he likes.
pub(super) struct Elsewhere<T: Send + 'static> {
    /// Until it is dropped.
    what: Option<T>,
    owner: Owner,
}

impl<T: Send + 'static> Elsewhere<T> {
    pub(super) fn new(what: T) -> Elsewhere<T> {
        Elsewhere { what: Some(what), owner: Owner::new() }
    }
}

impl<T: Send + 'static> Deref for Elsewhere<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.what.as_ref().expect("it is taken when this is dropped")
    }
}

impl<T: Send + 'static> Drop for Elsewhere<T> {
    fn drop(&mut self) {
        let what = self.what.take();
        // (A fork closes copies: who has the others goes on.)
        if !self.owner.is_foreign() {
            Callbacks::get().run_own(move || drop(what));
        }
    }
}
