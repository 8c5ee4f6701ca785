//! Waiting for a process in async code, under any runtime: until it is ready, until it has ended.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::core::Inner;
use super::handle::Process;
use super::monitor;
use super::waiting::Joining;
use crate::error::{Error, Kind, Result};
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
#[must_use = "futures do nothing unless they are polled"]
pub struct Exited {
    process: Process,
    /// Under which its waker is kept.
    id: u64,
    /// Since it was polled first.
    joining: Option<Joining>,
}

impl fmt::Debug for Exited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exited").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Exited {
    pub(super) fn new(process: Process) -> Exited {
        Exited { process, id: monitor::new_id(), joining: None }
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
        let joining = self.joining.get_or_insert_with(|| inner.begin_join(id));
        inner.poll(id, context.waker(), |core| joining.end(core))
    }
}

impl Drop for Exited {
    fn drop(&mut self) {
        if !self.inner().is_foreign() {
            self.inner().core.forget(self.id);
        }
    }
}

/// The future of [`Process::ready`]: what [`Process::start`] with `true` waits for, without blocking.
///
/// It needs no runtime, may be dropped at any time, and holds a handle, so the process is not stopped while it waits.
///
/// # Errors
///
/// - [`Error::is_not_running`]: there was no run when it was made.
/// - [`Error::is_not_created`]: that run could not be created.
/// - [`Error::is_ended`], [`Error::is_not_ready`]: as for [`Process::start`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct BecomesReady {
    process: Process,
    /// Its place among those who wait, under which its waker is kept too; without one there was no run.
    id: Option<u64>,
}

impl BecomesReady {
    pub(super) fn new(process: Process) -> BecomesReady {
        let id = process.inner.lock_own().and_then(|mut core| core.join_the_waiting());
        BecomesReady { process, id }
    }
}

impl Future for BecomesReady {
    type Output = Result<u32>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<u32>> {
        const OPERATION: &str = "await the readiness of";
        let inner = &self.process.inner;
        if let Err(error) = inner.check_owner(OPERATION) {
            return Poll::Ready(Err(error));
        }
        let Some(id) = self.id else {
            return Poll::Ready(Err(Error::new(inner.who(None), OPERATION, Kind::NotRunning)));
        };
        let answer = inner.poll(id, context.waker(), |core| core.answer_of(id));
        answer.map(|answer| answer.map_err(|end| inner.not_ready(end)))
    }
}

impl Drop for BecomesReady {
    fn drop(&mut self) {
        let inner = &self.process.inner;
        if let Some(id) = self.id
            && let Some(mut core) = inner.lock_own()
        {
            core.await_no_more(id);
            drop(core);
            inner.core.forget(id);
        }
    }
}
