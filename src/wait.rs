//! How long a call waits for what it asked for.
//!
//! Every call that starts or stops a process takes an `impl Into<Wait>`, so `true`, `false` and a
//! [`Duration`] say all there is to say. The time given is the *caller's* patience: when it passes,
//! the call returns a timeout and the process goes on with what it was doing.

use std::time::Duration;

/// How long a call waits for its effect.
///
/// # Example
///
/// ```
/// use pkit::Wait;
/// use std::time::Duration;
///
/// assert_eq!(Wait::from(true), Wait::Yes);
/// assert_eq!(Wait::from(false), Wait::No);
/// assert_eq!(Wait::from(Duration::from_secs(5)), Wait::For(Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Set it going and return at once. (A start blocks until the program executes all the same, a restart until the
    /// run before it is over.)
    No,
    /// Until it has happened, however long that takes.
    Yes,
    /// Until it has happened, at most this long. Zero looks once. (A start blocks until the program executes all the
    /// same.)
    For(Duration),
}

impl From<bool> for Wait {
    /// `true` is [`Wait::Yes`], `false` is [`Wait::No`].
    fn from(wait: bool) -> Self {
        if wait { Self::Yes } else { Self::No }
    }
}

impl From<Duration> for Wait {
    /// At most this long.
    fn from(limit: Duration) -> Self {
        Self::For(limit)
    }
}
