//! The directory that a process is in, which another one is to be in as well.
//!
//! A process stays in a directory that it may not enter (any more), and so do its children. But no other process gets there by
//! `fchdir(2)`, which asks for the right. So that one is to have been started there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::fchdir;

/// That of this process, to be given away.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    /// By a process with the rights of this one.
    pub(crate) may_be_entered: bool,
}

impl Directory {
    pub(crate) fn current() -> io::Result<Directory> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(".", flags, Mode::empty()) {
            // To look `.` up takes the right to enter it; to follow the link does not.
            Err(Errno::EACCES) => {
                Ok(Directory { fd: open("/proc/thread-self/cwd", flags, Mode::empty())?, may_be_entered: false })
            }
            fd => Ok(Directory { fd: fd?, may_be_entered: true }),
        }
    }

    /// The same for each that is there.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        Ok(identity(self.fd.as_fd())?)
    }
}

/// Where that may not be, it is enough to be there.
pub(super) fn enter(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match fchdir(directory) {
        Err(Errno::EACCES) if is_current(directory) => Ok(()),
        entered => entered,
    }
}

fn is_current(directory: BorrowedFd<'_>) -> bool {
    let current = Directory::current().and_then(|current| current.identity());
    current.is_ok_and(|current| identity(directory) == Ok(current))
}

fn identity(directory: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    let status = fstat(directory)?;
    Ok((status.st_dev, status.st_ino))
}
