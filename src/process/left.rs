//! What runs left alone on purpose (`Survivors::leave`), where orphans come to this program: it ends some day, and nobody else waits for
//! it. At SIGCHLD, at most once a second, those of them that have ended are taken.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::containment::{Contained, Leader, Occupancy, Seen, times_taken};
use super::procfs::{self, Snapshot};
use crate::callbacks::Callbacks;
use crate::reaper::{Reaper, Watcher};
use crate::sys;

/// A look reads all of `/proc`.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What the last look saw of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LastSeen {
    /// Somebody, who may live on for long.
    #[default]
    Somebody,
    Nobody,
    /// It could not be told.
    Unclear,
}

/// Of one run that is over.
pub(super) struct Left {
    pub(super) leader: Leader,
    pub(super) contained: Contained,
    pub(super) seen: LastSeen,
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
    /// See [`times_taken`], before the last look.
    taken: u64,
    /// A look is under way, with those that are not in `left` meanwhile.
    busy: bool,
}

static ALL: sys::PerProcess<Arc<All>> = sys::PerProcess::new();

impl Left {
    /// From now on its zombies are taken, for as long as any of it is there.
    pub(super) fn keep(self) {
        let all = ALL.get_or_init(|| Arc::new(All { id: Reaper::get().new_id(), state: Mutex::default() }));
        all.lock().left.push(self);
        Reaper::get().add_child(all.id, Arc::clone(all) as Arc<dyn Watcher>);
        // On another thread, for it may have to be logged, and the caller has a lock.
        Callbacks::get().run(move || {
            if let Err(error) = Reaper::get().hear_sigchld() {
                log::error!("the ends of what was left alone will not be heard of: cannot listen to SIGCHLD: {error}");
            }
            // It may have ended before that, or there is nothing.
            all.look_soon(&mut all.lock());
        });
    }

    /// Before `/proc` is read: who was there then, and has ended, is a zombie there.
    fn occupancy(&self) -> Occupancy {
        self.contained.occupancy(&self.leader, u32::MAX)
    }

    /// False: nothing of it will ever come.
    fn take(&mut self, occupancy: Occupancy, all: &Snapshot) -> bool {
        // Who has ended and whose own parent lives is no child of ours yet.
        let none_to_come = self.contained.orphans(&self.leader).take(all);
        let seen = match occupancy {
            Occupancy::Empty => Seen::Empty,
            Occupancy::Occupied => Seen::Occupied,
            Occupancy::Unclear => Seen::Unclear,
            Occupancy::Survey(look) => look(all),
            Occupancy::After(act) => {
                act();
                Seen::Empty
            }
        };
        let before = self.seen;
        self.seen = match seen {
            Seen::Empty | Seen::Again(_) if none_to_come => LastSeen::Nobody,
            Seen::Occupied | Seen::Empty | Seen::Again(_) => LastSeen::Somebody,
            Seen::Unclear => LastSeen::Unclear,
        };
        // Twice: who was forked while `/proc` was read may have been missed.
        (before, self.seen) != (LastSeen::Nobody, LastSeen::Nobody)
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
        } else if all.is_err() || state.has_changed() || state.left.iter().any(|left| left.seen != LastSeen::Somebody) {
            self.look_soon(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Somebody took an orphan since the last look, perhaps one of these: a run that was still being looked after, say.
    fn has_changed(&self) -> bool {
        self.taken != times_taken()
    }
}

impl Watcher for All {
    fn ready(self: Arc<Self>, _key: u64) {}

    fn due(self: Arc<Self>, now: Instant) {
        let left = {
            let mut state = self.lock();
            (state.timer, state.looked, state.taken) = (None, Some(now), times_taken());
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
        // In this order: who is no zombie any more was taken before.
        if sys::wait::is_any_zombie() || state.has_changed() {
            self.look_soon(&mut state);
        }
    }
}
