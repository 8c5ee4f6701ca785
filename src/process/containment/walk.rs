//! Containing a tree where no cgroup can be made: this program adopts the orphans and walks `/proc`.
//!
//! A process belongs to the run when it is in the leader's group, when its parent belongs, when it was seen to belong
//! before, or when it was adopted by this program and has the run's cookie in its environment. What daemonised and
//! emptied its environment between two walks is not found; the documentation says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::callbacks::Callbacks;
use crate::process::procfs::{self, Entry};
use crate::signal::Signal;
use crate::sys;

use super::Leader;
use super::group;

pub(super) const VARIABLE: &str = "PKIT_TREE";

/// So many ancestors of a process are asked for at most: a tree that changes meanwhile could have us go round for ever.
const DEEPEST: usize = 1024;

#[derive(Debug)]
pub(in crate::process) struct Walk {
    cookie: String,
    /// Who was seen to belong, by pid; the start time tells it from a later process of that pid. Leaf lock.
    known: Mutex<BTreeMap<u32, Entry>>,
}

impl Walk {
    pub(super) fn new() -> Walk {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        // It cannot fail on any kernel that we run on (PR_SET_CHILD_SUBREAPER is of 3.4).
        let _ = sys::process::become_subreaper();
        let own = procfs::entry(sys::process::pid()).map_or(0, |entry| entry.started);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        // The start time tells us from an earlier program with our pid.
        let cookie = format!("{}-{own}-{number}", sys::process::pid());
        Walk { cookie, known: Mutex::new(BTreeMap::new()) }
    }

    pub(super) fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Notes who belongs, before a signal ends some of them: an orphan that is a zombie by then would show nothing that
    /// tells it from a stranger's.
    pub(super) fn note(&self, leader: &Leader) {
        self.members(leader, &procfs::all());
    }

    /// Signals what left the group. It reads `/proc`, so it is done on another thread.
    pub(super) fn signal_beyond_group(self: &Arc<Self>, leader: &Leader, signal: Signal) {
        let (walk, leader) = (Arc::clone(self), leader.clone());
        Callbacks::get().run(move || {
            for member in walk.members(&leader, &procfs::all()).iter().filter(|member| member.group != leader.pid) {
                if let Some(pidfd) = procfs::open(member) {
                    // ESRCH: it has ended. EPERM: it changed its user, and we may not.
                    let _ = pidfd.signal(signal.as_raw());
                }
            }
        });
    }

    /// Whether anything but the leader lives. Reaps what was adopted and has ended.
    pub(super) fn is_occupied(&self, leader: &Leader, all: &[Entry]) -> bool {
        let own = sys::process::pid();
        let mut occupied = false;
        for member in self.members(leader, all).iter().filter(|member| member.pid != leader.pid) {
            if !member.zombie {
                occupied = true;
            } else if member.parent == own {
                group::reap_adopted(member);
            }
        }
        occupied
    }

    pub(super) fn contains(&self, leader: &Leader, pid: u32) -> bool {
        // Up from that one process: how many there are on the machine is not up to it.
        let own = sys::process::pid();
        let mut next = pid;
        for _ in 0..DEEPEST {
            let Some(entry) = procfs::entry(next) else { return false };
            if entry.group == leader.pid || self.knows(&entry) {
                return true;
            }
            if entry.parent == own {
                return procfs::has_variable(entry.pid, &self.variable());
            }
            next = entry.parent;
        }
        false
    }

    fn knows(&self, entry: &Entry) -> bool {
        self.lock().get(&entry.pid).is_some_and(|seen| seen.started == entry.started)
    }

    fn variable(&self) -> String {
        format!("{VARIABLE}={}", self.cookie)
    }

    fn members(&self, leader: &Leader, all: &[Entry]) -> Vec<Entry> {
        let own = sys::process::pid();
        let variable = self.variable();
        let mut known = self.lock();
        let mut belongs: BTreeSet<u32> = BTreeSet::from([leader.pid]);
        // An adopted orphan of ours has the sessions and groups of those we saw: zombies show nothing else.
        let sessions: BTreeSet<u32> = known.values().map(|entry| entry.session).collect();
        let own_session = procfs::entry(own).map(|entry| entry.session);
        for entry in all {
            let seen = known.get(&entry.pid).is_some_and(|seen| seen.started == entry.started);
            let of_session = sessions.contains(&entry.session) && Some(entry.session) != own_session;
            let adopted = entry.parent == own
                && entry.pid != leader.pid
                && ((entry.zombie && of_session) || procfs::has_variable(entry.pid, &variable));
            if seen || adopted || entry.group == leader.pid {
                belongs.insert(entry.pid);
            }
        }
        // Children of those who belong, to any depth.
        loop {
            let before = belongs.len();
            let children = all.iter().filter(|entry| belongs.contains(&entry.parent));
            let children: Vec<u32> = children.map(|entry| entry.pid).collect();
            belongs.extend(children);
            if belongs.len() == before {
                break;
            }
        }
        let members: Vec<Entry> = all.iter().filter(|entry| belongs.contains(&entry.pid)).copied().collect();
        *known = members.iter().map(|entry| (entry.pid, *entry)).collect();
        members
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
