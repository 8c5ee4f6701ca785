//! This process's id, without a system call.
//!
//! It is asked for at every operation, to tell a process from its fork. The C library does not keep it, since it cannot
//! know of every fork; the kernel does: a page marked `MADV_WIPEONFORK` (`madvise(2)`, kernel 4.14) is zero in
//! a child, whoever forked it and how.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::process::has_executed;

/// What is in the page. All zero is a fork that has not looked yet.
#[derive(Default)]
struct Own {
    pid: AtomicU32,
    /// How many forks deep this process is, counting only those who looked.
    incarnation: AtomicU32,
    /// Whether it is a fork of one that had not looked: 0 until it is known, then [`NOT_FORKED`] or [`FORKED`].
    forked: AtomicU32,
}

const NOT_FORKED: u32 = 1;
const FORKED: u32 = 2;

/// Null until the page is there. No lock guards it: a fork could copy one that is held.
static PAGE: AtomicPtr<Own> = AtomicPtr::new(ptr::null_mut());

const FIRST: u32 = 1;

/// Goes into a fork as it is, unlike the page.
static COPIES: AtomicU32 = AtomicU32::new(FIRST);

/// The number of a process that asked for one when the page could not be had: it stays that.
static WITHOUT_PAGE: AtomicU32 = AtomicU32::new(0);

/// A number that no process has of which this one is a fork. Their pids tell less: one may have ended and its pid be
/// ours, and the first process of every pid namespace is number 1.
pub(super) fn incarnation() -> u32 {
    let Some(kept) = kept() else {
        WITHOUT_PAGE.store(without_page(), Ordering::Relaxed);
        return without_page();
    };
    match kept.incarnation.load(Ordering::Relaxed) {
        0 => {
            let fresh = COPIES.fetch_add(1, Ordering::Relaxed) + 1;
            // Another thread's number is as good, but it has to be one for all.
            kept.incarnation
                .compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed)
                .map_or_else(|other| other, |_| fresh)
        }
        incarnation => incarnation,
    }
}

/// Apart from all numbers that are counted: no pid is that large (`pid_max`, proc_sys_kernel(5)).
fn without_page() -> u32 {
    std::process::id() | 1 << 31
}

/// Whether this process is a fork, and has executed no program since.
pub(super) fn is_fork() -> bool {
    // Where the page cannot be had nobody can tell.
    let Some(kept) = kept() else { return false };
    if ![FIRST, without_page()].contains(&incarnation()) {
        return true;
    }
    match kept.forked.load(Ordering::Relaxed) {
        0 => {
            let forked = has_executed(get()) == Some(false);
            kept.forked.store(if forked { FORKED } else { NOT_FORKED }, Ordering::Relaxed);
            forked
        }
        known => known == FORKED,
    }
}

pub(super) fn get() -> u32 {
    let Some(kept) = kept() else { return std::process::id() };
    match kept.pid.load(Ordering::Relaxed) {
        0 => {
            let pid = std::process::id();
            kept.pid.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

/// `None` where the page cannot be had: then the kernel is asked each time.
fn kept() -> Option<&'static Own> {
    // SAFETY: it is null, or a page that was published below and is never unmapped.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }.or_else(publish)
}

fn publish() -> Option<&'static Own> {
    let page = page()?;
    let raw = ptr::from_ref(page).cast_mut();
    // The loser of a race leaves a page behind, once in the life of a program.
    match PAGE.compare_exchange(ptr::null_mut(), raw, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(page),
        // SAFETY: what was published is never unmapped.
        Err(other) => unsafe { other.as_ref() },
    }
}

fn page() -> Option<&'static Own> {
    // The kernel rounds it up to a page, whatever its size.
    let size = size_of::<Own>();
    // SAFETY: a new private mapping that nobody else knows of.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is ours, and begins on a page.
    if unsafe { libc::madvise(page, size, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: it was mapped above, with this size, and is in use nowhere.
        unsafe { libc::munmap(page, size) };
        return None;
    }
    // SAFETY: it is aligned, zeroed, large enough and never unmapped.
    let own = unsafe { &*page.cast::<Own>() };
    // Nobody of whom this process is a fork has looked, or the page would be there; or it could not be had.
    let asked = WITHOUT_PAGE.load(Ordering::Relaxed) == without_page();
    own.incarnation.store(if asked { without_page() } else { FIRST }, Ordering::Relaxed);
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_known_for_one() {
        assert!(!is_fork());
        crate::sys::fork::tests::in_fork(|| assert!(is_fork()));
    }

    #[test]
    fn it_is_the_kernels() {
        assert_eq!(get(), std::process::id());
        assert_eq!(get(), std::process::id());
    }
}
