//! Small things done with descriptors. Whatever is made here is close-on-exec from the start, so that children started
//! at the same time by other code do not get it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A pipe: its reading end, its writing end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Lets reads and writes fail with EAGAIN instead of waiting. It holds for all copies of the descriptor, those in other
/// processes too.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, nonblocking);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Reads once, EINTR retried.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::read(fd, buffer) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// `/dev/null`, for reading and writing.
pub(crate) fn null() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}

/// A copy with a number of 3 or more.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // The standard library documents F_DUPFD_CLOEXEC from 3 on.
    fd.try_clone_to_owned()
}

/// Whether the number is in use in this process.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes numbers only and changes nothing.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// How much can be read at once from a pipe or socket.
pub(crate) fn bytes_waiting(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn is_close_on_exec(fd: &OwnedFd) -> bool {
        fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0
    }

    #[test]
    fn a_pipe_carries_bytes_and_counts_them() {
        let (reader, writer) = pipe().unwrap();
        assert!(is_close_on_exec(&reader) && is_close_on_exec(&writer));
        assert_eq!(bytes_waiting(reader.as_fd()).unwrap(), 0);
        nix::unistd::write(&writer, b"hello").unwrap();
        assert_eq!(bytes_waiting(reader.as_fd()).unwrap(), 5);
        let mut buffer = [0; 8];
        assert_eq!(read(reader.as_fd(), &mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        set_nonblocking(reader.as_fd(), true).unwrap();
        let error = read(reader.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        set_nonblocking(reader.as_fd(), false).unwrap();
        drop(writer);
        assert_eq!(read(reader.as_fd(), &mut buffer).unwrap(), 0);
    }

    #[test]
    fn null_reads_nothing_and_takes_everything() {
        let null = null().unwrap();
        assert!(is_close_on_exec(&null));
        assert_eq!(read(null.as_fd(), &mut [0; 4]).unwrap(), 0);
        assert_eq!(nix::unistd::write(&null, b"gone").unwrap(), 4);
    }

    #[test]
    fn a_copy_is_open_until_dropped() {
        let copy = duplicate(io::stdin().as_fd()).unwrap();
        assert!(copy.as_raw_fd() >= 3);
        assert!(is_close_on_exec(&copy));
        assert!(is_open(copy.as_raw_fd()));
        // Far above anything the other tests have open at the same time.
        assert!(!is_open(1 << 30));
    }
}
