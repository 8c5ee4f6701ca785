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
/// same process. It holds a handle, so the process is not stopped while it waits. Unlike [`Process::join`] it leaves a
/// piped stdin alone.
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
}

impl Exited {
    pub(super) fn new(process: Process) -> Exited {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Exited { process, id: IDS.fetch_add(1, Ordering::Relaxed) }
    }

    fn inner(&self) -> &Arc<Inner> {
        self.process.inner()
    }
}

impl Future for Exited {
    type Output = Result<Exit>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Exit>> {
        if let Err(error) = self.inner().check_owner("join") {
            return Poll::Ready(Err(error));
        }
        let mut core = self.inner().lock();
        core.wakers.retain(|(id, _)| *id != self.id);
        match self.inner().end(&core) {
            Some(end) => Poll::Ready(end),
            None => {
                // Under the same lock under which the end is told: it cannot come in between.
                core.wakers.push((self.id, context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Exited {
    fn drop(&mut self) {
        if !self.inner().is_foreign() {
            let mut core = self.inner().lock();
            let unused: Vec<_> = core.wakers.extract_if(.., |(id, _)| *id == self.id).collect();
            drop(core);
            // A waker's drop may run anything: not under our lock.
            drop(unused);
        }
    }
}
