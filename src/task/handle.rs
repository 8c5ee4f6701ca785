//! `Task`, the handle.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::background;
use super::error::TaskError;
use super::outcome::Value;
use super::owner::Owner;
use super::panicking::caught;
use crate::callbacks::Callbacks;

/// The end of a task: its encoded value, or why there is none.
pub(super) type Ended = Result<Value, TaskError>;

/// Something that ends once, and tells that once.
pub(super) trait Work: Future<Output = Ended> + Unpin + Send + Sync {
    /// Waits; `None`: until the time was over.
    fn wait(&self, until: Option<Instant>) -> Option<Ended>;
    fn is_done(&self) -> bool;
    fn cancel(&self);
    fn pid(&self) -> Option<u32>;
    fn name(&self) -> String;
}

/// A function that runs in another process (or on the thread of a [`Worker::thread`](crate::Worker::thread)), and its value to come.
///
/// It is a future, for any runtime or none, and costs no thread. Dropped, it goes on in the background, and an error of it is logged.
/// In a fork of this program it is an error ([`Error::is_foreign`](crate::Error::is_foreign)), and dropping it does nothing.
#[must_use = "dropped, its value is lost; `on_done(drop)` says that this is meant"]
pub struct Task<R> {
    /// Until its end was told.
    work: Option<Box<dyn Work>>,
    owner: Owner,
    value: PhantomData<fn() -> R>,
}

impl<R> Task<R> {
    pub(super) fn new(work: impl Work + 'static) -> Task<R> {
        Task { work: Some(Box::new(work)), owner: Owner::new(), value: PhantomData }
    }

    /// `None`: its end was told, or it is none of ours.
    fn ours(&self) -> Option<&dyn Work> {
        self.work.as_deref().filter(|_| !self.owner.is_foreign())
    }

    /// What everyone who waits begins with.
    fn awaited(&self) -> Result<&dyn Work, TaskError> {
        let work = self.work.as_deref().expect("its end is told once");
        self.owner.check(|| work.name(), "wait for")?;
        Ok(work)
    }
}

impl<R: DeserializeOwned> Task<R> {
    /// Waits for its value.
    ///
    /// # Errors
    /// [`TaskError`] tells them apart.
    pub fn wait(mut self) -> Result<R, TaskError> {
        let ended = self.awaited()?.wait(None).unwrap_or(Err(TaskError::TimedOut));
        self.work = None;
        ended?.decode()
    }

    /// The same, but no longer than `limit`.
    ///
    /// # Errors
    /// [`TaskError::TimedOut`]: it goes on, and may be waited for again, [cancelled](Task::cancel) or dropped.
    ///
    /// # Panics
    /// When its value, or its error, was already told.
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<R, TaskError> {
        let ended = self.awaited()?.wait(Instant::now().checked_add(limit)).ok_or(TaskError::TimedOut)?;
        self.work = None;
        ended?.decode()
    }

    /// Calls `then` with its value or its error, when it is done, on a thread of the crate's. A value that panics when it is decoded is a
    /// [`TaskError::Panicked`] (who [waits](Task::wait) for it, or polls it, panics instead).
    pub fn on_done(mut self, then: impl FnOnce(Result<R, TaskError>) + Send + 'static) {
        if let Err(error) = self.awaited() {
            return Callbacks::get().run(move || then(Err(error)));
        }
        if let Some(work) = self.work.take() {
            // Decoding is the user's code. Nobody is here to whom its panic could go, and `then` is to be called.
            let decoded = |value: Value| caught(|| value.decode()).unwrap_or_else(|told| Err(told.into_error()));
            background::at_end(work, move |ended| then(ended.and_then(decoded)));
        }
    }
}

impl<R> Task<R> {
    /// Whether it has ended: its value, or its error, is there.
    pub fn is_done(&self) -> bool {
        self.ours().is_none_or(|work| work.is_done())
    }

    /// Stops it. Whoever waits gets [`TaskError::Cancelled`], unless it had given its value before. It does not wait.
    ///
    /// In a process of its own: SIGTERM to its process group, and SIGKILL after 10 s to what is still there (or what
    /// [`Builder::stop`](crate::Builder::stop) says); who waits is told when it is gone. In a
    /// [`Worker`](crate::Worker), which others use as well: who waits is told at once; if it has not begun it never will, else it goes on
    /// until it asks whether it was [`cancelled`](crate::cancelled).
    pub fn cancel(&self) {
        if let Some(work) = self.ours() {
            work.cancel();
        }
    }

    /// The id of the process in which it runs; `None` when that has ended, and on a thread.
    pub fn pid(&self) -> Option<u32> {
        self.ours().and_then(|work| work.pid())
    }
}

impl<R: DeserializeOwned> Future for Task<R> {
    type Output = Result<R, TaskError>;

    /// # Panics
    /// When its value, or its error, was already told.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R, TaskError>> {
        if let Err(error) = self.awaited() {
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(ended) = Pin::new(self.work.as_mut().expect("its end is told once")).poll(context) else {
            return Poll::Pending;
        };
        self.work = None;
        Poll::Ready(ended.and_then(|value| value.decode()))
    }
}

impl<R> Drop for Task<R> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            if self.owner.is_foreign() {
                return mem::forget(work);
            }
            let name = work.name();
            // Most have ended well by now, and need no thread.
            background::now_or_at_end(work, move |ended| match ended {
                Ok(_) | Err(TaskError::Cancelled) => {}
                Err(error) => {
                    Callbacks::get().run(move || log::error!("pkit: `{name}`, whose task was dropped: {error}"))
                }
            });
        }
    }
}

impl<R> fmt::Debug for Task<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Task");
        if let Some(work) = self.ours() {
            out.field("name", &work.name()).field("pid", &work.pid()).field("is_done", &work.is_done());
        }
        out.finish_non_exhaustive()
    }
}
