//! Containing a tree where no cgroup can be made: this program adopts the orphans and walks `/proc`.
//!
//! A process belongs to the run when it is in the leader's group, when its parent belongs, when it was seen to belong
//! before, or when it was adopted by this program and has the run's cookie in its environment. What daemonised and
//! emptied its environment between two walks is not found, nor what a `Target::fork` forked and nobody executed: its
//! environment is that of this program. The documentation says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::process::procfs::{self, Entry, Snapshot};
use crate::signal::Signal;
use crate::sys;

use super::Leader;
use super::group;
use super::marks;
use crate::sys::locked;

/// So many ancestors of one process are asked for at most. Who talks to us from further down is not heard.
const DEEPEST: usize = 32;

#[derive(Debug)]
pub(in crate::process) struct Walk {
    cookie: String,
    /// That of this program when the run began: children of other code that were begun by then have it, too.
    session: u32,
    /// Leaf lock.
    known: Mutex<Known>,
}

/// Who was seen to belong.
#[derive(Debug, Default, Clone)]
struct Known {
    /// By pid; the start time tells it from a later process of that pid.
    entries: BTreeMap<u32, Entry>,
    /// The latest snapshot that went into it.
    snapshot: u64,
}

impl Known {
    fn contains(&self, entry: &Entry) -> bool {
        self.entries.get(&entry.pid).is_some_and(|seen| seen.started == entry.started)
    }

    /// Who was seen to belong does as long as it is there, whatever is found out of it later: one that was killed meanwhile shows
    /// nothing any more. A snapshot that was begun earlier than another takes nobody away.
    fn learn(&mut self, members: &[Entry], all: &Snapshot) {
        let is_newer = all.number >= self.snapshot;
        if is_newer {
            let there: BTreeSet<(u32, u64)> = all.entries.iter().map(|entry| (entry.pid, entry.started)).collect();
            self.entries.retain(|pid, entry| there.contains(&(*pid, entry.started)));
            self.snapshot = all.number;
        }
        for member in members {
            if is_newer || !self.entries.contains_key(&member.pid) {
                self.entries.insert(member.pid, *member);
            }
        }
    }
}

impl Walk {
    pub(super) fn new() -> Walk {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        // It cannot fail on any kernel that we run on (PR_SET_CHILD_SUBREAPER is of 3.4).
        let _ = sys::process::become_subreaper();
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let cookie = format!("{}-{:x}-{number}", sys::process::pid(), marks::image());
        Walk { cookie, session: sys::process::session(), known: Mutex::default() }
    }

    pub(super) fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Notes who belongs, before a signal ends some of them: an orphan that is a zombie by then would show nothing that
    /// tells it from a stranger's.
    pub(super) fn note(&self, leader: &Leader, all: &Snapshot) {
        // What cannot be read is not noted. (There are no descriptors left, say.)
        let _ = self.members(leader, all);
    }

    /// Signals what left the group, as seen after this call.
    pub(super) fn signal_beyond_group(self: &Arc<Self>, leader: &Leader, signal: Signal) {
        let (walk, leader) = (Arc::clone(self), leader.clone());
        procfs::survey(Box::new(move |all| match all {
            Ok(all) => {
                if let Err(error) = walk.signal_among(&leader, all, signal) {
                    group::warn_of(signal, &error);
                }
            }
            Err(error) => group::warn_of(signal, error),
        }));
    }

    /// # Errors
    /// When some were not reached, for want of descriptors.
    fn signal_among(&self, leader: &Leader, all: &Snapshot, signal: Signal) -> io::Result<()> {
        let mut result = Ok(());
        // (The leader had it with the group, wherever it is. Once both are gone the number may be that of a member.)
        let group = group::holds_its_number(leader).then_some(leader.pid);
        let beyond = |member: &Entry| Some(member.group) != group && Some(member.pid) != group;
        for member in self.members(leader, all)?.into_iter().filter(beyond) {
            match procfs::open(&member) {
                // ESRCH: it has ended. EPERM: it changed its user, and we may not.
                Ok(pidfd) => _ = pidfd.signal(signal.as_raw()),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Who is dead of it, besides the leader; `None`: somebody lives. Reaps what was adopted and has ended.
    ///
    /// # Errors
    /// It cannot be told now.
    pub(super) fn dead(&self, leader: &Leader, all: &Snapshot) -> io::Result<Option<BTreeSet<u32>>> {
        let members = self.members(leader, all)?;
        let Some(mut dead) = group::dead_among(members.iter().filter(|member| !leader.is(member))) else {
            return Ok(None);
        };
        // Where nobody is to be seen the kernel still says whether the group is there.
        let Some(mut of_group) = group::dead(leader, all) else { return Ok(None) };
        dead.append(&mut of_group);
        Ok(Some(dead))
    }

    /// Whether a zombie was seen to belong when it lived, or has a session of those who were.
    pub(super) fn has_seen(&self, all: &Snapshot, zombie: &Entry) -> bool {
        let known = self.lock();
        known.contains(zombie) || self.is_of_a_session(&known, all, zombie)
    }

    /// Whether a zombie that is a child of ours has a session of those who are known, and so was adopted: zombies show nothing else.
    /// Children of other code have our session (a program gets another once at most: who leads one cannot leave it, `setsid(2)`),
    /// or lead one. Such a number may have been another session's before; not while somebody of that is there.
    fn is_of_a_session(&self, known: &Known, all: &Snapshot, zombie: &Entry) -> bool {
        let is_in_it = |entry: &Entry| entry.session == zombie.session && entry.pid != zombie.pid;
        if [self.session, sys::process::session()].contains(&zombie.session) {
            false
        } else if zombie.pid == zombie.session {
            all.entries.iter().any(|entry| is_in_it(entry) && known.contains(entry))
        } else {
            known.entries.values().any(is_in_it)
        }
    }

    /// It reads what may block: not under a lock.
    pub(super) fn contains(&self, leader: &Leader, pid: u32) -> io::Result<bool> {
        // Up from that one process: how many there are on the machine is not up to it.
        let own = sys::process::pid();
        let mut next = pid;
        for _ in 0..DEEPEST {
            let Some(entry) = procfs::read(next)? else { return Ok(false) };
            if leader.is(&entry) || self.lock().contains(&entry) {
                return Ok(true);
            }
            if entry.parent == own {
                return marks::is_marked(&entry, &self.cookie);
            }
            next = entry.parent;
        }
        Ok(false)
    }

    /// # Errors
    /// When it cannot be told of some whether they belong; nothing is learnt then.
    fn members(&self, leader: &Leader, all: &Snapshot) -> io::Result<Vec<Entry>> {
        let own = sys::process::pid();
        // Not locked while files of other processes are read: those may block.
        let known = self.lock().clone();
        // Its number is the group's as long as somebody of the group is there, and was so while `all` were read.
        let has_group = group::has_its_number(leader);
        let (mut belongs, mut adopted) = (BTreeSet::new(), Vec::new());
        // Who has the number of a leader that was reaped is another, though it may have started in the same tick of the clock.
        for entry in all.entries.iter().filter(|entry| !(leader.reaped && leader.is(entry))) {
            let seen = || leader.is(entry) || known.contains(entry) || (has_group && entry.group == leader.pid);
            if seen() {
                belongs.insert(entry.pid);
            } else if entry.parent == own && !entry.zombie {
                adopted.push(entry.pid);
            }
        }
        if !adopted.is_empty() {
            let marked = marks::marked(all, &self.cookie)?;
            belongs.extend(adopted.into_iter().filter(|pid| marked.contains(pid)));
        }
        // Children of those who belong, to any depth.
        let mut asked = BTreeSet::new();
        loop {
            let is_new = |entry: &&Entry| !belongs.contains(&entry.pid) && asked.insert(entry.pid);
            let children = all.entries.iter().filter(|entry| belongs.contains(&entry.parent)).filter(is_new);
            let children: Vec<&Entry> = children.collect();
            if children.is_empty() {
                break;
            }
            for child in children {
                if all.is_child_still(child)? {
                    belongs.insert(child.pid);
                }
            }
        }
        let mut members: Vec<Entry> =
            all.entries.iter().filter(|entry| belongs.contains(&entry.pid)).copied().collect();
        let mut known = self.lock();
        known.learn(&members, all);
        // Whom they left as zombies.
        let is_new = |entry: &&Entry| entry.zombie && entry.parent == own && !belongs.contains(&entry.pid);
        let zombies = all.entries.iter().filter(is_new).filter(|zombie| self.is_of_a_session(&known, all, zombie));
        let zombies: Vec<Entry> = zombies.filter(|zombie| !(leader.reaped && leader.is(zombie))).copied().collect();
        known.learn(&zombies, all);
        members.extend(zombies);
        Ok(members)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        locked(&self.known)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sys::spawn::{Creator, Plan, spawn};

    fn entry(pid: u32, parent: u32, group: u32, started: u64) -> Entry {
        Entry { pid, parent, group, session: group, zombie: false, started }
    }

    /// While the leader is among them it was not reaped.
    fn members(walk: &Walk, leader: &Leader, number: u64, entries: &[Entry]) -> Vec<Entry> {
        let reaped = !entries.iter().any(|entry| leader.is(entry));
        let leader = Leader { reaped, ..leader.clone() };
        walk.members(&leader, &Snapshot::new(entries.to_vec(), number)).unwrap()
    }

    /// One that was reaped: its number is anybody's.
    fn leader(started: u64) -> Leader {
        let plan = Plan { programs: vec![c"/bin/true".into()], argv: vec![c"true".into()], ..Plan::default() };
        let child = spawn(&plan, Creator::Here).unwrap();
        sys::spawn::reap(&child.pidfd);
        Leader { pid: child.pid, pidfd: Arc::new(child.pidfd), started: Some(started), reaped: false }
    }

    #[test]
    fn a_stranger_with_the_leaders_number_is_no_member() {
        let (walk, leader) = (Walk::new(), leader(5));
        let (own, other) = (leader.pid, leader.pid + 1);
        let before = [entry(own, 1, own, 5), entry(other, own, other, 6)];
        assert_eq!(members(&walk, &leader, 1, &before), before);
        // The child was adopted by someone, and a stranger has the number, as process and as group.
        let survivor = entry(other, 1, other, 6);
        let strangers = [entry(own, 1, own, 9), entry(other + 1, own, own, 9), entry(other + 2, other + 1, own, 9)];
        if sys::pidfd::features().group_signal {
            let all = [&[survivor][..], &strangers].concat();
            assert_eq!(members(&walk, &leader, 2, &all), [survivor]);
        }
        assert_eq!(members(&walk, &leader, 3, &[entry(other, 1, other, 7)]), [], "a later process");
        let at_once = Snapshot::new(vec![entry(own, 1, own, 5)], 4);
        let leader = Leader { reaped: true, ..leader };
        assert_eq!(walk.members(&leader, &at_once).unwrap(), [], "in the same tick of the clock");
    }

    #[test]
    fn a_member_that_got_the_leaders_number_is_one() {
        let (walk, leader) = (Walk::new(), leader(5));
        let (own, other) = (leader.pid, leader.pid + 1);
        let helper = entry(other, own, other, 6);
        members(&walk, &leader, 1, &[entry(own, 1, own, 5), helper]);
        let born = entry(own, other, other, 9);
        assert_eq!(members(&walk, &leader, 2, &[helper, born]), [helper, born]);
        let orphan = Entry { parent: 1, ..born };
        assert_eq!(members(&walk, &leader, 3, &[orphan]), [orphan]);
        let dead = walk.dead(&Leader { reaped: true, ..leader }, &Snapshot::new(vec![orphan], 4));
        assert_eq!(dead.unwrap(), None);
    }

    #[test]
    fn who_was_seen_to_belong_belongs_as_a_zombie_too() {
        let (walk, leader) = (Walk::new(), leader(5));
        let pid = leader.pid;
        let born = entry(pid + 2, pid, pid + 2, 6);
        // A look that knew nothing of it comes in between, and finds it dead.
        members(&walk, &leader, 1, &[entry(pid, 1, pid, 5), born]);
        let zombie = Entry { parent: 1, zombie: true, ..born };
        walk.lock().learn(&[], &Snapshot::new(vec![zombie], 2));
        assert_eq!(members(&walk, &leader, 3, &[zombie]), [zombie]);
        assert_eq!(members(&walk, &leader, 4, &[]), []);
        assert_eq!(members(&walk, &leader, 5, &[zombie]), [], "it was gone");
    }

    #[test]
    fn of_the_zombies_only_those_of_sessions_that_are_not_ours_are_taken() {
        let (walk, leader, own) = (Walk::new(), leader(5), procfs::entry(sys::process::pid()).unwrap());
        let of = |session| Entry { session, ..entry(leader.pid, own.pid, leader.pid, 5) };
        let zombie =
            |session| Entry { zombie: true, ..Entry { session, ..entry(leader.pid + 1, own.pid, leader.pid + 1, 6) } };
        walk.lock()
            .learn(&[of(own.session), Entry { pid: leader.pid + 2, ..of(leader.pid) }], &Snapshot::new(vec![], 1));
        let none = Snapshot::new(vec![], 2);
        assert!(walk.has_seen(&none, &zombie(leader.pid)));
        assert!(!walk.has_seen(&none, &zombie(own.session)) && !walk.has_seen(&none, &zombie(leader.pid + 3)));
        let leads_a_session = Entry { pid: leader.pid, ..zombie(leader.pid) };
        assert!(
            !walk.has_seen(&none, &leads_a_session),
            "a later one of that number, and a child of other code perhaps"
        );
        let there = Snapshot::new(vec![Entry { pid: leader.pid + 2, ..of(leader.pid) }, leads_a_session], 2);
        assert!(walk.has_seen(&there, &leads_a_session), "whose number was not free since");
        assert_eq!(walk.members(&leader, &there).unwrap(), there.entries);
        sys::fork::tests::in_fork(|| {
            nix::unistd::setsid().unwrap();
            assert!(!walk.has_seen(&Snapshot::new(vec![], 3), &zombie(own.session)), "it was ours");
        });
    }

    #[test]
    fn a_strangers_child_is_no_member_whoever_had_its_parents_number() {
        let (walk, leader) = (Walk::new(), leader(5));
        let (own, other) = (leader.pid, leader.pid + 1);
        let child = entry(own + 2, other, own + 2, 8);
        let seen = [entry(own, 1, own, 5), entry(other, own, own, 6), child];
        members(&walk, &leader, 0, &seen[..2]);
        // Its parent was a stranger, who took the number after the member was seen, or lost it before.
        let after = Entry { parent: 1, started: 7, ..seen[1] };
        let before = Entry { parent: 1, ..child };
        for later in [vec![seen[0], after, child], vec![seen[0], seen[1], before], vec![seen[0], seen[1]]] {
            let all = Snapshot { later: Some(later), ..Snapshot::new(seen.to_vec(), 1) };
            assert_eq!(walk.members(&leader, &all).unwrap(), seen[..2]);
        }
        assert_eq!(members(&walk, &leader, 2, &seen), seen);
    }

    #[test]
    fn an_earlier_look_takes_nobody_away() {
        let (walk, leader) = (Walk::new(), leader(5));
        let pid = leader.pid;
        let born = entry(pid + 2, pid, pid + 2, 6);
        members(&walk, &leader, 8, &[entry(pid, 1, pid, 5), born]);
        members(&walk, &leader, 7, &[entry(pid, 1, pid, 5)]);
        let orphan = Entry { parent: 1, ..born };
        assert_eq!(members(&walk, &leader, 9, &[orphan]), [orphan]);
    }
}
