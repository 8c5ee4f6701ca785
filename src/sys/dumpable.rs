//! Puts back what a child's change of credentials does to the memory that it borrows: the kernel marks it as not dumpable
//! (`PR_SET_DUMPABLE(2const)`), and ours it stays. From then on this program would leave no core, its `/proc/self` would be root's, and no
//! debugger of its user could attach.
//!
//! A program that changes the mark itself meanwhile is overruled: nobody can tell who changed it.
//!
//! Only once no such child is left in our memory: until then the mark is what keeps the child's new user from attaching to it, and so
//! to us.

use std::sync::{Mutex, MutexGuard};

use super::setup::Setup;
use super::{PerProcess, locked};

/// Until this is dropped, a child may borrow our memory that changes its credentials.
pub(super) struct Dumpable;

#[derive(Default)]
struct Borrowed {
    by: usize,
    /// Before the first of them.
    mark: i32,
}

/// Leaf lock. Of one process: a fork could copy it while it is held.
static BORROWED: PerProcess<Mutex<Borrowed>> = PerProcess::new();

impl Dumpable {
    pub(super) fn keep(setup: &Setup) -> Option<Dumpable> {
        if setup.uid.is_none() && setup.gid.is_none() {
            return None;
        }
        let mut borrowed = Dumpable::lock();
        if borrowed.by == 0 {
            borrowed.mark = Dumpable::mark();
        }
        borrowed.by += 1;
        Some(Dumpable)
    }

    /// The mark of this program, whoever borrows its memory.
    pub(super) fn of_program() -> i32 {
        let borrowed = Dumpable::lock();
        if borrowed.by == 0 { Dumpable::mark() } else { borrowed.mark }
    }

    /// In a fork, which has the mark that somebody had borrowed.
    pub(super) fn put_back(mark: i32) {
        if mark == 1 && Dumpable::mark() != 1 {
            // 1 is always permitted.
            let _ = nix::sys::prctl::set_dumpable(true);
        }
    }

    /// 0: no; 1: yes; 2: by root only, which nix takes for a yes.
    fn mark() -> i32 {
        // SAFETY: PR_GET_DUMPABLE takes no more.
        unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
    }

    fn lock() -> MutexGuard<'static, Borrowed> {
        locked(BORROWED.get_or_init(Mutex::default))
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut borrowed = Dumpable::lock();
        borrowed.by -= 1;
        if borrowed.by == 0 && Dumpable::mark() != borrowed.mark {
            // (What the kernel sets may be more than there was: `fs.suid_dumpable`. A 2 cannot be put back; a no can, and is safe.)
            let _ = nix::sys::prctl::set_dumpable(borrowed.mark == 1);
        }
    }
}
