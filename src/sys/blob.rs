//! Bytes that another process gets without their going through a socket: a file in memory (`memfd_create(2)`).

use std::collections::HashMap;
use std::ffi::c_void;
use std::fs::File;
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use super::{PerProcess, locked, process};

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

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
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

/// # Errors
/// EINVAL: it can change, grow or shrink. (No hole can be made where nobody may write.)
fn check_seals(fd: BorrowedFd<'_>) -> io::Result<()> {
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    if seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE) {
        return Ok(());
    }
    Err(Errno::EINVAL.into())
}

impl Mapped {
    /// # Errors
    /// EINVAL: it lacks a seal, and could change while it is read, or shrink (SIGBUS). `InvalidData`: it has holes, so that to copy it takes memory
    /// here that nobody spent there.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Mapped> {
        Mapped::with(fd, libc::PROT_READ)
    }

    /// The same, for what C code may write to: strings of the environment.
    pub(crate) fn writable(fd: BorrowedFd<'_>) -> io::Result<Mapped> {
        Mapped::with(fd, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn with(fd: BorrowedFd<'_>, protection: i32) -> io::Result<Mapped> {
        check_seals(fd)?;
        /// The unit of `st_blocks` (stat(3type)), whatever the size of a page is.
        const BLOCK: i64 = 512;
        let status = nix::sys::stat::fstat(fd)?;
        let size = status.st_size;
        let length = usize::try_from(size).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(Mapped { start: ptr::null_mut(), length });
        }
        // Both are asked: blocks count what is swapped out, but also room behind the end (`FALLOC_FL_KEEP_SIZE`); and of huge pages no hole is told.
        if status.st_blocks.saturating_mul(BLOCK) < size || lseek(fd, 0, Whence::SeekHole)? != size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a file that is larger than what was written to it",
            ));
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

/// A file in memory that nobody changes any more, and what it holds. A process has it once.
#[derive(Debug)]
pub(crate) struct Blob {
    mapped: Mapped,
    /// Of the process that opened it: a copy of that has the mapping; what has the number there is another matter.
    file: ManuallyDrop<OwnedFd>,
    identity: Identity,
    incarnation: u32,
}

/// Device and inode.
type Identity = (u64, u64);

/// Those that this process has. Leaf lock.
static KNOWN: PerProcess<Mutex<HashMap<Identity, Weak<Blob>>>> = PerProcess::new();

fn known() -> MutexGuard<'static, HashMap<Identity, Weak<Blob>>> {
    locked(KNOWN.get_or_init(Mutex::default))
}

impl Blob {
    /// A new one with those bytes.
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Arc<Blob>> {
        Blob::open(of(&[bytes])?).map_err(|(error, _)| error)
    }

    /// One that somebody else made, perhaps one that is here already.
    ///
    /// # Errors
    /// Those of [`Mapped::new`], and the file: to close whatever that is may block.
    pub(crate) fn open(file: OwnedFd) -> Result<Arc<Blob>, (io::Error, OwnedFd)> {
        // (To ask anything else of a file of somebody else's may block: its file system may be his.)
        let identified = check_seals(file.as_fd()).and_then(|()| Ok(nix::sys::stat::fstat(&file)?));
        let identity = match identified {
            Ok(status) => (status.st_dev, status.st_ino),
            Err(error) => return Err((error, file)),
        };
        let mut known = known();
        // (While one of both has it open, no other file gets its number.)
        if let Some(blob) = known.get(&identity).and_then(Weak::upgrade) {
            return Ok(blob);
        }
        let mapped = match Mapped::new(file.as_fd()) {
            Ok(mapped) => mapped,
            Err(error) => return Err((error, file)),
        };
        let (file, incarnation) = (ManuallyDrop::new(file), process::incarnation());
        let blob = Arc::new(Blob { mapped, file, identity, incarnation });
        known.insert(identity, Arc::downgrade(&blob));
        Ok(blob)
    }

    /// What its descriptor is: `None` in a copy of the process that opened it, or where somebody has closed it and perhaps opened something else.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        let is_ours = self.incarnation == process::incarnation();
        let file = self.file.as_fd();
        let is_it = || nix::sys::stat::fstat(file).is_ok_and(|status| (status.st_dev, status.st_ino) == self.identity);
        (is_ours && is_it()).then_some(file)
    }

    /// The same, or that of a new file with these bytes.
    pub(crate) fn file_or_copy(&self) -> io::Result<FileOrCopy<'_>> {
        match self.file() {
            Some(file) => Ok(FileOrCopy::File(file)),
            None => Ok(FileOrCopy::Copy(of(&[self])?)),
        }
    }
}

/// Where the bytes of a [`Blob`] are.
pub(crate) enum FileOrCopy<'a> {
    File(BorrowedFd<'a>),
    Copy(OwnedFd),
}

impl AsFd for FileOrCopy<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            FileOrCopy::File(file) => file.as_fd(),
            FileOrCopy::Copy(file) => file.as_fd(),
        }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if self.incarnation != process::incarnation() {
            return;
        }
        let mut known = known();
        // Somebody may have opened it again meanwhile.
        if known.get(&self.identity).is_some_and(|blob| blob.strong_count() == 0) {
            known.remove(&self.identity);
        }
        drop(known);
        if self.file().is_some() {
            // SAFETY: it is open, and nobody uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.file) };
        }
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
    use nix::fcntl::{FallocateFlags, fallocate};

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
        let file = File::from(memfd_create("behind", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.set_len(1 << 20).unwrap();
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(all)).unwrap();
        assert_eq!(
            Mapped::new(file.as_fd()).unwrap_err().kind(),
            io::ErrorKind::InvalidData,
            "all of it is behind the end"
        );
        for seal in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_WRITE] {
            assert_eq!(with(0, b"some", all - seal).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn a_process_has_it_once() {
        let blob = Blob::new(&[3; 10]).unwrap();
        let copy = || blob.file().unwrap().try_clone_to_owned().unwrap();
        assert!(Arc::ptr_eq(&blob, &Blob::open(copy()).unwrap()));
        let (identity, file) = (blob.identity, copy());
        drop(blob);
        assert!(!known().contains_key(&identity));
        assert_eq!(**Blob::open(file).unwrap(), [3; 10], "it is opened again");
        Blob::open(super::super::fd::null().unwrap().try_clone_to_owned().unwrap()).unwrap_err();
    }

    #[test]
    fn a_copy_of_the_process_has_the_bytes_and_not_the_descriptor() {
        let mut blob = Some(Blob::new(&[4; 10]).unwrap());
        super::super::fork::tests::in_fork(move || {
            let blob = blob.take().unwrap();
            assert_eq!((&**blob, blob.file().is_none()), (&[4; 10][..], true));
            let number = blob.file.as_raw_fd();
            drop(blob);
            // SAFETY: fcntl(2) with F_GETFD takes a number and touches no memory.
            let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
            assert!(flags >= 0, "it is somebody else's by now, for all we know");
        });
    }

    #[test]
    fn what_is_written_is_read_however_long_it_is() {
        for length in [1, 511, 512, 513, 4095, 4096, 4097, 65_535, 65_537, (1 << 21) - 1, (1 << 21) + 1, 5 << 20] {
            assert_eq!(Mapped::new(of(&[&vec![7; length]]).unwrap().as_fd()).unwrap().len(), length);
        }
    }
}
