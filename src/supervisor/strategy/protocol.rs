//! What a plan takes and gives.

use std::time::Duration;

/// What becomes of the other children of a [`Supervisor`](crate::Supervisor) when one is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Nothing.
    #[default]
    OneForOne,
    /// All of them are stopped, in reverse order, and all are started again.
    OneForAll,
    /// The same for those that need it, directly or by others: in a list, those after it.
    RestForOne,
}

/// What a child means to the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Its policy never starts it again: who stops it for the sake of another one has stopped it for good.
    pub(crate) is_temporary: bool,
    /// Nothing that happens to it concerns the others: its restarts are not counted and take nobody along, and nobody fails with it.
    pub(crate) is_optional: bool,
}

/// A child's number. It is not given to another one.
pub(crate) type Place = usize;

/// What has happened, or is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Start,
    /// A child was added.
    Added,
    Stop,
    Kill,
    /// It is ready.
    Ready(Place),
    /// It has ended, or could not be started, and its policy would start it again.
    Held(Place),
    /// It has ended, and its policy leaves it at that; or it was stopped.
    Ended(Place),
    /// It has ended, or could not be started, and its policy has given up.
    Failed(Place),
    /// One is to be stopped and started, whatever its policy says. The others go on.
    Restart(Place),
    /// One is not to be there any more.
    Remove(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Launch(Place),
    /// It may do what its policy says, when that is due.
    Permit(Place),
    /// Stops it by its ladder; or takes its policy back, where it is held.
    Stop(Place),
    Kill(Place),
    Tell(Notice),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// All that are wanted are ready.
    Up,
    /// Nothing runs any more, and nothing is due.
    Down,
    /// It was removed, as asked; or because it did not become ready when it was added.
    Removed(Place),
    /// All are stopped for this.
    Failing(Failure),
}

/// Why a supervisor ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It did not become ready when all were started.
    NotStarted(Place),
    /// Its policy has given up.
    Child(Place),
    /// One restart more, that of this child, would be more than the intensity.
    TooMany(Place),
}

/// At most so many restarts, of all children, in any time of that length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intensity {
    pub(crate) restarts: u32,
    pub(crate) within: Duration,
}
