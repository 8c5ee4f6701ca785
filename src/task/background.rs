//! The end of a task that nobody waits for: its future, driven by the threads that run callbacks.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::handle::{Ended, Work};
use crate::callbacks::Callbacks;

type Then = Box<dyn FnOnce(Ended) + Send>;

/// Until it is done.
struct Watched(Mutex<Option<(Box<dyn Work>, Then)>>);

pub(super) fn when_done(work: Box<dyn Work>, then: impl FnOnce(Ended) + Send + 'static) {
    Arc::new(Watched(Mutex::new(Some((work, Box::new(then)))))).wake();
}

impl Wake for Watched {
    fn wake(self: Arc<Self>) {
        Callbacks::get().run(move || self.look());
    }
}

impl Watched {
    fn look(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((work, _)) = watched.as_mut() else { return };
        let Poll::Ready(ended) = work.poll(&mut Context::from_waker(&waker)) else { return };
        let Some((work, then)) = watched.take() else { return };
        drop(watched);
        drop(work);
        then(ended);
    }
}
