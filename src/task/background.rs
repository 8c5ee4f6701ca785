//! The end of a task that nobody waits for: its future, driven by the threads that run callbacks.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::Running;
use super::error::TaskError;
use super::outcome::Value;
use crate::callbacks::Callbacks;

type Then = Box<dyn FnOnce(Result<Value, TaskError>) + Send>;

/// Until it is done.
struct Watched(Mutex<Option<(Running, Then)>>);

pub(super) fn when_done(run: Running, then: impl FnOnce(Result<Value, TaskError>) + Send + 'static) {
    Arc::new(Watched(Mutex::new(Some((run, Box::new(then)))))).wake();
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
        let Some((run, _)) = watched.as_mut() else { return };
        let Poll::Ready(end) = Pin::new(&mut run.exited).poll(&mut Context::from_waker(&waker)) else { return };
        let Some((run, then)) = watched.take() else { return };
        drop(watched);
        let outcome = run.outcome(end);
        drop(run);
        then(outcome);
    }
}
