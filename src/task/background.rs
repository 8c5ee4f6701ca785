//! What comes of a future that nobody waits for: it is driven by the threads that run callbacks.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::callbacks::Callbacks;
use crate::sys::locked;

/// A future and what is to be done with its end, until that is there.
struct AtEnd<F, T> {
    what: Mutex<Option<(F, T)>>,
    /// To be done on such a thread.
    on: fn(&Callbacks, Box<dyn FnOnce() + Send>),
}

/// Calls `then`, which somebody else wrote, with what comes of `future`, on one of those threads.
pub(super) fn at_end<F, T>(future: F, then: T)
where
    F: Future + Unpin + Send + 'static,
    T: FnOnce(F::Output) + Send + 'static,
{
    Callbacks::get().run(move || now_or_at_end(future, then));
}

/// The same of what is our own, and waits for nothing that somebody else wrote.
pub(super) fn own_at_end<F, T>(future: F, then: T)
where
    F: Future + Unpin + Send + 'static,
    T: FnOnce(F::Output) + Send + 'static,
{
    Arc::new(AtEnd { what: Mutex::new(Some((future, then))), on: |callbacks, job| callbacks.run_own(job) }).wake();
}

/// The same as [`at_end`], but what is there already is told right here, and the future polled.
pub(super) fn now_or_at_end<F, T>(future: F, then: T)
where
    F: Future + Unpin + Send + 'static,
    T: FnOnce(F::Output) + Send + 'static,
{
    Arc::new(AtEnd { what: Mutex::new(Some((future, then))), on: |callbacks, job| callbacks.run(job) }).look();
}

impl<F, T> Wake for AtEnd<F, T>
where
    F: Future + Unpin + Send + 'static,
    T: FnOnce(F::Output) + Send + 'static,
{
    fn wake(self: Arc<Self>) {
        (self.on)(Callbacks::get(), Box::new(move || self.look()));
    }
}

impl<F, T> AtEnd<F, T>
where
    F: Future + Unpin + Send + 'static,
    T: FnOnce(F::Output) + Send + 'static,
{
    fn look(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut inside = locked(&self.what);
        let Some((future, _)) = inside.as_mut() else { return };
        let Poll::Ready(end) = Pin::new(future).poll(&mut Context::from_waker(&waker)) else { return };
        let Some((future, then)) = inside.take() else { return };
        drop(inside);
        drop(future);
        then(end);
    }
}
