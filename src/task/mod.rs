//! Calls of functions in other processes, and their values back.

mod background;
mod cancelled;
mod elsewhere;
mod error;
mod handle;
mod outcome;
mod owner;
mod panicking;
mod single;
mod worker;

use std::any::{Any, type_name};
use std::os::fd::OwnedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::forkserver::{self, Function};
use crate::process::{Builder, Process};
use crate::sys::channel::Channel;
use crate::sys::image::{Argument, the_only};
use single::Single;

pub use cancelled::cancelled;
pub use error::TaskError;
pub use handle::Task;
pub use worker::{Remote, Worker, WorkerBuilder};

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
/// `function` is a function item, or a closure that captures nothing; argument and value travel as bytes, of any size. (Types of your own
/// derive serde's `Serialize` and `Deserialize`. A large `Vec<u8>` is taken byte by byte: use [`SharedBytes`](crate::SharedBytes).) What the
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
    spawn_with(|process| process, function, argument)
}

/// The same, in a process with options: limits, another user, a directory, captured output, callbacks, and what else there is in [`Builder`].
///
/// # Errors
/// Those of [`spawn`]; [`TaskError::Start`], too, for an option that is wrong. A restart policy is: a call is made once.
///
/// # Example
///
/// ```
/// use pkit::{Resource, TaskError};
///
/// // At most 64 MiB of memory: it cannot take that of this program.
/// let task = pkit::spawn_with(
///     |process| process.rlimit(Resource::AddressSpace, 64 << 20, 64 << 20),
///     |bytes: usize| vec![1_u8; bytes].len(),
///     1 << 30,
/// )?;
/// assert!(matches!(task.wait(), Err(TaskError::Crashed(_))));
/// # Ok::<(), TaskError>(())
/// ```
pub fn spawn_with<F, A, R>(
    options: impl FnOnce(Builder) -> Builder,
    function: F,
    argument: A,
) -> Result<Task<R>, TaskError>
where
    F: Fn(A) -> R + Copy,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let (ours, theirs) = Channel::pair().map_err(|error| forkserver::not_started(type_name::<F>(), error))?;
    let code = Function::of(function, entry::<F, A, R>, &argument).map_err(TaskError::Codec)?;
    let builder = options(Process::builder(code.with_channel(theirs).into_target()));
    builder.check_never_restarted()?;
    let process = builder.build()?;
    process.start(false)?;
    Ok(Task::new(Single::new(process, ours)))
}

fn entry<F, A, R>(argument: Argument<'_>, channel: &mut dyn Any) -> i32
where
    F: Fn(A) -> R + Copy,
    A: DeserializeOwned,
    R: Serialize,
{
    const PANICKED: i32 = 101;
    let channel = channel.downcast_mut::<Option<OwnedFd>>().and_then(Option::take);
    let Some(channel) = channel.map(Channel::from) else { return PANICKED };
    let call = || Ok(the_only::<F>()(forkserver::decode_argument(argument)?));
    if outcome::report(channel, call) { 0 } else { PANICKED }
}
