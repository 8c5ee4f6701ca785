//! A process (or a thread) that stays, and runs one function after the other.
//!
//! ```text
//! Worker ── Home ──┬─ Link ════ rings, channel ════ inside ─┬─ Host: tokens, objects ── the function
//!    │             └─ Thread ═══════ queue ═════════════════┘
//!    └─ Task ── Slot: the end of one
//! ```
//!
//! A call is entered on the [`board`] of its home before it is sent, and taken from it by its answer or with the end of the home: so each has one end.

mod board;
mod builder;
mod current;
mod home;
mod host;
mod inbox;
mod inside;
mod link;
mod outgoing;
mod remote;
mod slot;
mod thread;
mod wire;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::TaskError;
use super::handle::Task;
use super::owner::Owner;
use crate::error::{Error, Kind, Who};
use crate::forkserver::{captures_nothing, decode_argument};
use crate::sys::image::{Argument, Entry, the_only};
use crate::sys::locked;
use builder::Options;
use current::{Current, Now};
use home::{Home, Homes, Queued};
use host::answering;
use thread::Thread;
use wire::Lane;

/// How long one looks for the other side's answer before it sleeps: about as long as it takes to be woken, on a machine whose processors have to
/// wake up first.
const WAKING: Duration = Duration::from_micros(50);

pub use builder::WorkerBuilder;
pub use remote::Remote;

/// A process that stays, and runs one function after the other: no start for each, and what one leaves behind (statics, connections, objects that
/// are [held](Worker::hold)) the next one finds.
///
/// Any number of threads may use one: every method takes `&self`. Functions and arguments are as for [`spawn`](crate::spawn): what
/// runs is a function item or a closure that captures nothing, and arguments and values travel as bytes, of any size. (For large byte arrays take
/// `serde_bytes::ByteBuf`: a `Vec<u8>` serde takes byte by byte.)
///
/// # The end of its process
///
/// When the process ends by itself, whoever waits gets [`TaskError::Crashed`] at once, and what was held there is gone. The next call
/// starts a new one; so it is, too, after the calls of a [task limit](WorkerBuilder::task_limit).
///
/// # Drop
///
/// Dropped, it finishes nothing and is stopped: who waits gets [`TaskError::Cancelled`]. See [`close`](Worker::close) and
/// [`detach`](Worker::detach).
///
/// # Example
///
/// ```
/// use pkit::{Task, TaskError, Worker};
///
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// let worker = Worker::new()?;
/// assert_eq!(worker.invoke(square, 3)?, 9);
/// let tasks: Vec<Task<u64>> = (0..5).map(|n| worker.schedule(square, n)).collect::<Result<_, _>>()?;
/// let squares: Vec<u64> = tasks.into_iter().map(Task::wait).collect::<Result<_, _>>()?;
/// assert_eq!(squares, [0, 1, 4, 9, 16]);
/// # Ok::<(), TaskError>(())
/// ```
#[must_use = "dropped, it is stopped"]
pub struct Worker {
    form: Form,
    /// Before all locks of a home.
    current: Mutex<Current>,
    /// Held while one is started. Before `current`.
    starting: Mutex<()>,
    owner: Owner,
}

enum Form {
    Process(Box<Options>),
    Thread,
}

impl Worker {
    /// One with every option at its default; it is started.
    ///
    /// # Errors
    /// [`TaskError::Start`]: as for [`Target::function`](crate::Target::function).
    pub fn new() -> Result<Worker, TaskError> {
        Worker::builder().build()
    }

    /// The options of a worker; [`WorkerBuilder::build`] starts it.
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder::new()
    }

    /// A worker that is a thread of this program, and not a process: the same face, and no protection. What crashes it crashes the program, and to
    /// stop it means to ask: what runs goes on until it sees that it was [`cancelled`](crate::cancelled). Its arguments and values are encoded all
    /// the same, so that what runs here runs in a process as well. A closure does not compile that
    /// captures a value without size which is not [`Send`]:
    ///
    /// ```compile_fail,E0277
    /// let (worker, token) = (pkit::Worker::thread()?, std::marker::PhantomData::<*const ()>);
    /// worker.invoke(move |()| drop(token), ())?;
    /// # Ok::<(), pkit::TaskError>(())
    /// ```
    ///
    /// # Errors
    /// [`TaskError::Start`]: no thread could be started.
    pub fn thread() -> Result<Worker, TaskError> {
        let worker = Worker::of(Form::Thread);
        worker.home()?;
        Ok(worker)
    }

    fn of(form: Form) -> Worker {
        Worker { form, current: Mutex::default(), starting: Mutex::default(), owner: Owner::new() }
    }

    /// Calls a function, and waits for its value: after those that were scheduled before.
    ///
    /// # Errors
    /// [`TaskError`] tells them apart.
    pub fn invoke<F, A, R>(&self, function: F, argument: A) -> Result<R, TaskError>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.send(Lane::Ordered, function, call_entry::<F, A, R>, &argument)?.1.end()?.decode()
    }

    /// Queues a call, which runs after those before it.
    ///
    /// It does not wait, however many are queued: they are kept in memory. An argument of more than 64 KiB is a file in memory: until it is sent, which
    /// may be when the calls before it are done, it takes one of this program's descriptors as well (none for a [`thread`](Worker::thread)).
    ///
    /// # Errors
    /// - [`TaskError::Start`]: the worker was closed, or had to be started and was not.
    /// - [`TaskError::Codec`]: the argument cannot be encoded; one of more than 64 KiB, too, when there is no descriptor left for it.
    pub fn schedule<F, A, R>(&self, function: F, argument: A) -> Result<Task<R>, TaskError>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Ok(Task::new(self.send(Lane::Ordered, function, call_entry::<F, A, R>, &argument)?.1))
    }

    /// Calls a function at once, on a thread of its own in the worker.
    ///
    /// # Errors
    /// As for [`schedule`](Worker::schedule).
    pub fn concurrent<F, A, R>(&self, function: F, argument: A) -> Result<Task<R>, TaskError>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Ok(Task::new(self.send(Lane::Aside, function, call_entry::<F, A, R>, &argument)?.1))
    }

    /// Calls a function, and keeps what it gives in the worker: see [`Remote`]. It waits, as [`invoke`](Worker::invoke) does.
    ///
    /// # Errors
    /// As for [`invoke`](Worker::invoke).
    pub fn hold<F, A, T>(&self, function: F, argument: A) -> Result<Remote<T>, TaskError>
    where
        F: Fn(A) -> T + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        T: Send + 'static,
    {
        let (home, call) = self.send(Lane::Ordered, function, hold_entry::<F, A, T>, &argument)?;
        call.end()?.decode::<()>()?;
        Ok(Remote::new(home, call.id()))
    }

    /// Takes no more calls, finishes what is queued, and waits until it has ended. Objects that it holds are dropped.
    ///
    /// Called from one of its own functions (on a [`thread`](Worker::thread)) it would wait for itself.
    pub fn close(&self) {
        let homes = self.shut();
        homes.close();
        homes.join();
        self.forget_ended();
    }

    /// Stops it: who waits gets [`TaskError::Cancelled`], its process SIGTERM and after 10 s SIGKILL
    /// (or what [`Builder::stop`](crate::Builder::stop) says). It takes no more calls. It waits until it has ended; of a [`thread`](Worker::thread), until what runs has returned.
    pub fn terminate(&self) {
        let homes = self.shut();
        homes.stop();
        homes.join();
        self.forget_ended();
    }

    /// Lets it finish what is queued, while nobody waits for that: then it ends. Tasks that are there give their values.
    pub fn detach(self) {
        self.shut().close();
    }

    /// The id of the process that is at work, or waits for some; `None`: there is none at the moment, or it is a thread.
    pub fn pid(&self) -> Option<u32> {
        if self.owner.is_foreign() { None } else { self.lock().pid() }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match &self.form {
            Form::Process(options) => options.name(),
            Form::Thread => "worker",
        }
    }

    fn forget_ended(&self) {
        // In a fork somebody may have locked it for ever.
        if !self.owner.is_foreign() {
            self.lock().forget_ended();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        locked(&self.current)
    }

    /// From now on there are no calls. What it had until now, and what those had to finish that were replaced.
    fn shut(&self) -> Homes {
        if self.owner.is_foreign() {
            return Homes { now: None, before: Vec::new(), was_closed: true };
        }
        let mut current = self.lock();
        let was_closed = std::mem::replace(&mut current.is_closed, true);
        let before = current.before.iter().filter(|link| link.is_there()).cloned().collect();
        Homes { now: current.home(), before, was_closed }
    }

    fn send<F>(
        &self,
        lane: Lane,
        function: F,
        entry: Entry,
        argument: &impl Serialize,
    ) -> Result<(Arc<dyn Home>, Queued), TaskError> {
        captures_nothing(function);
        self.owner.check(|| self.name().to_owned(), "call a function of")?;
        loop {
            let home = self.home()?;
            let (argument, kept) = remote::encode(&*home, argument)?;
            // Under the lock: who closes it, or replaces it, does so before or after.
            let mut current = self.lock();
            current.forget_ended();
            if current.good(&self.form).is_some_and(|good| good.id() == home.id()) {
                let queued = Queued::new(&home, lane, entry, argument, kept);
                return Ok((home, queued));
            }
        }
    }

    /// Who does the next call.
    fn home(&self) -> Result<Arc<dyn Home>, TaskError> {
        if let Some(home) = self.open()?.good(&self.form) {
            return Ok(home);
        }
        // Others may go on stopping it, or asking for its pid, meanwhile.
        let _one_at_a_time = locked(&self.starting);
        if let Some(home) = self.open()?.good(&self.form) {
            return Ok(home);
        }
        self.start().map(|(home, _)| home)
    }

    /// # Errors
    /// It was closed.
    fn open(&self) -> Result<MutexGuard<'_, Current>, TaskError> {
        let current = self.lock();
        if current.is_closed {
            let who = Who { name: self.name().into(), pid: None };
            return Err(TaskError::Start(Error::new(who, "call a function of", Kind::Closed("worker"))));
        }
        Ok(current)
    }

    /// Starts the next one, and queues its setup.
    fn start(&self) -> Result<(Arc<dyn Home>, Option<Queued>), TaskError> {
        let Form::Process(options) = &self.form else {
            let thread = Thread::start(self.name())?;
            self.open()?.now = Some(Now::Thread(Arc::clone(&thread)));
            return Ok((thread, None));
        };
        let link = options.link()?;
        let home = Arc::clone(&link) as Arc<dyn Home>;
        // (To encode it is the user's code: not under the lock, and there is no process yet.)
        let set_up = options.set_up(&home)?;
        let mut current = self.open()?;
        let mut is_its_turn = true;
        if let Some(Now::Process(before)) = current.now.replace(Now::Process(Arc::clone(&link))) {
            is_its_turn = link.follow(&before);
            // There are no more calls of it: those are made under the lock that we hold.
            before.close();
            current.before.push_back(before);
        }
        let queued = set_up();
        drop(current);
        if is_its_turn {
            link.launch()?;
        }
        Ok((home, queued))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let homes = self.shut();
        if !homes.was_closed {
            homes.stop();
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name()).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

fn call_entry<F, A, R>(argument: Argument<'_>, call: &mut dyn Any) -> i32
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    answering(call, |call| call.answer(|| Ok(the_only::<F>()(decode_argument(argument)?))))
}

fn hold_entry<F, A, T>(argument: Argument<'_>, call: &mut dyn Any) -> i32
where
    F: Fn(A) -> T + Copy + Send + 'static,
    A: DeserializeOwned,
    T: Send + 'static,
{
    answering(call, |call| call.hold(|| Ok(the_only::<F>()(decode_argument(argument)?))))
}
