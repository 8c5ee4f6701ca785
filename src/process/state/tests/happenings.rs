//! What can happen in which scene.

use super::super::Event;
use super::world::Scene;
use crate::exit::ExitReason;

use Happening::*;

/// Something that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    ByHand(Event),
    Created,
    Refused,
    LeaderEnds,
    /// The leader has a child in its group, or the last of them ends.
    Fork,
    OthersEnd,
    Answer,
    PipesClose,
    Reported,
    /// A word of the leader.
    Says(Event),
    /// A tick before the deadline, at it, or after it.
    Early,
    OnTime,
    Late,
    /// An event of an earlier run.
    Stale,
    /// An event that means nothing in this phase.
    Misplaced,
}

const START: Happening = ByHand(Event::Start);
const LAUNCH: Happening = ByHand(Event::Launch);
const PERMIT: Happening = ByHand(Event::Permit);
const STOP: Happening = ByHand(Event::Stop);
const KILL: Happening = ByHand(Event::Kill);
const LAST: Happening = ByHand(Event::Last);
const NOT_LAST: Happening = ByHand(Event::NotLast);

/// What can happen now; what should happen often is there more than once.
pub(super) fn possible(scene: &Scene) -> &'static [Happening] {
    match scene {
        Scene::Idle | Scene::Failed => {
            &[START, START, LAUNCH, LAUNCH, STOP, KILL, LAST, NOT_LAST, Late, Stale, Misplaced]
        }
        Scene::Backoff => {
            &[OnTime, OnTime, OnTime, Late, Early, START, LAUNCH, STOP, KILL, LAST, NOT_LAST, Stale, Misplaced]
        }
        Scene::Held => {
            &[PERMIT, PERMIT, PERMIT, PERMIT, LAUNCH, START, Late, STOP, KILL, LAST, NOT_LAST, Stale, Misplaced]
        }
        Scene::Reporting => {
            &[Reported, Reported, Reported, Late, START, LAUNCH, STOP, KILL, LAST, NOT_LAST, Stale, Misplaced]
        }
        Scene::Spawning { .. } => &[
            Created, Created, Created, Created, Created, Refused, Refused, STOP, KILL, LAST, NOT_LAST, Late, Stale,
            Misplaced,
        ],
        Scene::Live(live) if live.ended.is_none() => &LEADER_LIVES,
        Scene::Live(live) if !live.draining => &[
            Answer, Answer, OthersEnd, OnTime, OnTime, OnTime, Late, Early, STOP, KILL, LAST, NOT_LAST, PipesClose,
            Misplaced,
        ],
        Scene::Live(_) => &[PipesClose, OnTime, Early, Late, STOP, KILL, LAST, NOT_LAST, Stale, Misplaced],
    }
}

const LEADER_LIVES: [Happening; 24] = [
    LeaderEnds,
    LeaderEnds,
    LeaderEnds,
    LeaderEnds,
    Fork,
    Fork,
    Says(Event::Ready),
    Says(Event::Ready),
    Says(Event::Watchdog),
    Says(Event::WatchdogFailed),
    Says(Event::AnnouncedStop),
    Says(Event::Paused),
    Says(Event::Continued),
    Early,
    OnTime,
    OnTime,
    Late,
    STOP,
    KILL,
    LAST,
    NOT_LAST,
    PipesClose,
    Stale,
    Misplaced,
];

pub(super) fn is_misplaced(scene: &Scene, event: Event) -> bool {
    let (spawning, up, clearing, draining, reporting) = match scene {
        Scene::Idle | Scene::Failed | Scene::Backoff | Scene::Held => (false, false, false, false, false),
        Scene::Reporting => (false, false, false, false, true),
        Scene::Spawning { .. } => (true, false, false, false, false),
        Scene::Live(live) => {
            let up = live.ended.is_none();
            (false, up, !up && !live.draining, live.draining, false)
        }
    };
    match event {
        Event::Start | Event::Launch => spawning || up || clearing || draining,
        Event::Permit => !matches!(scene, Scene::Held),
        Event::Stop | Event::Kill | Event::Last | Event::NotLast | Event::Tick => false,
        Event::Spawned | Event::SpawnFailed(_) => !spawning,
        Event::Ready
        | Event::Watchdog
        | Event::WatchdogFailed
        | Event::AnnouncedStop
        | Event::Paused
        | Event::Continued
        | Event::LeaderExited(_) => !up,
        Event::Empty | Event::Occupied | Event::Unclear => !clearing,
        Event::Drained => !draining,
        Event::Reported => !reporting,
    }
}

pub(super) const EVENTS_THAT_MAY_BE_MISPLACED: [Event; 16] = [
    Event::Start,
    Event::Launch,
    Event::Permit,
    Event::Spawned,
    Event::SpawnFailed(libc::EAGAIN),
    Event::Ready,
    Event::Watchdog,
    Event::WatchdogFailed,
    Event::AnnouncedStop,
    Event::Paused,
    Event::LeaderExited(ExitReason::Exited(0)),
    Event::Empty,
    Event::Occupied,
    Event::Unclear,
    Event::Drained,
    Event::Reported,
];
