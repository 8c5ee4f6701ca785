//! What runs left alone on purpose (`Survivors::leave`), where orphans come to this program: it ends some day, and nobody else waits for
//! it. At SIGCHLD those of them that have ended are taken: once a second, or sooner where many were kept.
//!
//! Each that is kept has descriptors, at least the pidfd that says whether the leader's number is still its group's. So what the kernel
//! calls empty is not kept, and what is left of a group is looked after without `/proc`, which takes free descriptors.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::containment::{Contained, Leader, Occupancy, Remains, Seen, times_taken};
use super::procfs::{self, Snapshot};
use crate::callbacks::Callbacks;
use crate::reaper::{Reaper, Watcher};
use crate::sys;
use crate::sys::locked;

/// A look reads all of `/proc`.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// Where nobody has ended, the next look comes twice as late as the last, up to this: an end may go unheard, where SIGCHLD is ignored
/// or another has waited.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// Where so many more were kept than stay, as far as the last look could tell, most are gone, and they are looked at sooner.
const MANY: usize = 32;
const BETWEEN_LOOKS_AT_MANY: Duration = Duration::from_millis(20);
/// What a look takes: a directory and a file in it.
const SPARES: usize = 2;

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
    /// Where nobody ends in between.
    pause: Duration,
    /// Of how many the last look did not see that nobody is left.
    stayed: usize,
    /// Given back before each look: what is kept here may have taken all the descriptors there are.
    spares: Vec<OwnedFd>,
    /// See [`times_taken`], before the last look.
    taken: u64,
    /// A look is under way, with those that are not in `left` meanwhile.
    busy: bool,
}

static ALL: sys::PerProcess<Arc<All>> = sys::PerProcess::new();

impl Left {
    /// From now on its zombies are taken, for as long as any of it is there.
    pub(super) fn keep(self) {
        if matches!(self.contained.remains(&self.leader), Remains::Nothing) {
            return;
        }
        let all = ALL.get_or_init(|| Arc::new(All { id: Reaper::get().new_id(), state: Mutex::default() }));
        {
            let mut state = all.lock();
            state.save(&self);
            state.left.push(self);
            state.pause = BETWEEN_LOOKS;
        }
        Reaper::get().add_child(all.id, Arc::clone(all) as Arc<dyn Watcher>);
        // On another thread, for it may have to be logged, and the caller has a lock.
        Callbacks::get().run_own(move || {
            if let Err(error) = Reaper::get().hear_sigchld() {
                log::error!("the ends of what was left alone will not be heard of: cannot listen to SIGCHLD: {error}");
            }
            // It may have ended before that, or there is nothing.
            all.look_soon(&mut all.lock());
        });
    }

    /// Who was forked during a look may have been missed: so nobody was seen twice.
    fn has_gone(&mut self, seen: LastSeen) -> bool {
        let before = std::mem::replace(&mut self.seen, seen);
        (before, seen) == (LastSeen::Nobody, LastSeen::Nobody)
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
        !self.has_gone(match seen {
            Seen::Occupied => LastSeen::Somebody,
            Seen::Unclear => LastSeen::Unclear,
            Seen::Empty | Seen::Again(_) => match none_to_come {
                Some(true) => LastSeen::Nobody,
                Some(false) => LastSeen::Somebody,
                None => LastSeen::Unclear,
            },
        })
    }
}

impl All {
    fn look_soon(self: &Arc<Self>, state: &mut State) {
        let are_many = state.left.len() > 2 * state.stayed + MANY;
        self.look_after(if are_many { BETWEEN_LOOKS_AT_MANY } else { BETWEEN_LOOKS }, state);
    }

    fn look_after(self: &Arc<Self>, pause: Duration, state: &mut State) {
        let now = Instant::now();
        let at = state.looked.map_or(now, |looked| now.max(looked + pause));
        if state.timer.is_none_or(|timer| at < timer) {
            Reaper::get().set_timer(self.id, state.timer.replace(at), Some(at), self);
        }
    }

    fn look_at(self: Arc<Self>, all: Vec<Left>) {
        let (mut left, mut surveyed) = (Vec::new(), Vec::new());
        for one in all {
            match one.contained.remains(&one.leader) {
                Remains::Nothing => {}
                Remains::Somebody => left.push(one),
                Remains::Unknown => surveyed.push((one.occupancy(), one)),
            }
        }
        if surveyed.is_empty() {
            return self.take(left, surveyed, None);
        }
        procfs::survey(Box::new(move |all| self.take(left, surveyed, Some(all))));
    }

    /// Not under the lock: files are read. `surveyed` is what all processes show of some.
    fn take(
        self: &Arc<Self>,
        mut left: Vec<Left>,
        surveyed: Vec<(Occupancy, Left)>,
        all: Option<&io::Result<Snapshot>>,
    ) {
        left.extend(surveyed.into_iter().filter_map(|(occupancy, mut left)| match all {
            Some(Ok(all)) => left.take(occupancy, all).then_some(left),
            Some(Err(_)) | None => Some(left),
        }));
        let mut state = self.lock();
        left.iter().for_each(|left| state.save(left));
        state.stayed = left.iter().filter(|left| left.seen != LastSeen::Nobody).count();
        let unclear = left.iter().any(|left| left.seen != LastSeen::Somebody) || matches!(all, Some(Err(_)));
        state.busy = false;
        state.left.extend(left);
        if state.left.is_empty() {
            state.spares.clear();
            Reaper::get().remove_child(self.id);
        } else if unclear || state.has_changed() {
            self.look_soon(&mut state);
        } else {
            self.look_after(state.pause, &mut state);
            state.pause = LONGEST_PAUSE.min(2 * state.pause);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

impl State {
    /// Somebody took an orphan since the last look, perhaps one of these: a run that was still being looked after, say.
    fn has_changed(&self) -> bool {
        self.taken != times_taken()
    }

    /// Puts descriptors by for the look that it will take.
    fn save(&mut self, left: &Left) {
        while self.spares.len() < SPARES && matches!(left.contained, Contained::Cgroup(_) | Contained::Walk(_)) {
            match left.leader.pidfd.as_fd().try_clone_to_owned() {
                Ok(spare) => self.spares.push(spare),
                // The next may find one.
                Err(_) => return,
            }
        }
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
            state.spares.clear();
            std::mem::take(&mut state.left)
        };
        // How many those are is up to others, and a cgroup that goes with one of them is removed.
        Callbacks::get().run_own(move || self.look_at(left));
    }

    fn look(self: Arc<Self>) {
        let mut state = self.lock();
        // In this order: who is no zombie any more was taken before.
        if sys::wait::is_any_zombie() || state.has_changed() {
            state.pause = BETWEEN_LOOKS;
            self.look_soon(&mut state);
        }
    }
}
