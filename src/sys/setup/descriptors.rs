//! The child's descriptors: each to its number, and the others closed.

use std::os::fd::RawFd;

use super::{Halt, Step, check};
use crate::sys::syscall::syscall;

/// What is to be done, allocated in the parent. The child works on a descriptor table of its own.
#[derive(Debug)]
pub(super) struct Descriptors {
    moves: Vec<Move>,
    /// The numbers given by the moves, ascending, without duplicates.
    targets: Vec<i32>,
    /// The ranges to close, both ends included.
    gaps: Vec<(u32, u32)>,
    /// Of 0, 1 and 2 those that are inherited.
    streams: Vec<RawFd>,
    /// Where closing one by one ends, should `close_range` be missing.
    limit: u32,
}

/// One descriptor on its way to its number.
#[derive(Debug)]
struct Move {
    source: RawFd,
    target: i32,
    /// The source is also the target of another move, and has to be brought to safety first.
    endangered: bool,
    /// Where it was brought; -1 if nowhere. Written by the child.
    refuge: RawFd,
}

impl Descriptors {
    /// For `fds` as in [`Setup::fds`](super::Setup::fds); `keep` is left open by `close_others` as well.
    pub(super) fn new(fds: &[(RawFd, i32)], close_others: bool, keep: &[RawFd]) -> Descriptors {
        let mut targets: Vec<i32> = fds.iter().map(|&(_, target)| target).collect();
        targets.sort_unstable();
        targets.dedup();
        let moves = fds.iter().map(|&(source, target)| Move {
            source,
            target,
            endangered: source != target && targets.binary_search(&source).is_ok(),
            refuge: -1,
        });
        Descriptors {
            moves: moves.collect(),
            gaps: if close_others { gaps(&targets, keep) } else { Vec::new() },
            streams: (0..3)
                .filter(|stream| close_others && !targets.contains(stream) && !keep.contains(stream))
                .collect(),
            targets,
            limit: descriptor_limit(),
        }
    }

    /// Gives each descriptor its number. Sources that are the target of another move are duplicated first to a number
    /// that is nobody's target; that makes every permutation and every cycle one case.
    ///
    /// # Safety
    /// Only in a child with a descriptor table of its own, which holds nothing that anything still relies on.
    pub(super) unsafe fn place(&mut self) -> Result<(), Halt> {
        let targets = &self.targets;
        for item in self.moves.iter_mut().filter(|item| item.endangered) {
            let step = Step::Descriptor(item.target);
            let mut lowest: RawFd = 3;
            loop {
                // SAFETY: F_DUPFD_CLOEXEC takes numbers only, and overwrites no descriptor.
                let copy =
                    check(step, unsafe { syscall!(libc::SYS_fcntl, item.source, libc::F_DUPFD_CLOEXEC, lowest) })?;
                let copy = copy as RawFd;
                if !targets.contains(&copy) {
                    item.refuge = copy;
                    break;
                }
                // SAFETY: the descriptor was made two lines above and nobody knows it.
                let _ = unsafe { syscall!(libc::SYS_close, copy) };
                lowest = copy.wrapping_add(1);
            }
        }
        for item in &self.moves {
            let step = Step::Descriptor(item.target);
            let source = if item.refuge >= 0 { item.refuge } else { item.source };
            let result = if source == item.target {
                // It is in its place, dup3 would refuse it, and its close-on-exec flag has to go.
                // SAFETY: F_SETFD takes numbers only.
                unsafe { syscall!(libc::SYS_fcntl, source, libc::F_SETFD, 0) }
            } else {
                // SAFETY: dup3(2) takes numbers only; what it overwrites is this process's copy of the table.
                unsafe { syscall!(libc::SYS_dup3, source, item.target, 0) }
            };
            check(step, result)?;
        }
        for item in self.moves.iter().filter(|item| item.refuge >= 0) {
            // SAFETY: the refuge was made above and is nobody's target.
            let _ = unsafe { syscall!(libc::SYS_close, item.refuge) };
        }
        Ok(())
    }

    /// Closes what is in the gaps.
    ///
    /// # Safety
    /// As for [`Descriptors::place`].
    pub(super) unsafe fn close_others(&self) -> Result<(), Halt> {
        // In a program that has closed its streams their numbers are those of others, which an exec would close.
        for &stream in &self.streams {
            // SAFETY: F_GETFD takes numbers only.
            if let Ok(flags) = unsafe { syscall!(libc::SYS_fcntl, stream, libc::F_GETFD) }
                && flags & libc::FD_CLOEXEC as usize != 0
            {
                // SAFETY: close(2) takes a number; the table is this process's own copy.
                let _ = unsafe { syscall!(libc::SYS_close, stream) };
            }
        }
        for &(first, last) in &self.gaps {
            // SAFETY: close_range(2) takes numbers only; the table is this process's own copy.
            match check(Step::CloseDescriptors, unsafe { syscall!(libc::SYS_close_range, first, last, 0) }) {
                Ok(_) => {}
                // The kernel has it since 5.9, but sandboxes with an older list of calls answer ENOSYS or EPERM.
                Err(halt) if halt.errno == libc::ENOSYS || halt.errno == libc::EPERM => {
                    // SAFETY: as for close_range.
                    unsafe { self.close_one_by_one() };
                    return Ok(());
                }
                Err(halt) => return Err(halt),
            }
        }
        Ok(())
    }

    fn is_in_a_gap(&self, fd: u32) -> bool {
        self.gaps.iter().any(|(first, last)| (*first..=*last).contains(&fd))
    }

    /// For where `close_range` is missing: those that `/proc` lists, or else all numbers. Of the latter, those above a limit that was
    /// lowered after they were made stay open.
    ///
    /// # Safety
    /// Only in a child with a descriptor table of its own.
    unsafe fn close_one_by_one(&self) {
        // SAFETY: as above.
        if unsafe { self.close_listed() } {
            return;
        }
        for fd in (3..self.limit).filter(|fd| self.is_in_a_gap(*fd)) {
            // SAFETY: close(2) takes a number; an EBADF is the usual answer here.
            let _ = unsafe { syscall!(libc::SYS_close, fd) };
        }
    }

    /// False: there is no list.
    ///
    /// # Safety
    /// As above.
    unsafe fn close_listed(&self) -> bool {
        let (path, flags) = (c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
        // SAFETY: openat(2) reads a static path.
        let Ok(list) = (unsafe { syscall!(libc::SYS_openat, libc::AT_FDCWD, path, flags, 0) }) else { return false };
        let mut buffer = [0_u8; 1024];
        let complete = loop {
            // SAFETY: getdents64(2) writes so many bytes to a local at most, which has no alignment to keep.
            match unsafe { syscall!(libc::SYS_getdents64, list, buffer.as_mut_ptr(), buffer.len()) } {
                Ok(0) => break true,
                Ok(length) => {
                    for fd in Listed(buffer.get(..length).unwrap_or_default()) {
                        if fd as usize != list && self.is_in_a_gap(fd) {
                            // SAFETY: close(2) takes a number.
                            let _ = unsafe { syscall!(libc::SYS_close, fd) };
                        }
                    }
                }
                Err(_) => break false,
            }
        };
        // SAFETY: close(2) takes a number, which was made above.
        let _ = unsafe { syscall!(libc::SYS_close, list) };
        complete
    }
}

/// The numbers among entries of a directory (`getdents64(2)`: the length of an entry is its 17th and 18th byte, its name begins
/// with the 20th). Nothing here panics: it is used where that must not be.
struct Listed<'a>(&'a [u8]);

impl Iterator for Listed<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            let length = self.0.get(16..18)?;
            let length = u16::from_ne_bytes([*length.first()?, *length.last()?]);
            let entry = self.0.get(..length.into())?;
            self.0 = self.0.get(length.max(1).into()..)?;
            let name = entry.get(19..)?.split(|byte| *byte == 0).next()?;
            let mut digits = name.iter().map(|byte| byte.wrapping_sub(b'0'));
            let number = digits.try_fold(0_u32, |number, digit| match digit {
                0..=9 => number.checked_mul(10)?.checked_add(digit.into()),
                _ => None,
            });
            if let Some(number) = number.filter(|_| !name.is_empty()) {
                return Some(number);
            }
        }
    }
}

/// The ranges between 2, `targets` and `keep`. Negative targets fail later, when they are placed.
fn gaps(targets: &[i32], keep: &[RawFd]) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = targets.iter().chain(keep).filter_map(|&fd| u32::try_from(fd).ok()).collect();
    kept.sort_unstable();
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    let mut first = 3;
    for fd in kept.into_iter().filter(|&fd| fd >= 3) {
        if fd > first {
            gaps.push((first, fd - 1));
        }
        first = fd + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

fn descriptor_limit() -> u32 {
    let soft =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    u32::try_from(soft).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
