//! What the life of a process looks like from outside.

/// What a process is doing; from [`Process::state`](crate::Process::state) and [`Status`](crate::Status).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Nothing runs: never started, ended, or stopped.
    Idle,
    /// The process is being created.
    Starting,
    /// It runs and has not said that it is ready.
    Running,
    /// It runs and is ready.
    Ready,
    /// It is stopped by a signal (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU).
    Paused,
    /// It is being stopped, or it ended and the rest of its group is being cleared away.
    Stopping,
    /// It ended; the next start has a due time.
    Backoff,
    /// The restart policy gave up. Only a start by hand leaves this state.
    Failed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            State::Idle => "idle",
            State::Starting => "starting",
            State::Running => "running",
            State::Ready => "ready",
            State::Paused => "paused",
            State::Stopping => "stopping",
            State::Backoff => "backoff",
            State::Failed => "failed",
        })
    }
}
