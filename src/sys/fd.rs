//! Small things done with descriptors. Whatever is made here is close-on-exec from the start, so that children started
//! at the same time by other code do not get it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::per_process::PerProcess;

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

/// `/dev/null`, for reading and writing: opened once for all children of this process.
pub(crate) fn null() -> io::Result<BorrowedFd<'static>> {
    static NULL: PerProcess<OnceLock<OwnedFd>> = PerProcess::new();
    let null = NULL.get_or_init(OnceLock::new);
    if null.get().is_none() {
        // Two may open it at once; the second copy is closed again.
        let _ = null.set(OpenOptions::new().read(true).write(true).open("/dev/null")?.into());
    }
    Ok(null.get().expect("it was set just now").as_fd())
}

/// How many bytes fit into a pipe (`F_GETPIPE_SZ`).
pub(crate) fn pipe_size(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let size = fcntl(fd, FcntlArg::F_GETPIPE_SZ)?;
    usize::try_from(size).map_err(io::Error::other)
}

/// Whether the number is in use in this process.
#[cfg(test)]
pub(crate) fn is_open(fd: std::os::fd::RawFd) -> bool {
    // SAFETY: F_GETFD takes numbers only and changes nothing.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// Whether a program that this process executes would have it: it is open, and not close-on-exec.
#[cfg(feature = "tasks")]
pub(crate) fn is_inherited(fd: std::os::fd::RawFd) -> bool {
    // SAFETY: F_GETFD takes numbers only and changes nothing.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags != -1 && flags & libc::FD_CLOEXEC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_close_on_exec(fd: impl AsFd) -> bool {
        fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0
    }

    #[test]
    fn a_pipe_carries_bytes() {
        let (reader, writer) = pipe().unwrap();
        assert!(is_close_on_exec(&reader) && is_close_on_exec(&writer));
        nix::unistd::write(&writer, b"hello").unwrap();
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
        assert!(is_close_on_exec(null));
        assert_eq!(read(null, &mut [0; 4]).unwrap(), 0);
        assert_eq!(nix::unistd::write(null, b"gone").unwrap(), 4);
    }
}
