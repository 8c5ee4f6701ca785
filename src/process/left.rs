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

/// Of one run that is over.
pub(super) struct Left {
    pub(super) leader: Leader,
    pub(super) leader_reaped: bool,
    pub(super) contained: Contained,
    /// Nobody of it was seen, when it was looked at last.
    pub(super) unseen: bool,
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

    /// False: nothing of it will ever come.
    fn take(&mut self, all: &Snapshot) -> bool {
        self.contained.orphans(&self.leader, self.leader_reaped).take(all);
        let seen = match self.contained.occupancy(&self.leader, self.leader_reaped, u32::MAX) {
            Occupancy::Empty => Seen::Empty,
            Occupancy::Occupied => Seen::Occupied,
            Occupancy::Survey(look) => look(all),
            Occupancy::After(act) => {
                act();
                Seen::Empty
            }
        };
        match seen {
            Seen::Occupied => {
                self.unseen = false;
                true
            }
            Seen::Again(_) => !std::mem::replace(&mut self.unseen, true),
            Seen::Empty => false,
        }
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

    fn take(self: &Arc<Self>, all: &io::Result<Snapshot>) {
        // Not under the lock: files are read.
        let mut left = std::mem::take(&mut self.lock().left);
        if let Ok(all) = all {
            left.retain_mut(|left| left.take(all));
        }
        let mut state = self.lock();
        state.left.append(&mut left);
        if state.left.is_empty() {
            Reaper::get().remove_child(self.id);
        } else if all.is_err() || state.left.iter().any(|left| left.unseen) {
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
        {
            let mut state = self.lock();
            (state.timer, state.looked) = (None, Some(now));
        }
        procfs::survey(Box::new(move |all| self.take(all)));
    }

    fn look(self: Arc<Self>) {
        let mut state = self.lock();
        if sys::wait::is_any_zombie() {
            self.look_soon(&mut state);
        }
    }
}
