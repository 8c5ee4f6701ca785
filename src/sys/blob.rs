//! Bytes that another process gets without their going through a socket: a file in memory (`memfd_create(2)`).

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file in memory that holds `parts`, one after the other, and is never changed again.
pub(crate) fn of(parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let mut growing = Growing::new()?;
    parts.iter().try_for_each(|part| growing.extend(part))?;
    growing.finish()
}

/// A file in memory that is being written. (By `write(2)`: a mapping would have to be faulted in page by page, and a lack of memory
/// would be a SIGBUS.)
#[derive(Debug)]
pub(crate) struct Growing(BufWriter<File>);

impl Growing {
    pub(crate) fn new() -> io::Result<Growing> {
        let file = File::from(memfd_create("pkit", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        Ok(Growing(BufWriter::with_capacity(64 * 1024, file)))
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// It is never changed again.
    pub(crate) fn finish(self) -> io::Result<OwnedFd> {
        let fd = OwnedFd::from(self.0.into_inner().map_err(IntoInnerError::into_error)?);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        Ok(fd)
    }
}

/// What such a file holds, in our memory.
#[derive(Debug)]
pub(crate) struct Mapped {
    start: *mut c_void,
    length: usize,
}

// SAFETY: nobody writes to it, and whoever drops it is the only one that has it.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

/// Whether an error says that a file is none of those that [`Mapped`] takes, and not that there is no room for it here.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN))
}

impl Mapped {
    /// # Errors
    /// EINVAL: it is no such file, and could change while it is read, or shrink (SIGBUS). Or it has holes: of those who made it none has the memory
    /// that it takes here to copy them.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Mapped> {
        Mapped::with(fd, libc::PROT_READ)
    }

    /// The same, for what C code may write to: strings of the environment.
    pub(crate) fn writable(fd: BorrowedFd<'_>) -> io::Result<Mapped> {
        Mapped::with(fd, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn with(fd: BorrowedFd<'_>, protection: i32) -> io::Result<Mapped> {
        let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        // (No hole can be made where nobody may write.)
        if !seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE) {
            return Err(Errno::EINVAL.into());
        }
        /// The unit of `st_blocks` (stat(3type)), whatever the size of a page is.
        const BLOCK: i64 = 512;
        let status = nix::sys::stat::fstat(fd)?;
        // What is swapped out counts, and of a page that was written in part all of it.
        if status.st_blocks.saturating_mul(BLOCK) < status.st_size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a file that is larger than what was written to it",
            ));
        }
        let length = usize::try_from(status.st_size).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(Mapped { start: ptr::null_mut(), length });
        }
        // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_PRIVATE, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapped { start, length })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: so much is mapped there until this is dropped, and its seals keep it as it is.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if !self.start.is_null() {
            // SAFETY: nobody else knows this mapping.
            unsafe { libc::munmap(self.start, self.length) };
        }
    }
}

/// A file in memory that nobody changes any more, and what it holds.
#[derive(Debug)]
pub(crate) struct Blob {
    mapped: Mapped,
    file: OwnedFd,
}

impl Blob {
    /// A new one with those bytes.
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Blob> {
        let file = of(&[bytes])?;
        Ok(Blob { mapped: Mapped::new(file.as_fd())?, file })
    }

    /// One that somebody else made.
    ///
    /// # Errors
    /// Those of [`Mapped::new`], and the file: to close whatever that is may block.
    pub(crate) fn open(file: OwnedFd) -> Result<Blob, (io::Error, OwnedFd)> {
        match Mapped::new(file.as_fd()) {
            Ok(mapped) => Ok(Blob { mapped, file }),
            Err(error) => Err((error, file)),
        }
    }
}

impl AsFd for Blob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.mapped
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn what_was_written_is_read_and_cannot_change() {
        let blob = of(&[b"one", b"", b" two"]).unwrap();
        assert_eq!(&*Mapped::new(blob.as_fd()).unwrap(), b"one two");
        assert!(nix::unistd::write(&blob, b"!").is_err());
        assert_eq!(&*Mapped::new(of(&[]).unwrap().as_fd()).unwrap(), b"");
        let open = super::super::fd::null().unwrap();
        Mapped::new(open).unwrap_err();
    }

    #[test]
    fn what_was_never_written_is_not_read() {
        let with = |length: u64, written: &[u8], seals| {
            let file = File::from(memfd_create("sparse", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
            file.set_len(length).unwrap();
            (&file).write_all(written).unwrap();
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            Mapped::new(file.as_fd()).map(|mapped| mapped.len())
        };
        let all = SealFlag::all();
        assert_eq!(with(10 << 40, b"some", all).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(with(1 << 20, &[1; (1 << 20) - 65_536], all).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(with(1 << 20, &[1; 1 << 20], all).unwrap(), 1 << 20);
        for seal in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_WRITE] {
            assert_eq!(with(0, b"some", all - seal).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn what_is_written_is_read_however_long_it_is() {
        for length in [1, 511, 512, 513, 4095, 4096, 4097, 65_535, 65_537, (1 << 21) - 1, (1 << 21) + 1, 5 << 20] {
            assert_eq!(Mapped::new(of(&[&vec![7; length]]).unwrap().as_fd()).unwrap().len(), length);
        }
    }
}
