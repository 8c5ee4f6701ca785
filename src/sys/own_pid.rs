//! This process's id, without a system call.
//!
//! It is asked for at every operation, to tell a process from its fork. The C library does not keep it, since it cannot
//! know of every fork; the kernel does: a page marked `MADV_WIPEONFORK` (`madvise(2)`, kernel 4.14) is zero in
//! a child, whoever forked it and how.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Null until the page is there. No lock guards it: a fork could copy one that is held.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

pub(super) fn get() -> u32 {
    // SAFETY: it is null, or a page that was published below and is never unmapped.
    let kept = unsafe { PAGE.load(Ordering::Acquire).as_ref() };
    // Where the page cannot be had, the kernel is asked each time.
    let Some(kept) = kept.or_else(publish) else { return std::process::id() };
    match kept.load(Ordering::Relaxed) {
        0 => {
            let pid = std::process::id();
            kept.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

fn publish() -> Option<&'static AtomicU32> {
    let page = page()?;
    let raw = ptr::from_ref(page).cast_mut();
    // The loser of a race leaves a page behind, once in the life of a program.
    match PAGE.compare_exchange(ptr::null_mut(), raw, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(page),
        // SAFETY: what was published is never unmapped.
        Err(other) => unsafe { other.as_ref() },
    }
}

fn page() -> Option<&'static AtomicU32> {
    // The kernel rounds it up to a page, whatever its size.
    let size = size_of::<AtomicU32>();
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
    Some(unsafe { &*page.cast::<AtomicU32>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_kernels() {
        assert_eq!(get(), std::process::id());
        assert_eq!(get(), std::process::id());
    }
}
