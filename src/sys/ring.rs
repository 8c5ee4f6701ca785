//! Messages between two processes through memory that both have: rings of bytes, each with one end that writes and one that reads.
//!
//! A message costs no system call as long as who reads is awake. Who finds nothing says in the ring how it is to be woken, looks once more, and sleeps; who
//! writes does so, and then looks whether somebody is to be woken. Both are sequentially consistent: one of the two sees the other.
//!
//! Nothing is believed that the other process wrote: each end keeps its own position, a length that cannot be is an error, and a message is
//! copied before it is looked at. What a process can do to one that reads from it, is to keep it waiting.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// So many rings are in one piece of memory.
const RINGS: usize = 3;
/// Bytes in a ring; a power of two.
pub(crate) const CAPACITY: usize = 256 * 1024;
const HEADER: usize = 4096;
const LENGTH: usize = RINGS * (HEADER + CAPACITY);
/// Before each message is its length.
const PREFIX: usize = size_of::<u32>();
/// The longest message.
pub(crate) const MOST_BYTES: usize = CAPACITY / 2;

/// What is at the beginning of a ring. Far enough apart that the two do not slow each other down.
#[repr(C)]
struct Header {
    /// How many bytes were ever written.
    written: AtomicU64,
    /// How who reads is to be woken.
    reader: AtomicU32,
    _apart: [u64; 15],
    /// How many bytes were ever read.
    read: AtomicU64,
    /// How who writes is to be woken, once there is room.
    writer: AtomicU32,
}

/// Does not sleep.
const AWAKE: u32 = 0;
/// Sleeps in the kernel, at this word.
const ASLEEP: u32 = 1;
/// Is elsewhere, and told by whoever has the other end.
const AWAY: u32 = 2;

/// So long sleeps at most who must not depend on the other process: it can say that he sleeps when he was nudged.
const LONGEST: Duration = Duration::from_millis(100);

/// Memory that two processes share.
#[derive(Debug)]
pub(crate) struct Shared {
    start: *mut u8,
}

// SAFETY: what is there is atomic, or belongs to one `Writer` and one `Reader`, as they agree by the atomic part.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The other process wrote what cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Garbage;

/// Whether somebody has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Wake {
    No,
    /// The other process, in another way than by the ring.
    Tell,
}

impl Shared {
    /// New memory, with empty rings, and the descriptor by which another process [opens](Shared::open) it.
    pub(crate) fn new() -> io::Result<(Shared, OwnedFd)> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: memfd_create(2) reads a string that ends in NUL.
        let fd = Errno::result(unsafe { libc::memfd_create(c"pkit-ring".as_ptr(), flags) })?;
        // SAFETY: it was made just now, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        nix::unistd::ftruncate(&fd, LENGTH as i64)?;
        // Else the other one could take it away under our feet (SIGBUS).
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: F_ADD_SEALS takes numbers only.
        Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        Ok((Shared::open(fd.as_fd())?, fd))
    }

    /// That of another process.
    pub(crate) fn open(fd: BorrowedFd<'_>) -> io::Result<Shared> {
        if nix::sys::stat::fstat(fd)?.st_size != LENGTH as i64 {
            return Err(Errno::EINVAL.into());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
        let start = unsafe { libc::mmap(ptr::null_mut(), LENGTH, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Shared { start: start.cast() })
    }

    fn header(&self, ring: usize) -> &Header {
        assert!(ring < RINGS);
        let place = self.start.wrapping_add(ring * (HEADER + CAPACITY)).cast::<Header>();
        // SAFETY: it is within the mapping, which begins with a page and lives as long as this; all of it is atomic, and any
        // bytes are good for it.
        unsafe { &*place }
    }

    /// The places of `length` bytes from `position` on: at the end of a ring it goes on at its beginning.
    fn places(&self, ring: usize, position: u64, length: usize) -> [(*mut u8, usize); 2] {
        assert!(ring < RINGS && length <= CAPACITY);
        let data = self.start.wrapping_add(ring * (HEADER + CAPACITY) + HEADER);
        let from = position as usize % CAPACITY;
        let first = length.min(CAPACITY - from);
        [(data.wrapping_add(from), first), (data, length - first)]
    }

    fn copy_in(&self, ring: usize, position: u64, mut bytes: &[u8]) {
        for (place, length) in self.places(ring, position, bytes.len()) {
            let (now, rest) = bytes.split_at(length);
            // SAFETY: so much of the mapping is there, and this end's to write: the other one reads only what is told to be written.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), place, length) };
            bytes = rest;
        }
    }

    fn copy_out(&self, ring: usize, position: u64, mut bytes: &mut [u8]) {
        for (place, length) in self.places(ring, position, bytes.len()) {
            let (now, rest) = bytes.split_at_mut(length);
            // SAFETY: so much of the mapping is there. A process that writes to it nevertheless gets us wrong bytes, of which any are good.
            unsafe { ptr::copy_nonoverlapping(place, now.as_mut_ptr(), length) };
            bytes = rest;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: nobody else knows this mapping, and no ring of it is in use.
        unsafe { libc::munmap(self.start.cast(), LENGTH) };
    }
}

/// The end that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    ring: usize,
    /// Our own, whatever the memory says.
    written: u64,
}

/// The end that reads.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    ring: usize,
    read: u64,
}

/// Wakes who reads, from any thread of its own process.
#[derive(Debug)]
pub(crate) struct Nudge {
    shared: Arc<Shared>,
    ring: usize,
}

impl Writer {
    /// There is to be one for each ring.
    pub(crate) fn new(shared: &Arc<Shared>, ring: usize) -> Writer {
        Writer { shared: Arc::clone(shared), ring, written: 0 }
    }

    fn header(&self) -> &Header {
        self.shared.header(self.ring)
    }

    fn has_room(&self, length: usize) -> Result<bool, Garbage> {
        let used = self.written.wrapping_sub(self.header().read.load(Ordering::SeqCst));
        if used > CAPACITY as u64 { Err(Garbage) } else { Ok(CAPACITY - used as usize >= length) }
    }

    /// Whether a message of that length can be written.
    pub(crate) fn has_room_for(&self, length: usize) -> Result<bool, Garbage> {
        self.has_room(PREFIX + length)
    }

    /// Writes a message; `None`: there is no room for it.
    pub(crate) fn write(&mut self, parts: &[&[u8]]) -> Result<Option<Wake>, Garbage> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        assert!(length <= MOST_BYTES, "a message of {length} bytes");
        if !self.has_room(PREFIX + length)? {
            return Ok(None);
        }
        let mut position = self.written;
        for part in [&(length as u32).to_ne_bytes()[..]].iter().chain(parts) {
            self.shared.copy_in(self.ring, position, part);
            position += part.len() as u64;
        }
        self.written = position;
        self.header().written.store(position, Ordering::SeqCst);
        Ok(Some(wake(&self.header().reader)))
    }

    /// From now on who reads tells us when there is room, unless there is by now: false.
    pub(crate) fn go_away(&self, length: usize) -> Result<bool, Garbage> {
        self.header().writer.store(AWAY, Ordering::SeqCst);
        Ok(!self.has_room(PREFIX + length)?)
    }

    /// Sleeps until there may be room.
    pub(crate) fn wait_for_room(&self, length: usize) -> Result<(), Garbage> {
        let word = &self.header().writer;
        word.store(ASLEEP, Ordering::SeqCst);
        if !self.has_room(PREFIX + length)? {
            futex_wait(word, None);
        }
        word.store(AWAKE, Ordering::SeqCst);
        Ok(())
    }
}

impl Reader {
    /// There is to be one for each ring.
    pub(crate) fn new(shared: &Arc<Shared>, ring: usize) -> Reader {
        Reader { shared: Arc::clone(shared), ring, read: 0 }
    }

    pub(crate) fn nudge(&self) -> Nudge {
        Nudge { shared: Arc::clone(&self.shared), ring: self.ring }
    }

    fn header(&self) -> &Header {
        self.shared.header(self.ring)
    }

    pub(crate) fn is_any(&self) -> bool {
        self.header().written.load(Ordering::SeqCst) != self.read
    }

    /// How far it is written by now. (No further than there is room, whatever the other process says.)
    pub(crate) fn written(&self) -> u64 {
        let available = self.header().written.load(Ordering::SeqCst).wrapping_sub(self.read);
        self.read + available.min(CAPACITY as u64)
    }

    /// Whether it is read up to there.
    pub(crate) fn has_read(&self, position: u64) -> bool {
        self.read >= position
    }

    /// The next message, if there is one.
    pub(crate) fn read(&mut self) -> Result<Option<(Vec<u8>, Wake)>, Garbage> {
        let available = self.header().written.load(Ordering::SeqCst).wrapping_sub(self.read);
        if available == 0 {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX];
        self.shared.copy_out(self.ring, self.read, &mut prefix);
        let length = u32::from_ne_bytes(prefix) as usize;
        if length > MOST_BYTES || available > CAPACITY as u64 || (PREFIX + length) as u64 > available {
            return Err(Garbage);
        }
        let mut message = vec![0; length];
        self.shared.copy_out(self.ring, self.read + PREFIX as u64, &mut message);
        self.read += (PREFIX + length) as u64;
        let header = self.header();
        header.read.store(self.read, Ordering::SeqCst);
        // Not for each little message: half of it should be free.
        let is_roomy = available <= (CAPACITY / 2) as u64;
        Ok(Some((message, if is_roomy { wake(&header.writer) } else { Wake::No })))
    }

    /// It is looked for messages by whoever wants to be told of none.
    pub(crate) fn come_back(&self) {
        self.header().reader.store(AWAKE, Ordering::SeqCst);
    }

    /// From now on who writes tells us of a message, unless there is one by now: false.
    pub(crate) fn go_away(&self) -> bool {
        self.header().reader.store(AWAY, Ordering::SeqCst);
        !self.is_any()
    }

    /// Sleeps until there may be a message.
    pub(crate) fn wait_for_message(&self) {
        self.sleep(None, || false);
    }

    /// The same, and at most `until` that moment, or until it is nudged; not at all if something else `is_due`. It may return before: it
    /// is to be asked again, whatever the other process writes.
    pub(crate) fn wait_for_message_or(&self, until: Option<Instant>, is_due: impl Fn() -> bool) {
        let longest = Instant::now() + LONGEST;
        self.sleep(Some(until.map_or(longest, |until| until.min(longest))), is_due);
    }

    fn sleep(&self, until: Option<Instant>, is_due: impl Fn() -> bool) {
        let word = &self.header().reader;
        word.store(ASLEEP, Ordering::SeqCst);
        if !self.is_any() && !is_due() {
            futex_wait(word, until);
        }
        word.store(AWAKE, Ordering::SeqCst);
    }
}

impl Nudge {
    /// Wakes who sleeps. Also where the word says that somebody has done so: he may have died before he did.
    pub(crate) fn nudge(&self) {
        let word = &self.shared.header(self.ring).reader;
        let _ = word.compare_exchange(ASLEEP, AWAKE, Ordering::SeqCst, Ordering::SeqCst);
        futex_wake(word);
    }
}

/// Wakes who sleeps, or says that it is to be told.
fn wake(word: &AtomicU32) -> Wake {
    if word.load(Ordering::SeqCst) == AWAKE {
        return Wake::No;
    }
    match word.swap(AWAKE, Ordering::SeqCst) {
        AWAY => Wake::Tell,
        ASLEEP => {
            futex_wake(word);
            Wake::No
        }
        _ => Wake::No,
    }
}

/// Returns also when nothing happened (futex(2)).
fn futex_wait(word: &AtomicU32, until: Option<Instant>) {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.map(|left| libc::timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    let left: *const libc::timespec = left.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: FUTEX_WAIT reads the word and the time. Not a private one: the memory is shared.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, ASLEEP, left) };
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE does not read the word.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Writer, Reader) {
        let (shared, fd) = Shared::new().unwrap();
        let other = Shared::open(fd.as_fd()).unwrap();
        (Writer::new(&Arc::new(shared), 1), Reader::new(&Arc::new(other), 1))
    }

    #[test]
    fn messages_come_as_they_were_sent_also_around_the_end() {
        let (mut writer, mut reader) = ends();
        for round in 0..2_000_usize {
            let long = vec![round as u8; round * 37 % 1000];
            let sent = [&round.to_ne_bytes()[..], &long].concat();
            let _ = writer.write(&[&round.to_ne_bytes(), &long]).unwrap().unwrap();
            assert_eq!(reader.read().unwrap().unwrap().0, sent);
            assert!(reader.read().unwrap().is_none());
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_until_it_was_read() {
        let (mut writer, mut reader) = ends();
        let message = vec![7; MOST_BYTES];
        assert_eq!(writer.write(&[&message]).unwrap(), Some(Wake::No));
        assert_eq!(writer.write(&[&message]).unwrap(), None);
        assert!(writer.go_away(MOST_BYTES).unwrap());
        assert_eq!(reader.read().unwrap().unwrap(), (message.clone(), Wake::No));
        assert!(!writer.go_away(MOST_BYTES).unwrap(), "there is room by now");
        assert_eq!(writer.write(&[b"x"]).unwrap(), Some(Wake::No));
        assert_eq!(reader.read().unwrap().unwrap(), (b"x".to_vec(), Wake::Tell));
    }

    #[test]
    fn who_is_away_is_told_once_and_who_sleeps_is_woken() {
        let (mut writer, mut reader) = ends();
        assert!(reader.go_away());
        assert_eq!(writer.write(&[b"1"]).unwrap(), Some(Wake::Tell));
        assert_eq!(writer.write(&[b"2"]).unwrap(), Some(Wake::No));
        assert!(!reader.go_away());
        reader.come_back();
        while reader.read().unwrap().is_some() {}
        let nudge = reader.nudge();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while reader.read().unwrap().is_none() {
                    reader.wait_for_message();
                }
            });
            nudge.nudge();
            assert_eq!(writer.write(&[b"3"]).unwrap(), Some(Wake::No));
        });
        // As when the writer dies between its two steps.
        std::thread::scope(|scope| {
            let (nudge, word) = (reader.nudge(), ptr::from_ref(&writer.header().reader).expose_provenance());
            let sleeper = scope.spawn(|| reader.wait_for_message());
            // SAFETY: the mapping is there.
            let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU32>(word) };
            while word.compare_exchange(ASLEEP, AWAKE, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                std::thread::yield_now();
            }
            while !sleeper.is_finished() {
                nudge.nudge();
            }
        });
        let began = Instant::now();
        reader.wait_for_message_or(Some(began + Duration::from_millis(5)), || false);
        reader.wait_for_message_or(None, || true);
    }

    #[test]
    fn a_nudge_that_is_undone_delays_who_sleeps_and_no_more() {
        let (_writer, reader) = ends();
        let nudge = reader.nudge();
        // As the other process can, between the look and the sleep.
        reader.wait_for_message_or(None, || {
            nudge.nudge();
            reader.header().reader.store(ASLEEP, Ordering::SeqCst);
            false
        });
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(500))]

        /// Whatever the other process writes there: it ends, in messages that can be, or in an error.
        #[test]
        fn any_memory_is_read_or_refused(positions: [u64; 2], bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..CAPACITY / 8)) {
            for written in [positions[0], positions[0] % (2 * CAPACITY as u64), bytes.len() as u64] {
                let (mut writer, mut reader) = ends();
                writer.shared.copy_in(1, 0, &bytes);
                writer.header().written.store(written, Ordering::SeqCst);
                writer.header().read.store(positions[1], Ordering::SeqCst);
                while let Ok(Some((message, _))) = reader.read() {
                    assert!(message.len() <= MOST_BYTES);
                }
                let _ = writer.write(&[&bytes]);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let (mut writer, mut reader) = ends();
        let header = |writer: &Writer| ptr::from_ref(writer.header());
        let _ = writer.write(&[b"good"]).unwrap();
        // SAFETY: the mapping is there.
        let shared = unsafe { &*header(&writer) };
        shared.written.store(3, Ordering::SeqCst);
        assert_eq!(reader.read(), Err(Garbage), "shorter than what it begins with");
        shared.written.store(u64::MAX / 2, Ordering::SeqCst);
        assert_eq!(reader.read(), Err(Garbage), "more than there is room for");
        writer.shared.copy_in(1, 0, &u32::MAX.to_ne_bytes());
        shared.written.store(100, Ordering::SeqCst);
        assert_eq!(reader.read(), Err(Garbage), "longer than any message");
        shared.read.store(1_000, Ordering::SeqCst);
        assert_eq!(writer.write(&[b"x"]), Err(Garbage), "more read than written");
        let short = super::super::fd::null().unwrap();
        Shared::open(short).unwrap_err();
    }
}
