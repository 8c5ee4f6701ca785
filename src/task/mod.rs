//! One call of a function in a process of its own, and its value back.

mod background;
mod error;
mod outcome;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result as Started;
use crate::exit::Exit;
use crate::forkserver::{self, Function};
use crate::process::{Exited, Process};
use crate::sys::channel::Channel;
use outcome::Value;

pub use error::TaskError;

/// Calls a function in a process of its own, and waits for its value.
///
/// As [`spawn`] and [`Task::wait`].
///
/// # Errors
/// Those of both.
///
/// # Example
///
/// ```
/// fn count_primes(below: u64) -> u64 {
///     (2..below).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count() as u64
/// }
///
/// assert_eq!(pkit::run(count_primes, 1_000)?, 168);
/// # Ok::<(), pkit::TaskError>(())
/// ```
pub fn run<F, A, R>(function: F, argument: A) -> Result<R, TaskError>
where
    F: Fn(A) -> R + Copy,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    spawn(function, argument)?.wait()
}

/// Calls a function in a process of its own, in the background.
///
/// `function` is a function item, or a closure that captures nothing; argument and value travel as bytes, of any size. What the
/// process sees and has, is as for [`Target::function`](crate::Target::function); it is stopped when this program ends.
///
/// # Errors
/// - [`TaskError::Start`]: no process could be made; see [`Target::function`](crate::Target::function).
/// - [`TaskError::Codec`]: the argument cannot be encoded.
///
/// # Example
///
/// ```
/// let tasks: Vec<_> = (1..=3).map(|n| pkit::spawn(|n: u64| n * n, n)).collect::<Result<_, _>>()?;
/// let squares: Vec<u64> = tasks.into_iter().map(|task| task.wait()).collect::<Result<_, _>>()?;
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), pkit::TaskError>(())
/// ```
pub fn spawn<F, A, R>(function: F, argument: A) -> Result<Task<R>, TaskError>
where
    F: Fn(A) -> R + Copy,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let (ours, theirs) = Channel::pair().map_err(|error| forkserver::not_started::<F>(error))?;
    let code = Function::of(function, entry::<F, A, R>, &argument).map_err(TaskError::Codec)?;
    let process = Process::new(code.with_channel(theirs).into_target());
    process.start(false)?;
    let run = Running { exited: process.exited(), process, channel: ours, is_cancelled: AtomicBool::new(false) };
    Ok(Task { run: Some(run), value: PhantomData })
}

fn entry<F, A, R>(argument: &[u8], channel: Option<OwnedFd>) -> i32
where
    F: Fn(A) -> R + Copy,
    A: DeserializeOwned,
    R: Serialize,
{
    const PANICKED: i32 = 101;
    let Some(channel) = channel.map(Channel::from) else { return PANICKED };
    let call = || Ok(forkserver::the_only::<F>()(forkserver::decode(argument)?));
    if outcome::report(&channel, call) { 0 } else { PANICKED }
}

/// A function that runs in a process of its own, and its value to come.
///
/// It is a future, for any runtime or none, and costs no thread. Dropped, it goes on in the background, and an error of it is logged.
#[must_use = "dropped, its value is lost; `on_done(drop)` says that this is meant"]
pub struct Task<R> {
    /// Until its end was told.
    run: Option<Running>,
    value: PhantomData<fn() -> R>,
}

/// What does not depend on the type of the value.
struct Running {
    process: Process,
    exited: Exited,
    channel: Channel,
    is_cancelled: AtomicBool,
}

impl Running {
    /// What came out of it, now that its process has ended.
    fn outcome(&self, end: Started<Exit>) -> Result<Value, TaskError> {
        match outcome::heard(&self.channel) {
            Some(outcome) => outcome,
            None if self.is_cancelled.load(Ordering::Relaxed) => Err(TaskError::Cancelled),
            None => Err(TaskError::Crashed(end?)),
        }
    }
}

impl<R: DeserializeOwned> Task<R> {
    /// Waits for its value.
    ///
    /// # Errors
    /// [`TaskError`] tells them apart.
    pub fn wait(mut self) -> Result<R, TaskError> {
        let run = self.run.take().expect("its end was not told yet, for that takes the task");
        run.outcome(run.process.join())?.decode()
    }

    /// The same, but no longer than `limit`.
    ///
    /// # Errors
    /// [`TaskError::TimedOut`]: it goes on, and may be waited for again, [cancelled](Task::cancel) or dropped.
    ///
    /// # Panics
    /// When its value, or its error, was already told.
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<R, TaskError> {
        let run = self.run.as_ref().expect("its end is told once");
        let end = match run.process.join_timeout(limit) {
            Ok(None) => return Err(TaskError::TimedOut),
            Ok(Some(exit)) => Ok(exit),
            Err(error) => Err(error),
        };
        let outcome = run.outcome(end);
        self.run = None;
        outcome?.decode()
    }

    /// Calls `then` with its value or its error, when it is done, on a thread of the crate's.
    pub fn on_done(mut self, then: impl FnOnce(Result<R, TaskError>) + Send + 'static) {
        if let Some(run) = self.run.take() {
            background::when_done(run, move |outcome| then(outcome.and_then(|value| value.decode())));
        }
    }
}

impl<R> Task<R> {
    /// Whether it has ended: its value, or its error, is there.
    pub fn is_done(&self) -> bool {
        self.run.as_ref().is_none_or(|run| !run.process.is_alive())
    }

    /// Stops it: SIGTERM to its process group, and SIGKILL after 10 s to what is still there. Whoever waits gets
    /// [`TaskError::Cancelled`], unless it had given its value before. It does not wait.
    pub fn cancel(&self) {
        if let Some(run) = &self.run {
            run.is_cancelled.store(true, Ordering::Relaxed);
            // It may have ended.
            let _ = run.process.terminate(false);
        }
    }

    /// The id of its process; `None` when that has ended.
    pub fn pid(&self) -> Option<u32> {
        self.run.as_ref().and_then(|run| run.process.pid())
    }
}

impl<R: DeserializeOwned> Future for Task<R> {
    type Output = Result<R, TaskError>;

    /// # Panics
    /// When its value, or its error, was already told.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R, TaskError>> {
        let run = self.run.as_mut().expect("its end is told once");
        let Poll::Ready(end) = Pin::new(&mut run.exited).poll(context) else { return Poll::Pending };
        let outcome = run.outcome(end);
        self.run = None;
        Poll::Ready(outcome.and_then(|value| value.decode()))
    }
}

impl<R> Drop for Task<R> {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            let name = run.process.name().to_owned();
            background::when_done(run, move |outcome| match outcome {
                Ok(_) | Err(TaskError::Cancelled) => {}
                Err(error) => log::error!("pkit: `{name}`, whose task was dropped: {error}"),
            });
        }
    }
}

impl<R> fmt::Debug for Task<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.run.as_ref().map(|run| &run.process);
        f.debug_struct("Task").field("process", &process).finish_non_exhaustive()
    }
}
