//! Waiting for many descriptors at once, and a descriptor to be woken by.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What to be told about a descriptor; with [`Interest::NONE`] nothing but a hang-up, and that once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interest(EpollFlags);

impl Interest {
    /// `epoll` tells hang-ups whatever is asked for, without this again and again. To take the descriptor out instead would need
    /// memory to put it back.
    pub(crate) const NONE: Interest = Interest(EpollFlags::EPOLLONESHOT);
    pub(crate) const READ: Interest = Interest(EpollFlags::EPOLLIN);
    pub(crate) const WRITE: Interest = Interest(EpollFlags::EPOLLOUT);
}

/// A level-triggered `epoll`.
#[derive(Debug)]
pub(crate) struct Poller(Epoll);

/// How many events one wait takes; the rest comes with the next.
const BATCH: usize = 64;

/// Set once `epoll_pwait2` was found missing: it came with 5.11.
static MILLISECONDS_ONLY: AtomicBool = AtomicBool::new(false);

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches `fd`; what happens to it comes back with `token`.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(interest.0, token))?)
    }

    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.modify(fd, &mut EpollEvent::new(interest.0, token))?)
    }

    /// To be called before the descriptor is closed: as long as a copy is open elsewhere, `epoll` would go on telling.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Replaces `tokens` with those of which something happened, or with nothing when the time is over or a signal
    /// came.
    pub(crate) fn wait(&self, tokens: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        tokens.clear();
        let mut buffer = [EpollEvent::empty(); BATCH];
        let count = match self.wait_once(&mut buffer, timeout) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        tokens.extend(buffer.iter().take(count).map(EpollEvent::data));
        Ok(())
    }

    fn wait_once(&self, buffer: &mut [EpollEvent; BATCH], timeout: Option<Duration>) -> nix::Result<usize> {
        if !MILLISECONDS_ONLY.load(Ordering::Relaxed) {
            match self.pwait2(buffer, timeout) {
                // EPERM is what sandboxes with an older list of calls say.
                Err(Errno::ENOSYS | Errno::EPERM) => MILLISECONDS_ONLY.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        self.wait_milliseconds(buffer, timeout)
    }

    fn pwait2(&self, buffer: &mut [EpollEvent; BATCH], timeout: Option<Duration>) -> nix::Result<usize> {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let time: *const libc::timespec = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let mask: *const u64 = std::ptr::null();
        let fd = self.0.0.as_raw_fd();
        // SAFETY: epoll_pwait2(2) writes at most BATCH events, which EpollEvent is a transparent wrapper of; `timeout`
        // lives until the end of this function.
        let result = unsafe {
            libc::syscall(libc::SYS_epoll_pwait2, fd, buffer.as_mut_ptr(), BATCH as i32, time, mask, size_of::<u64>())
        };
        Errno::result(result).map(|count| count as usize)
    }

    /// Rounded up: to return early would make the caller spin until its time has come.
    fn wait_milliseconds(&self, buffer: &mut [EpollEvent; BATCH], timeout: Option<Duration>) -> nix::Result<usize> {
        let timeout = match timeout {
            None => -1,
            Some(timeout) => i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
        };
        let timeout = nix::sys::epoll::EpollTimeout::try_from(timeout).map_err(|_| Errno::EINVAL)?;
        self.0.wait(buffer, timeout)
    }
}

/// Wakes whoever polls it, from any thread; ringing twice is ringing once.
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        Ok(Bell(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Never blocks and cannot fail in a way that matters: a full counter rings already.
    pub(crate) fn ring(&self) {
        // EINTR does not happen to a write that does not block.
        let _ = self.0.write(1);
    }

    /// Makes it unreadable until the next ring.
    pub(crate) fn silence(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether `fd` is readable now; of a pidfd, whether its process has ended.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, PollFlags::POLLIN, PollTimeout::ZERO)
}

/// Whether `fd` gets writable within so many milliseconds.
pub(crate) fn is_writable_within(fd: BorrowedFd<'_>, milliseconds: u8) -> bool {
    is_ready(fd, PollFlags::POLLOUT, milliseconds.into())
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, limit: PollTimeout) -> bool {
    poll(&mut [PollFd::new(fd, what)], limit).is_ok_and(|count| count > 0)
}

/// Waits, without a limit, until `fd` is readable.
#[cfg(test)]
pub(crate) fn wait_readable(fd: BorrowedFd<'_>) {
    // EINTR: a signal handler ran on this thread. Nothing else can be wrong with one valid descriptor but a lack of
    // kernel memory, which passes.
    while poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).is_err() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn look(poller: &Poller) -> Vec<u64> {
        let mut tokens = Vec::new();
        poller.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        tokens
    }

    #[test]
    fn a_bell_rings_until_silenced() {
        let (poller, bell) = (Poller::new().unwrap(), Bell::new().unwrap());
        poller.add(bell.as_fd(), 7, Interest::READ).unwrap();
        assert!(look(&poller).is_empty());
        bell.ring();
        bell.ring();
        assert_eq!(look(&poller), [7]);
        bell.silence();
        bell.silence();
        assert!(look(&poller).is_empty());
    }

    #[test]
    fn interest_is_changed_and_ended() {
        // In a child: a copy of a descriptor in the fork of another test would keep it open.
        crate::sys::fork::tests::in_fork(|| {
            let (reader, writer) = crate::sys::fd::pipe().unwrap();
            let poller = Poller::new().unwrap();
            poller.add(writer.as_fd(), 1, Interest::NONE).unwrap();
            assert!(look(&poller).is_empty());
            poller.modify(writer.as_fd(), 2, Interest::WRITE).unwrap();
            assert_eq!(look(&poller), [2]);
            poller.modify(writer.as_fd(), 3, Interest::NONE).unwrap();
            assert!(look(&poller).is_empty());
            drop(reader);
            assert_eq!(look(&poller), [3], "a hang-up");
            assert!(look(&poller).is_empty(), "it is no news");
            poller.modify(writer.as_fd(), 4, Interest::WRITE).unwrap();
            assert_eq!(look(&poller), [4]);
            poller.remove(writer.as_fd()).unwrap();
            assert!(look(&poller).is_empty());
        });
    }

    #[test]
    fn it_never_returns_early() {
        let poller = Poller::new().unwrap();
        let mut buffer = [EpollEvent::empty(); BATCH];
        let timeout = Duration::from_micros(1_300);
        // The SIGCHLD of another test's child may interrupt a wait, even where it is ignored by default: its parent
        // had it blocked, so it was queued, and was then given to this thread.
        let mut elapsed = |wait: &mut dyn FnMut(&mut [EpollEvent; BATCH]) -> nix::Result<usize>| {
            loop {
                let begin = Instant::now();
                match wait(&mut buffer) {
                    Err(Errno::EINTR) => {}
                    result => {
                        assert_eq!(result, Ok(0));
                        return begin.elapsed();
                    }
                }
            }
        };
        assert!(elapsed(&mut |buffer| poller.wait_once(buffer, Some(timeout))) >= timeout);
        assert!(elapsed(&mut |buffer| poller.wait_milliseconds(buffer, Some(timeout))) >= timeout);
    }

    #[test]
    fn the_longest_timeout_is_no_error() {
        let (poller, bell) = (Poller::new().unwrap(), Bell::new().unwrap());
        poller.add(bell.as_fd(), 7, Interest::READ).unwrap();
        bell.ring();
        let mut buffer = [EpollEvent::empty(); BATCH];
        assert_eq!(poller.wait_once(&mut buffer, Some(Duration::MAX)), Ok(1));
        assert_eq!(poller.wait_milliseconds(&mut buffer, Some(Duration::MAX)), Ok(1));
        assert_eq!(poller.wait_milliseconds(&mut buffer, None), Ok(1));
    }
}
