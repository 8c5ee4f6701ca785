//! The options of a worker.

use std::any::Any;
use std::process::Termination;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::home::{Home, Queued};
use super::host::answering;
use super::link::{self, Link};
use super::remote;
use super::wire::Lane;
use super::{Form, Now, Worker};
use crate::forkserver::{captures_nothing, decode_argument};
use crate::process::{Builder, Process, exit_code};
use crate::stop::{Stop, Survivors};
use crate::sys::image::{Argument, Entry, the_only};
use crate::task::error::TaskError;

/// The options of a [`Worker`]; from [`Worker::builder`].
///
/// # Example
///
/// ```
/// use pkit::{Resource, Worker};
///
/// let worker = Worker::builder()
///     .process(|process| process.name("parser").umask(0o077).rlimit(Resource::Core, 0, 0))
///     .setup(|level: String| eprintln!("a parser begins, with log level {level}"), "debug".to_owned())
///     .task_limit(1_000)
///     .build()?;
/// assert_eq!(worker.invoke(|text: String| text.len(), "four".to_owned())?, 4);
/// # Ok::<(), pkit::TaskError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct WorkerBuilder {
    options: Options,
}

/// Those of a worker that is a process.
#[derive(Clone)]
pub(super) struct Options {
    process: Builder,
    name: String,
    setup: Option<Setup>,
    limit: Option<u64>,
}

type Encode = Arc<dyn Fn(&dyn Home) -> Result<remote::Sent, TaskError> + Send + Sync>;

#[derive(Clone)]
struct Setup {
    entry: Entry,
    /// Encoded again for each process.
    encode: Encode,
}

impl WorkerBuilder {
    pub(super) fn new() -> WorkerBuilder {
        let process =
            Process::builder(link::target().into_target()).name("worker").survivors(Survivors::stop(Stop::kill()));
        WorkerBuilder { options: Options { process, name: "worker".to_owned(), setup: None, limit: None } }
    }

    /// Sets options of its process: every one of [`Builder`], but for a restart policy, which a worker does not need.
    ///
    /// What makes it ready ([`Builder::ready`]) may be its setup: [`build`](WorkerBuilder::build) waits for both. Nobody waits until one is ready that takes
    /// the place of another; one that is not in time is stopped, and who waits for its calls is told
    /// [`TaskError::Crashed`].
    ///
    /// Other than for a process of its own, what the worker leaves in its group is killed at once when it ends: nobody waits for that.
    pub fn process(mut self, set: impl FnOnce(Builder) -> Builder) -> WorkerBuilder {
        self.options.process = set(self.options.process);
        self
    }

    /// A function that runs first in the worker, and in each process that takes its place; the last one that was set. Default: none.
    ///
    /// Its result is told as from `main`. When it fails ([`build`](WorkerBuilder::build) tells, later the calls that wait for it do) the process is stopped,
    /// and the next call tries again.
    pub fn setup<F, A, R>(mut self, function: F, argument: A) -> WorkerBuilder
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Termination,
    {
        captures_nothing(function);
        let encode = Arc::new(move |home: &dyn Home| remote::encode(home, &argument));
        self.options.setup = Some(Setup { entry: setup_entry::<F, A, R>, encode });
        self
    }

    /// After so many calls its process is replaced: it finishes what was queued and ends, and then a new one is started and goes on.
    /// Each [`invoke`](Worker::invoke), [`schedule`](Worker::schedule), [`concurrent`](Worker::concurrent) and [`hold`](Worker::hold) counts, and what is called on
    /// a [`Remote`](crate::Remote). What it holds ends with it: whoever calls that is told [`TaskError::Crashed`]. Default: none. (For functions, libraries above all, that leak.)
    ///
    /// So one call that takes long, beside the others too, holds up all that come after the limit. Where the new process cannot be started, those
    /// end with [`TaskError::Start`]. Each process that waits for its turn takes two of this program's descriptors.
    ///
    /// # Panics
    /// When it is 0.
    pub fn task_limit(mut self, calls: u64) -> WorkerBuilder {
        assert!(calls > 0, "a worker that is replaced before its first call");
        self.options.limit = Some(calls);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`TaskError::Start`]: an option is wrong, or as for [`Target::function`](crate::Target::function). Those of the setup, which has run when
    /// this returns; also that it was not ready in time.
    pub fn build(self) -> Result<Worker, TaskError> {
        let mut options = self.options;
        options.name = options.process.clone().build()?.name().to_owned();
        options.process.check_never_restarted()?;
        let worker = Worker::of(Form::Process(Box::new(options)));
        let (_, setup) = worker.start()?;
        let set_up = setup.map_or(Ok(()), |setup| setup.end().map(drop));
        // Where it was stopped for not being ready, that says more.
        if matches!(set_up, Ok(()) | Err(TaskError::Crashed(_)))
            && let Some(link) = link_of(&worker)
        {
            link.until_ready()?;
        }
        set_up.map(|()| worker)
    }
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Options { name, limit, .. } = &self.options;
        f.debug_struct("WorkerBuilder").field("name", name).field("task_limit", limit).finish_non_exhaustive()
    }
}

impl Options {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn has_calls_left(&self, calls: u64) -> bool {
        // The setup is not one of them.
        self.limit.is_none_or(|limit| calls < limit + u64::from(self.setup.is_some()))
    }

    /// One more process, which is not started yet.
    pub(super) fn link(&self) -> Result<Arc<Link>, TaskError> {
        Ok(Link::new(&self.name, &self.process, self.setup.is_some())?)
    }

    /// What queues the setup, which is to be the first call.
    pub(super) fn set_up(&self, home: &Arc<dyn Home>) -> Result<impl FnOnce() -> Option<Queued> + use<>, TaskError> {
        let encoded = match &self.setup {
            Some(Setup { entry, encode }) => Some((*entry, encode(&**home)?)),
            None => None,
        };
        let home = Arc::clone(home);
        Ok(move || {
            let (entry, (argument, kept)) = encoded?;
            Some(Queued::new(&home, Lane::Ordered, entry, argument, kept))
        })
    }
}

fn link_of(worker: &Worker) -> Option<Arc<Link>> {
    match &worker.lock().now {
        Some(Now::Process(link)) => Some(Arc::clone(link)),
        Some(Now::Thread(_)) | None => None,
    }
}

/// What it returns is told as by `main`.
fn setup_entry<F, A, R>(argument: Argument<'_>, call: &mut dyn Any) -> i32
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: DeserializeOwned,
    R: Termination,
{
    let set_up = || {
        let code = exit_code(the_only::<F>()(decode_argument(argument)?).report());
        assert!(code == 0, "the setup failed; what it said is on the standard error of the worker");
        Ok(())
    };
    answering(call, |call| call.answer(set_up))
}
