//! What the kernel is told about memory.

use std::mem::MaybeUninit;

pub(super) fn page_size() -> usize {
    // SAFETY: sysconf(3) takes a number.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// Asks for huge pages where the memory has none yet. It is a wish: whatever comes of it, nothing changes but how fast that is there.
pub(crate) fn prefer_huge_pages(memory: &mut [MaybeUninit<u8>]) {
    let (before, pages) = (memory.as_ptr().align_offset(page_size()), memory.len());
    let Some(pages) = pages.checked_sub(before) else { return };
    let start = memory.as_mut_ptr().wrapping_add(before);
    // SAFETY: the pages from there on are ours, but for the rest of the last one: and it changes nothing in any of them.
    unsafe { libc::madvise(start.cast(), pages, libc::MADV_HUGEPAGE) };
}
