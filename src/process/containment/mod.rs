//! What belongs to a run besides its leader, and how all of it is reached.
//!
//! | asked for | in force | reaches |
//! |---|---|---|
//! | `group(Group::Inherit)` | [`ContainmentLevel::Leader`] | the leader alone |
//! | [`Containment::Group`] | [`ContainmentLevel::Group`] | its process group |
//! | [`Containment::Tree`] | [`ContainmentLevel::Cgroup`] where a cgroup v2 may be made | every descendant, by the kernel's own account |
//! | [`Containment::Tree`] | [`ContainmentLevel::Walk`] elsewhere | the group, and descendants found in `/proc` |
//!
//! The level is in the status, never a silent downgrade.

mod cgroup;
mod group;
mod marks;
mod orphans;
mod walk;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use crate::signal::Signal;
use crate::sys;
use crate::sys::pidfd::Pidfd;

use super::config::Group;
use super::procfs::{Entry, Snapshot};
use cgroup::Cgroup;
#[cfg(feature = "_testing")]
pub(crate) use cgroup::{pretend_no_cgroup_kill, pretend_no_cgroups};
pub(super) use group::times_taken;
use orphans::{Belongs, Orphans};
use walk::Walk;

/// What of a process's descendants belongs to its run; for [`Builder::contain`](crate::Builder::contain).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Containment {
    /// Its process group: what leaves it with `setsid` or `setpgid` is on its own. The default.
    #[default]
    Group,
    /// Every descendant, those that left the group too.
    ///
    /// Where this program may make a cgroup v2 below its own, the child is put into one before it executes anything.
    /// Elsewhere this program becomes a subreaper (`PR_SET_CHILD_SUBREAPER`), and descendants are found in
    /// `/proc` by parent, group, session and a variable (`PKIT_TREE`) in their environment. That finds less: a
    /// descendant that daemonised *and* emptied its environment escapes it; one that every few milliseconds starts a successor in a new session,
    /// and ends, may be missed; and so is one that a
    /// [`Target::fork`](crate::Target::fork) forked and that daemonised without executing anything. [`Status::containment`](crate::Status) says
    /// which it is. Reading an environment can hang (`proc_pid_environ(5)`: it waits for a lock of that process's memory):
    /// whose cannot be read within a second belongs to no run until it can. A signal by hand waits for a walk 100 ms at
    /// most, one of a stop ladder a second, and that is part of the time that it gives.
    ///
    /// A subreaper is the whole program, for the rest of its life: orphans of children that other code started come to
    /// it too, and are left to that code.
    Tree,
}

/// How much of a run's descendants is really reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContainmentLevel {
    /// The leader alone.
    Leader,
    /// The process group.
    Group,
    /// All descendants, by a cgroup v2.
    Cgroup,
    /// The process group, and the descendants found by walking `/proc` as subreaper.
    Walk,
}

/// The containment of one run.
#[derive(Debug)]
pub(super) enum Contained {
    Leader,
    Group,
    Cgroup(Cgroup),
    Walk(Arc<Walk>),
}

/// The leader, as far as signalling needs it.
#[derive(Debug, Clone)]
pub(super) struct Leader {
    pub(super) pid: u32,
    pub(super) pidfd: Arc<Pidfd>,
    /// When it was started, where it has to be told from a later process of that pid: under a walk.
    pub(super) started: Option<u64>,
    /// Its pid may be anyone's.
    pub(super) reaped: bool,
}

impl Leader {
    fn is(&self, entry: &Entry) -> bool {
        entry.pid == self.pid && Some(entry.started) == self.started
    }
}

/// Says of all processes whether any of them is part of a run.
pub(super) type Survey = Box<dyn FnOnce(&Snapshot) -> Seen + Send>;

/// What a survey says.
pub(super) enum Seen {
    Occupied,
    /// It cannot be told now.
    Unclear,
    Empty,
    /// Nobody was seen, and that has to be so once more.
    Again(Survey),
}

/// Whether a process is part of a run.
pub(super) enum Membership {
    Known(bool),
    /// It has to be found out without a lock.
    Unknown(Box<dyn FnOnce() -> io::Result<bool> + Send>),
}

impl Membership {
    /// Without waiting.
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Membership::Known(_))
    }

    pub(super) fn find_out(self) -> io::Result<bool> {
        match self {
            Membership::Known(known) => Ok(known),
            Membership::Unknown(find_out) => find_out(),
        }
    }
}

/// Whether anything of a run is left.
pub(super) enum Occupancy {
    Empty,
    Occupied,
    /// It cannot be told now: it may be zombies alone, which the kernel counts.
    Unclear,
    /// All processes have to be looked at.
    Survey(Survey),
    /// Empty, after this.
    After(Box<dyn FnOnce() + Send>),
}

/// What is left of a run that is over, as the kernel says it without a look at all processes.
pub(super) enum Remains {
    Nothing,
    Somebody,
    /// More than a cgroup says: it forgets a process before that is a zombie.
    Unknown,
}

/// A group that is still occupied after this many looks may consist of zombies alone, which the kernel counts.
const PATIENCE: u32 = 3;

impl Contained {
    /// `outlives`: some of it may be there after this program, or after the run, and that is meant so.
    pub(super) fn prepare(group: Group, containment: Containment, outlives: bool) -> Contained {
        match (group, containment) {
            (Group::Inherit, _) => Contained::Leader,
            (Group::Own, Containment::Group) => Contained::Group,
            (Group::Own, Containment::Tree) => match Cgroup::create(outlives) {
                Ok(cgroup) => Contained::Cgroup(cgroup),
                Err(_) => Contained::walk(),
            },
        }
    }

    /// The fallback, also for a cgroup that could be made but not joined.
    pub(super) fn walk() -> Contained {
        Contained::Walk(Arc::new(Walk::new()))
    }

    pub(super) fn level(&self) -> ContainmentLevel {
        match self {
            Contained::Leader => ContainmentLevel::Leader,
            Contained::Group => ContainmentLevel::Group,
            Contained::Cgroup(_) => ContainmentLevel::Cgroup,
            Contained::Walk(_) => ContainmentLevel::Walk,
        }
    }

    /// The file that the child writes itself into before its exec.
    pub(super) fn procs(&self) -> Option<RawFd> {
        match self {
            Contained::Cgroup(cgroup) => Some(cgroup.procs().as_raw_fd()),
            Contained::Leader | Contained::Group | Contained::Walk(_) => None,
        }
    }

    /// What the child's environment has to contain.
    pub(super) fn variable(&self) -> io::Result<Option<(&'static str, String)>> {
        match self {
            Contained::Walk(walk) => Ok(Some((marks::VARIABLE, marks::with_outer(walk.cookie())?))),
            Contained::Leader | Contained::Group | Contained::Cgroup(_) => Ok(None),
        }
    }

    /// What has to be done, with all processes, before a signal may end any of it. It reads what may block: not under a lock.
    pub(super) fn note(&self, leader: &Leader) -> Option<impl FnOnce(&Snapshot) + Send + 'static> {
        match self {
            Contained::Walk(walk) => {
                let (walk, leader) = (Arc::clone(walk), leader.clone());
                Some(move |all: &Snapshot| walk.note(&leader, all))
            }
            Contained::Leader | Contained::Group | Contained::Cgroup(_) => None,
        }
    }

    /// Sends a signal to everything of the run.
    pub(super) fn signal(&self, leader: &Leader, signal: Signal) -> io::Result<()> {
        match self {
            Contained::Leader => leader.pidfd.signal(signal.as_raw()),
            Contained::Group => group::signal(leader, signal),
            Contained::Cgroup(cgroup) => {
                let sent = group::signal(leader, signal);
                cgroup.signal_beyond_group(leader, signal);
                or_beyond_group(leader, sent)
            }
            Contained::Walk(walk) => {
                let sent = group::signal(leader, signal);
                walk.signal_beyond_group(leader, signal);
                or_beyond_group(leader, sent)
            }
        }
    }

    /// SIGKILL to everything of the run.
    pub(super) fn kill(&self, leader: &Leader) -> io::Result<()> {
        match self {
            // A member of the group may have moved to another cgroup, or been moved by a service manager.
            Contained::Cgroup(cgroup) => cgroup.kill().and(match group::signal(leader, Signal::KILL) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                sent => sent,
            }),
            Contained::Leader | Contained::Group | Contained::Walk(_) => self.signal(leader, Signal::KILL),
        }
    }

    /// Whether anything is left after the leader. `looks` counts how often that was asked in this run.
    pub(super) fn occupancy(&self, leader: &Leader, looks: u32) -> Occupancy {
        match self {
            Contained::Leader => Occupancy::Empty,
            Contained::Cgroup(cgroup) => {
                if cgroup.is_populated() {
                    return Occupancy::Occupied;
                }
                // Of the group, one may be outside of the cgroup. And a run is over when nothing of it is left, its
                // cgroup and the zombies in it included: those the kernel does not count.
                let remove = cgroup.removal();
                let orphans = self.orphans(leader);
                match group_occupancy(leader, looks) {
                    Occupancy::Empty if sys::process::adopts_orphans() => {
                        Occupancy::Survey(cleared(Box::new(|_| Seen::Empty), orphans, looks, remove))
                    }
                    Occupancy::Empty => Occupancy::After(Box::new(remove)),
                    Occupancy::Survey(is_occupied) => Occupancy::Survey(cleared(is_occupied, orphans, looks, remove)),
                    other @ (Occupancy::Occupied | Occupancy::Unclear | Occupancy::After(_)) => other,
                }
            }
            Contained::Group => group_occupancy(leader, looks),
            Contained::Walk(walk) => {
                let (walk, leader) = (Arc::clone(walk), leader.clone());
                Occupancy::Survey(twice(move |all| walk.dead(&leader, all)))
            }
        }
    }

    /// Of a run that is over, where orphans come to this program: takes the statuses of its group that have come.
    pub(super) fn remains(&self, leader: &Leader) -> Remains {
        match self {
            Contained::Leader => Remains::Nothing,
            Contained::Group if group::take_zombies(leader) => Remains::Somebody,
            Contained::Group => Remains::Nothing,
            Contained::Cgroup(_) | Contained::Walk(_) => Remains::Unknown,
        }
    }

    /// Those of the run that come to this program and end, so that nobody else waits for them.
    pub(super) fn orphans(&self, leader: &Leader) -> Orphans {
        let leader = leader.clone();
        let belongs: Belongs = match self {
            Contained::Leader => Box::new(|_, _, _| Some(false)),
            Contained::Group => Box::new(|_, in_group, _| Some(in_group)),
            Contained::Cgroup(cgroup) => {
                let cgroup = cgroup.membership();
                Box::new(
                    move |all, in_group, zombie| {
                        if in_group { Some(true) } else { cgroup.contains_zombie(all, zombie.pid) }
                    },
                )
            }
            Contained::Walk(walk) => {
                let walk = Arc::clone(walk);
                Box::new(move |all, in_group, zombie| Some(in_group || walk.has_seen(all, zombie)))
            }
        };
        Orphans { leader, belongs }
    }

    /// Whether a process that is not the leader is part of the run.
    ///
    /// # Errors
    /// It cannot be told now, for want of descriptors or memory.
    pub(super) fn owns(&self, leader: &Leader, pid: u32) -> io::Result<Membership> {
        let in_group = sys::process::process_group_of(pid).is_ok_and(|group| group == leader.pid);
        Ok(match self {
            Contained::Leader => Membership::Known(false),
            _ if in_group => Membership::Known(true),
            Contained::Group => Membership::Known(false),
            Contained::Cgroup(cgroup) => Membership::Known(cgroup.membership().contains(pid)?),
            Contained::Walk(walk) => {
                let (walk, leader) = (Arc::clone(walk), leader.clone());
                Membership::Unknown(Box::new(move || walk.contains(&leader, pid)))
            }
        })
    }
}

/// Where the group of a leader that has ended is empty, those beyond it are who the signal is for.
fn or_beyond_group(leader: &Leader, sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if leader.reaped && error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        sent => sent,
    }
}

/// Once it is not occupied, its orphans are taken and it is removed.
fn cleared(is_occupied: Survey, orphans: Orphans, looks: u32, remove: impl FnOnce() + Send + 'static) -> Survey {
    Box::new(move |all| {
        // One whose parent is about to end comes to us next, if anybody ever takes it.
        let seen = match is_occupied(all) {
            Seen::Again(again) => return Seen::Again(cleared(again, orphans, looks, remove)),
            Seen::Empty => match orphans.take(all) {
                None => Seen::Unclear,
                Some(false) if looks < PATIENCE => Seen::Unclear,
                Some(_) => Seen::Empty,
            },
            seen => seen,
        };
        if matches!(seen, Seen::Empty) {
            remove();
        }
        seen
    })
}

fn group_occupancy(leader: &Leader, looks: u32) -> Occupancy {
    if leader.reaped && !group::may_be_occupied(leader) {
        return Occupancy::Empty;
    }
    if leader.reaped && looks < PATIENCE {
        return Occupancy::Unclear;
    }
    let leader = leader.clone();
    Occupancy::Survey(twice(move |all| Ok(group::dead(&leader, all))))
}

/// Who was forked while `/proc` was read may have been missed, and its parent have ended meanwhile. So a second reading has to
/// show nobody alive either, and nobody dead who was not so before: each of a chain of forks leaves one.
fn twice(dead: impl Fn(&Snapshot) -> io::Result<Option<BTreeSet<u32>>> + Send + 'static) -> Survey {
    Box::new(move |all| match dead(all) {
        Err(_) => Seen::Unclear,
        Ok(None) => Seen::Occupied,
        Ok(Some(before)) => Seen::Again(Box::new(move |all| match dead(all) {
            Err(_) => Seen::Unclear,
            Ok(now) if now.as_ref().is_some_and(|now| now.is_subset(&before)) => Seen::Empty,
            Ok(_) => Seen::Occupied,
        })),
    })
}
