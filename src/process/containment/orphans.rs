//! What of a run came to this program and has ended.

use std::cell::LazyCell;

use super::{Leader, group};
use crate::process::procfs::{Entry, Snapshot};
use crate::sys;

/// Whether a zombie among all processes, which may be in the run's group, is of the run. `None`: it cannot be told now.
pub(super) type Belongs = Box<dyn Fn(&Snapshot, bool, &Entry) -> Option<bool> + Send>;

/// See [`Contained::orphans`](super::Contained::orphans).
pub(in crate::process) struct Orphans {
    pub(super) leader: Leader,
    pub(super) belongs: Belongs,
}

impl Orphans {
    /// Takes the statuses of those that have ended, where orphans come to this program. True: of all. `None`: it cannot be
    /// told of some whether they are of the run.
    pub(in crate::process) fn take(self, all: &Snapshot) -> Option<bool> {
        if !sys::process::adopts_orphans() {
            return Some(true);
        }
        // After the look: if the number is the group's now, it was then.
        let has_group = LazyCell::new(|| group::has_its_number(&self.leader));
        let is_in_group = |zombie: &Entry| zombie.group == self.leader.pid && *has_group;
        // The leader's status is not taken here. Once it was, a member may get its number.
        let is_leader = |entry: &Entry| entry.pid == self.leader.pid && group::holds_its_number(&self.leader);
        let zombies = all.entries.iter().filter(|entry| entry.zombie && !is_leader(entry));
        let (mut taken, mut unclear) = (true, false);
        for zombie in zombies {
            match (self.belongs)(all, is_in_group(zombie), zombie) {
                // Of some the own parent has not ended yet.
                Some(true) => taken &= group::take(zombie),
                Some(false) => {}
                None => unclear = true,
            }
        }
        (!unclear).then_some(taken)
    }
}
