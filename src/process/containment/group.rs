//! A process group after its leader.
//!
//! On kernels with `PIDFD_SIGNAL_PROCESS_GROUP` (6.9) the leader's pidfd reaches its group for ever, and answers ESRCH
//! once it is empty. Before that only the number reaches the group, and the number belongs to it only while a member or
//! the unreaped leader holds it: there the leader stays a zombie until the run is over.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::signal::Signal;
use crate::sys;
use crate::sys::pidfd::features;
use crate::sys::wait::Look;

use super::Leader;
use crate::process::procfs::{self, Entry, Snapshot};

/// Of a signal that not all could be told, for want of descriptors. The next step of a ladder follows, and SIGKILL is sent again.
pub(super) fn warn_of(signal: Signal, error: &io::Error) {
    log::warn!("{signal} did not reach all of a run: {error}");
}

/// The leader too, wherever it is: that one we have hold of.
pub(super) fn signal(leader: &Leader, signal: Signal) -> io::Result<()> {
    let sent = if features().group_signal {
        leader.pidfd.signal_group(signal.as_raw())
    } else if leader.reaped || !is_ours(leader) {
        // Someone else reaped it: its number may be a stranger's.
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    } else {
        sys::process::kill_group(leader.pid, signal.as_raw())
    };
    if leader.reaped || !sys::process::process_group_of(leader.pid).is_ok_and(|group| group != leader.pid) {
        return sent;
    }
    // It joined another group, alone or as the last. (Were the number a stranger's by now, the pidfd would say ESRCH.)
    let sent_to_leader = leader.pidfd.signal(signal.as_raw());
    sent.or(sent_to_leader)
}

/// Whether the leader's number still belongs to its group, and not to a stranger. From 6.9 on the leader may have been
/// reaped; before that it is a zombie until the run is over, unless someone else takes it.
pub(super) fn has_its_number(leader: &Leader) -> bool {
    if features().group_signal { may_be_occupied(leader) } else { !leader.reaped && is_ours(leader) }
}

/// Whether nobody else can have the leader's number, as a process's or as a group's. (It may have left its group empty.)
pub(super) fn holds_its_number(leader: &Leader) -> bool {
    is_ours(leader) || has_its_number(leader)
}

/// Whether the leader is still there, alive or as the zombie that we left.
fn is_ours(leader: &Leader) -> bool {
    sys::wait::wait(leader.pidfd.as_fd(), Look::Exit { keep: true }).is_ok()
}

/// False: the group is empty. True may still mean zombies. To be asked after the leader was reaped.
pub(super) fn may_be_occupied(leader: &Leader) -> bool {
    if !features().group_signal {
        // Reaped by someone else. Who is left cannot be told from strangers.
        return false;
    }
    match leader.pidfd.signal_group(0) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() != Some(libc::ESRCH),
    }
}

/// Who is dead in the group, as `all` processes show; `None`: somebody lives.
pub(super) fn dead(leader: &Leader, all: &Snapshot) -> Option<BTreeSet<u32>> {
    if !has_its_number(leader) {
        return Some(BTreeSet::new());
    }
    let mut members =
        all.entries.iter().filter(|entry| entry.group == leader.pid && entry.pid != leader.pid).peekable();
    // Who sees none of a group that the kernel says is there has no /proc, or one that hides others' processes
    // (hidepid).
    let hidden = members.peek().is_none() && leader.reaped && may_be_occupied(leader);
    if hidden && sys::process::adopts_orphans() {
        // It may be there for its zombies alone, which came to us.
        take_all(leader);
    }
    dead_among(members).filter(|_| !(hidden && may_be_occupied(leader)))
}

/// All of them, if none lives. Zombies that became ours by reparenting, because this program is a subreaper or PID 1, are
/// reaped: nobody else can. (In one that is neither, what is ours here was put into the group by other code, which waits for it.)
pub(super) fn dead_among<'a>(members: impl Iterator<Item = &'a Entry>) -> Option<BTreeSet<u32>> {
    let mut dead = Some(BTreeSet::new());
    for member in members {
        let is_ours = || member.parent == sys::process::pid() && sys::process::adopts_orphans();
        if member.zombie && (!is_ours() || take(member)) {
            dead.as_mut().map(|dead| dead.insert(member.pid));
        } else {
            dead = None;
        }
    }
    dead
}

/// Takes the zombies of it that are ours. False: it is empty.
pub(super) fn take_zombies(leader: &Leader) -> bool {
    if has_its_number(leader) {
        take_all(leader);
    }
    has_its_number(leader)
}

fn take_all(leader: &Leader) {
    sys::wait::take_group(leader.pid, |pid| {
        TAKEN.fetch_add(1, Ordering::SeqCst);
        // Where /proc does not show it, it is none that we trace: of those it does.
        procfs::entry(pid).is_none_or(|entry| entry.parent == sys::process::pid())
    });
}

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Changes whenever the status of an orphan may have been taken, before it is.
pub(in crate::process) fn times_taken() -> u64 {
    TAKEN.load(Ordering::SeqCst)
}

/// Takes the status of a zombie; false: it is still there, with another parent perhaps.
pub(super) fn take(zombie: &Entry) -> bool {
    if zombie.parent != sys::process::pid() {
        return false;
    }
    TAKEN.fetch_add(1, Ordering::SeqCst);
    match procfs::open(zombie) {
        // ECHILD: somebody else took it meanwhile.
        Ok(pidfd) => !matches!(sys::wait::wait(pidfd.as_fd(), Look::Exit { keep: false }), Ok(None)),
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}
