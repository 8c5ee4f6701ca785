//! What runs left alone on purpose (`Survivors::leave`), where orphans come to this program: it ends some day, and nobody else waits for
//! it. At SIGCHLD, at most once a second, those of them that have ended are taken.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::containment::{Contained, Leader, Occupancy, Seen};
use super::procfs::{self, Snapshot};
use crate::reaper::{Reaper, Watcher};
use crate::sys;

/// A look reads all of `/proc`.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What was seen of it last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Looks {
    /// Somebody who may live on for long.
    #[default]
    Alive,
    /// It changes.
    Changing,
    /// Nobody.
    Unseen,
}

/// Of one run that is over.
pub(super) struct Left {
    pub(super) leader: Leader,
    pub(super) leader_reaped: bool,
    pub(super) contained: Contained,
    pub(super) looks: Looks,
}

struct All {
    /// In the reaper.
    id: u64,
    /// Before the reaper's locks.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    left: Vec<Left>,
    /// When to look next, and when that was last.
    timer: Option<Instant>,
    looked: Option<Instant>,
    /// A look is under way, with those that are not in `left` meanwhile.
    busy: bool,
}

static ALL: sys::PerProcess<Arc<All>> = sys::PerProcess::new();

impl Left {
    /// From now on its zombies are taken, for as long as any of it is there.
    pub(super) fn keep(self) {
        let all = ALL.get_or_init(|| Arc::new(All { id: Reaper::get().new_id(), state: Mutex::default() }));
        let mut state = all.lock();
        state.left.push(self);
        Reaper::get().add_child(all.id, Arc::clone(all) as Arc<dyn Watcher>);
        // Perhaps there is nothing.
        all.look_soon(&mut state);
    }

    /// Before `/proc` is read: who was there then, and has ended, is a zombie there.
    fn occupancy(&self) -> Occupancy {
        self.contained.occupancy(&self.leader, self.leader_reaped, u32::MAX)
    }

    /// False: nothing of it will ever come.
    fn take(&mut self, occupancy: Occupancy, all: &Snapshot) -> bool {
        let found = self.contained.orphans(&self.leader, self.leader_reaped).take(all);
        let seen = match occupancy {
            Occupancy::Empty => Seen::Empty,
            Occupancy::Occupied => Seen::Occupied,
            Occupancy::Survey(look) => look(all),
            Occupancy::After(act) => {
                act();
                Seen::Empty
            }
        };
        let before = self.looks;
        self.looks = match seen {
            Seen::Occupied if found.taken > 0 => Looks::Changing,
            Seen::Occupied => Looks::Alive,
            Seen::Empty | Seen::Again(_) => Looks::Unseen,
        };
        // Twice: a zombie whose own parent is about to end comes to us next.
        (before, self.looks) != (Looks::Unseen, Looks::Unseen)
    }
}

impl All {
    fn look_soon(self: &Arc<Self>, state: &mut State) {
        if state.timer.is_none() {
            let now = Instant::now();
            let at = state.looked.map_or(now, |looked| now.max(looked + BETWEEN_LOOKS));
            state.timer = Some(at);
            Reaper::get().set_timer(self.id, None, Some(at), self);
        }
    }

    /// Not under the lock: files are read.
    fn take(self: &Arc<Self>, left: Vec<(Occupancy, Left)>, all: &io::Result<Snapshot>) {
        let take = |(occupancy, mut left): (Occupancy, Left)| match all {
            Ok(all) => left.take(occupancy, all).then_some(left),
            Err(_) => Some(left),
        };
        let left: Vec<Left> = left.into_iter().filter_map(take).collect();
        let mut state = self.lock();
        state.busy = false;
        state.left.extend(left);
        if state.left.is_empty() {
            Reaper::get().remove_child(self.id);
        } else if all.is_err() || state.left.iter().any(|left| left.looks != Looks::Alive) {
            self.look_soon(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for All {
    fn ready(self: Arc<Self>, _key: u64) {}

    fn due(self: Arc<Self>, now: Instant) {
        let left = {
            let mut state = self.lock();
            (state.timer, state.looked) = (None, Some(now));
            if std::mem::replace(&mut state.busy, true) {
                return self.look_soon(&mut state);
            }
            std::mem::take(&mut state.left)
        };
        let left: Vec<_> = left.into_iter().map(|left| (left.occupancy(), left)).collect();
        procfs::survey(Box::new(move |all| self.take(left, all)));
    }

    fn look(self: Arc<Self>) {
        let mut state = self.lock();
        if sys::wait::is_any_zombie() {
            self.look_soon(&mut state);
        }
    }
}
