//! Why a task has no value.

use crate::error::Error;
use crate::exit::Exit;

/// Why a function in another process gave no value.
///
/// [`Error`] converts into it, so `?` does for both where a function returns `Result<_, TaskError>`.
///
/// # Example
///
/// ```
/// use pkit::TaskError;
///
/// match pkit::run(|n: u32| if n > 2 { panic!("{n} is too many") } else { n }, 3) {
///     Ok(n) => println!("{n}"),
///     Err(TaskError::Panicked { message, .. }) => assert_eq!(message, "3 is too many"),
///     Err(TaskError::Crashed(exit)) => println!("it may not even have begun: {exit}"),
///     Err(error) => println!("{error}"), // in time, cancelled, encoded, started
/// }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It panicked; or its argument did when that was decoded, or its value when it was encoded (for
    /// [`Task::on_done`](crate::Task::on_done), or decoded). Nothing of that is on its standard error: it is all here.
    #[error("it panicked{}: {message}", at(location.as_deref()))]
    Panicked {
        /// What it panicked with, if that was text.
        message: String,
        /// File, line and column.
        location: Option<String>,
        /// Where `RUST_BACKTRACE` (or `RUST_LIB_BACKTRACE`) asks for one.
        backtrace: Option<String>,
    },
    /// Its process ended before it gave a value: by a signal, by an exit that it called itself, or because it was killed. In a worker, it may be another call that
    /// ended it, and this one may not have begun: try again only what may run twice. The exit is that of the worker.
    #[error("its process ended before it gave a value: {0}")]
    Crashed(Exit),
    /// It was not done in time. It goes on.
    #[error("it was not done in time")]
    TimedOut,
    /// It was cancelled before it gave a value.
    #[error("it was cancelled")]
    Cancelled,
    /// Its argument or its value could not be encoded or decoded.
    #[error("{0}")]
    Codec(String),
    /// It never ran: no process could be made, or the worker or the pool was closed ([`Error::is_closed`](crate::Error::is_closed)).
    #[error(transparent)]
    Start(Error),
}

impl From<Error> for TaskError {
    fn from(error: Error) -> TaskError {
        TaskError::Start(error)
    }
}

fn at(location: Option<&str>) -> String {
    location.map(|location| format!(" at {location}")).unwrap_or_default()
}
