//! Waiting for the end of a process in async code, under any runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use super::core::Inner;
use super::handle::Process;
use crate::error::Result;
use crate::exit::Exit;

/// The future of [`Process::exited`]: what [`Process::join`] returns, without blocking.
///
/// It needs no runtime: the crate's own thread wakes it. It may be dropped at any time, and several may wait for the
/// same process. It holds a handle, so the process is not stopped while it waits. Polled first, it closes a piped stdin
/// that nobody took, as [`Process::join`] does.
///
/// # Errors
///
/// It resolves to the errors of [`Process::join`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct Exited {
    process: Process,
    /// Under which its waker is kept.
    id: u64,
    /// The generation in which it was polled first.
    since: Option<u64>,
}

impl Exited {
    pub(super) fn new(process: Process) -> Exited {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Exited { process, id: IDS.fetch_add(1, Ordering::Relaxed), since: None }
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.process.inner
    }
}

impl Future for Exited {
    type Output = Result<Exit>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Exit>> {
        if let Err(error) = self.inner().check_owner("join") {
            return Poll::Ready(Err(error));
        }
        let (inner, id) = (Arc::clone(self.inner()), self.id);
        let since = *self.since.get_or_insert_with(|| inner.begin_join());
        inner.core.poll(id, context.waker(), |core| inner.end(core, since))
    }
}

impl Drop for Exited {
    fn drop(&mut self) {
        if !self.inner().is_foreign() {
            self.inner().core.forget(self.id);
        }
    }
}
