//! What the machine and the shell around it say to each other.

use std::time::{Duration, Instant};

use crate::exit::{ExitReason, Fault};
use crate::policy::{GiveUp, Restart};
use crate::signal::Signal;
use crate::stop::{Stop, Survivors};

/// What the owner of the process decided once and for all.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) restart: Restart,
    pub(crate) stop: Stop,
    pub(crate) survivors: Survivors,
    /// `None`: it is ready as soon as it was spawned.
    pub(crate) ready_within: Option<Duration>,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) drain: Duration,
    /// Someone wants to hear of the end before anything else happens.
    pub(crate) reports: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// By hand.
    Start,
    /// By who oversees it: as by hand, but the policy is asked also where it cannot be created, and remembers what it does.
    Launch,
    /// By who oversees it: what the policy wants may be done, when it is due.
    Permit,
    /// By hand: climb the stop ladder.
    Stop,
    /// By hand: SIGKILL, now.
    Kill,
    /// By hand: let this run end, and do not start another. Several may want that.
    Last,
    /// By hand: one of those takes it back. It says nothing of a stop that was asked for besides.
    NotLast,
    Spawned,
    /// Creating it failed with this errno.
    SpawnFailed(i32),
    Ready,
    Watchdog,
    WatchdogFailed,
    AnnouncedStop,
    Paused,
    Continued,
    LeaderExited(ExitReason),
    /// The answer to [`Action::Look`].
    Empty,
    /// The answer to [`Action::Look`].
    Occupied,
    /// The answer to [`Action::Look`]: not now. Who is there may be a zombie, or could not be looked at.
    Unclear,
    Drained,
    Reported,
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Create the process of the generation that is now current.
    Spawn,
    /// To everything the run owns, and SIGCONT after it so that a stopped process sees it.
    Signal(Signal),
    /// SIGKILL to everything the run owns.
    Kill,
    /// Find out whether anything of the run is left. Answered by `Empty`, `Occupied` or `Unclear`.
    Look,
    /// Read the pipes to their end. Answered by `Drained`.
    Drain,
    /// The pipes were not closed in time: someone else still holds them.
    Abandon,
    Conclude(Conclusion),
    Announce(Notice),
}

/// Where it stands, for who oversees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It does not run, and nothing is due.
    Resting,
    /// The same, for the policy gave up.
    Failed,
    /// The policy would start it again, once that is permitted.
    Held,
    /// It is on its way, up or down, and not ready.
    Going,
    Ready,
}

/// What is known of a run that is over, besides what the kernel said of its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conclusion {
    pub(crate) reason: ExitReason,
    /// A stop or a kill was asked for while the leader lived, or was being created.
    pub(crate) requested: bool,
    /// SIGKILL was sent, to the leader or to what it left behind.
    pub(crate) forced: bool,
    /// Why we ended it, where nobody asked.
    pub(crate) fault: Option<Fault>,
    pub(crate) output_leaked: bool,
    pub(crate) runtime: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    Started,
    Ready,
    Fault(Fault),
    Paused,
    Continued,
    Stopping,
    /// The leader ended and others of the run have not: they are ended.
    LeftBehind,
    Backoff {
        due: Instant,
    },
    GaveUp(GiveUp),
}
