//! How a process is stopped: the ladder of signals, and what becomes of those a leader leaves behind.
//!
//! A ladder is a list of (signal, grace period) and always ends in SIGKILL, the one signal that cannot
//! be caught, blocked or ignored (signal(7)). This module only says *what* is sent and for how long one
//! waits; the climbing is done elsewhere, against the clock and the process group.

use std::time::Duration;

use crate::signal::Signal;

/// The stop ladder: signals, each with the time given to obey it, and SIGKILL after the last.
///
/// Default: SIGTERM, 10 s, SIGKILL.
///
/// # Example
///
/// ```
/// use pkit::{Signal, Stop};
/// use std::time::Duration;
///
/// // SIGTERM; after 10 s SIGQUIT; after 2 s more SIGKILL.
/// let stop = Stop::signal(Signal::TERM, Duration::from_secs(10)).then(Signal::QUIT, Duration::from_secs(2));
/// assert_ne!(stop, Stop::default());
/// // A ladder that begins with SIGKILL has nothing else to it.
/// assert_eq!(Stop::signal(Signal::KILL, Duration::from_secs(1)), Stop::kill());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a ladder does nothing until it is given to a builder"]
pub struct Stop {
    /// What is sent before SIGKILL; SIGKILL itself is never among them.
    steps: Vec<(Signal, Duration)>,
    /// SIGKILL was named: nothing can come after it.
    closed: bool,
}

impl Stop {
    const GRACE: Duration = Duration::from_secs(10);

    /// A ladder whose first step is `signal`; who is still there after `grace` gets the next one.
    ///
    /// `grace` may be zero: then the next signal follows at once.
    pub fn signal(signal: Signal, grace: Duration) -> Self {
        Self { steps: Vec::new(), closed: false }.then(signal, grace)
    }

    /// One more step after those so far. A step after SIGKILL is never reached, so it is left out.
    pub fn then(mut self, signal: Signal, grace: Duration) -> Self {
        if signal == Signal::KILL {
            self.closed = true;
        }
        if !self.closed {
            self.steps.push((signal, grace));
        }
        self
    }

    /// SIGKILL at once: the process gets no chance to clean up.
    pub fn kill() -> Self {
        Self { steps: Vec::new(), closed: true }
    }

    /// How long the first signal is given to be obeyed. Where there is none but SIGKILL: as long as by default.
    pub(crate) fn first_grace(&self) -> Duration {
        self.steps.first().map_or(Self::GRACE, |(_, grace)| *grace)
    }

    /// The steps before the final SIGKILL, in order, each with its grace period. Empty: SIGKILL at once.
    pub(crate) fn steps(&self) -> &[(Signal, Duration)] {
        &self.steps
    }
}

impl Default for Stop {
    /// SIGTERM, 10 s, SIGKILL.
    fn default() -> Self {
        Self::signal(Signal::TERM, Self::GRACE)
    }
}

/// What happens to the processes that a leader leaves in its group when it ends by itself.
///
/// Default: they get SIGTERM, and SIGKILL after 2 s. The run is over when they are gone.
///
/// # Example
///
/// ```
/// use pkit::{Signal, Stop, Survivors};
/// use std::time::Duration;
///
/// let patient = Survivors::stop(Stop::signal(Signal::TERM, Duration::from_secs(30)));
/// assert_ne!(patient, Survivors::default());
/// assert_eq!(Survivors::stop(Stop::signal(Signal::TERM, Duration::from_secs(2))), Survivors::default());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until it is given to a builder"]
pub struct Survivors(Option<Stop>);

impl Survivors {
    const GRACE: Duration = Duration::from_secs(2);

    /// They are stopped with this ladder.
    pub fn stop(ladder: Stop) -> Self {
        Self(Some(ladder))
    }

    /// They are left alone: the run is over when its leader has ended, and a next run may find
    /// processes of the one before it still at work.
    ///
    /// Where orphans come to this program (PID 1, a subreaper, one that had to walk for a [`Containment::Tree`](crate::Containment)),
    /// their statuses are taken when they end. Until then each run that left somebody keeps a descriptor, five with a cgroup, and they are
    /// looked for now and then: one second apart at first, then ever less often, down to 64 seconds.
    pub fn leave() -> Self {
        Self(None)
    }

    /// The ladder they are stopped with; `None` when they are left alone.
    pub(crate) fn ladder(&self) -> Option<&Stop> {
        self.0.as_ref()
    }
}

impl Default for Survivors {
    /// SIGTERM, 2 s, SIGKILL.
    fn default() -> Self {
        Self::stop(Stop::signal(Signal::TERM, Self::GRACE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn steps_keep_their_order_and_never_hold_sigkill() {
        let stop = Stop::signal(Signal::INT, S).then(Signal::TERM, 2 * S);
        assert_eq!(stop.steps(), [(Signal::INT, S), (Signal::TERM, 2 * S)]);
        let closed = stop.clone().then(Signal::KILL, S).then(Signal::QUIT, S);
        assert_eq!(closed.steps(), stop.steps());
        assert!(Stop::kill().then(Signal::TERM, S).steps().is_empty());
    }

    #[test]
    fn defaults() {
        assert_eq!(Stop::default().steps(), [(Signal::TERM, 10 * S)]);
        assert_eq!(Survivors::default().ladder().map(Stop::steps), Some(&[(Signal::TERM, 2 * S)][..]));
        assert_eq!(Survivors::leave().ladder(), None);
    }
}
