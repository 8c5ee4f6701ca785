//! How a function gets to know that nobody wants its value any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::for_thread::ForThread;

/// Set by who cancels, read by the function.
pub(super) type Token = Arc<AtomicBool>;

thread_local! {
    static CURRENT: ForThread<Option<Token>> = const { ForThread::new(None) };
}

/// Whether the task that runs on this thread was cancelled: a function that works for long, called through a [`Worker`](crate::Worker),
/// asks now and then, and returns when it was. Whoever waited has been told already; what it returns goes nowhere.
///
/// False where no such task runs, on threads too that the function has started. (A function that has a process of its own,
/// by [`run`](crate::run) or [`spawn`](crate::spawn), is stopped by SIGTERM instead.)
///
/// # Example
///
/// ```
/// use pkit::{TaskError, Worker};
///
/// let worker = Worker::new()?;
/// let task = worker.schedule(|()| while !pkit::cancelled() { std::thread::yield_now() }, ())?;
/// task.cancel();
/// assert!(matches!(task.wait(), Err(TaskError::Cancelled)));
/// assert_eq!(worker.invoke(|n: u32| n + 1, 1)?, 2); // it goes on
/// # Ok::<(), TaskError>(())
/// ```
pub fn cancelled() -> bool {
    CURRENT.with(|current| current.with(|token| token.as_ref().is_some_and(|token| token.load(Ordering::Relaxed))))
}

/// Calls something that asks for this token.
pub(super) fn with<R>(token: &Token, call: impl FnOnce() -> R) -> R {
    let outer = CURRENT.with(|current| current.replace(Some(Arc::clone(token))));
    let result = call();
    CURRENT.with(|current| current.replace(outer));
    result
}
