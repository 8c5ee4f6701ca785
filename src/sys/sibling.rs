//! A copy of this process that is not our child but our parent's (`CLONE_PARENT`, clone(2)).
//!
//! The C library has no call for that, and does not know of what the kernel makes. What it keeps of the thread that lives on in the
//! copy is put right here: the thread's id, which it writes down once and looks up when a thread is made, bound, timed or
//! aborted; and the list of robust mutexes, which the kernel forgets.

use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;

use super::directory;
use super::image;
use super::process::{set_environment, thread_id};
use super::setup::{Halt, Handlers, Prepared, Setup, Step};
use super::spawn::Failure;
use super::standing;

/// A process with one thread, and what has to be known of the C library before the first copy is made.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Where it keeps the id of this thread; null if that was not found.
    thread_id: *mut c_int,
    robust: *mut c_void,
    robust_size: usize,
    parent: u32,
    /// What nearly every process writes to.
    data: Vec<Range<usize>>,
}

/// Which of the two this is.
#[derive(Debug)]
pub(crate) enum Side {
    Original { pid: u32, pidfd: OwnedFd },
    Copy(Copied),
}

/// That this is a copy, which nobody has done anything with yet.
#[derive(Debug)]
pub(crate) struct Copied {
    parent: u32,
    _one_thread: PhantomData<*const ()>,
}

/// What a copy is to be.
#[derive(Debug)]
pub(crate) struct Settling<'a> {
    pub(crate) setup: &'a Setup,
    /// Entries that each end in NUL, which it uses from now on.
    pub(crate) environment: &'static [u8],
    /// Where it begins, if that matters: a relative directory of the setup is seen from there.
    pub(crate) directory: Option<OwnedFd>,
    /// Bit n-1: signal n is ignored; before and now.
    pub(crate) ignored: (u64, u64),
    /// Something of the program may have set some.
    pub(crate) has_handlers: bool,
    /// Descriptors of its own, which `setup` gives to nothing.
    pub(crate) keep: &'a [RawFd],
}

impl Copied {
    /// Makes it that: its environment, its signals, and all that the setup says. All signals are blocked before.
    pub(crate) fn settle(self, settling: Settling<'_>) -> Result<(), Failure> {
        // What was sent to it while it waited was for nobody: it was nothing yet.
        drop_pending_signals();
        if let Some(directory) = settling.directory {
            directory::enter(directory.as_fd()).map_err(|error| Halt { step: Step::Directory, errno: error as i32 })?;
        }
        // SAFETY: this is the only thread.
        unsafe { set_environment(settling.environment) };
        standing::ignore(settling.ignored.0, settling.ignored.1);
        if settling.setup.parent_death.is_none() {
            // It fails for what is no signal.
            let _ = set_pdeathsig(None);
        }
        let mut prepared = Prepared::new(settling.setup, settling.keep, self.parent)?;
        let handlers = if settling.has_handlers { Handlers::OfProgram } else { Handlers::None };
        // SAFETY: this is the copy, which is there to change; all signals are blocked.
        Ok(unsafe { prepared.apply(handlers) }?)
    }
}

impl Origin {
    /// Of the calling thread, if it is the only one.
    ///
    /// # Errors
    /// It is not, or that cannot be told.
    pub(crate) fn new() -> io::Result<Origin> {
        if std::fs::read_dir("/proc/self/task")?.count() != 1 {
            return Err(io::Error::other("there are other threads"));
        }
        let (mut robust, mut robust_size) = (ptr::null_mut::<c_void>(), 0_usize);
        // SAFETY: get_robust_list(2) writes a pointer and a size; 0 is the calling thread.
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut robust, &raw mut robust_size) };
        let parent = getppid().as_raw() as u32;
        Ok(Origin {
            thread_id: place_of_thread_id(),
            robust,
            robust_size,
            parent,
            data: whole_pages(image::small_data()),
        })
    }

    /// For a copy that will wait: makes the pages that it will write to its own, at once, and not one by one when somebody waits for it. Where the
    /// kernel does not know how (before 5.14), they are.
    pub(crate) fn warm_up(&self) {
        for pages in &self.data {
            let start = ptr::with_exposed_provenance_mut::<c_void>(pages.start);
            // SAFETY: it makes the pages of a copy-on-write mapping this process's own, and changes nothing in them.
            unsafe { libc::madvise(start, pages.len(), libc::MADV_POPULATE_WRITE) };
        }
    }

    /// Makes the copy, a child of whoever was our parent when this was made. Until it is settled it ends with that one.
    ///
    /// It is of the same thread (this cannot be sent to another), and of the only one: what makes threads has to make this anew.
    pub(crate) fn copy(&self) -> io::Result<Side> {
        let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD;
        let cleared = if self.thread_id.is_null() { 0 } else { libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID };
        let flags = c_long::from(flags | cleared);
        let mut pidfd: c_int = -1;
        let (stack, pidfd_at, id_at) = (0_usize, &raw mut pidfd, self.thread_id);
        // Whether the place of the id or that of the thread-local storage, which is not used, comes first differs: x86-64 and aarch64.
        // SAFETY: clone(2) with a copy of the memory and the same stack is a fork; it writes a number to each of both places.
        let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, stack, pidfd_at, id_at, id_at) })?;
        if pid == 0 {
            if !self.robust.is_null() {
                // SAFETY: it was this thread's list in the original, of which this is a copy at the same place.
                unsafe { libc::syscall(libc::SYS_set_robust_list, self.robust, self.robust_size) };
            }
            // It fails for what is no signal.
            let _ = set_pdeathsig(Signal::SIGKILL);
            return Ok(Side::Copy(Copied { parent: self.parent, _one_thread: PhantomData }));
        }
        // SAFETY: the kernel made the descriptor just now, for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Side::Original { pid: pid as u32, pidfd })
    }
}

/// Those that are blocked: all.
fn drop_pending_signals() {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let nobody: *mut libc::siginfo_t = ptr::null_mut();
    // SAFETY: sigtimedwait(2) reads a set and a time, and tells nothing of a signal where there is no place for it.
    while unsafe { libc::sigtimedwait(SigSet::all().as_ref(), nobody, &raw const now) } > 0 {}
}

fn whole_pages(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    // SAFETY: sysconf(3) takes a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    ranges.iter_mut().for_each(|range| range.start -= range.start % page);
    ranges
}

/// The kernel knows the place, as the one that it clears at the thread's end (glibc). Else it is looked for in the
/// library's own notes of the thread.
fn place_of_thread_id() -> *mut c_int {
    let own = thread_id() as c_int;
    let mut place: *mut c_int = ptr::null_mut();
    // SAFETY: PR_GET_TID_ADDRESS writes one pointer.
    let known = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut place) } == 0 && !place.is_null();
    // SAFETY: the kernel will write to it at the end of the thread, so it is memory of ours; glibc keeps the id there.
    if known && own == unsafe { place.read_volatile() } {
        return place;
    }
    /// `struct pthread` is larger than that in both libraries, and the id within.
    const NOTES: usize = 1024 / size_of::<c_int>();
    // SAFETY: pthread_self(3) only tells.
    let notes: *mut c_int = ptr::with_exposed_provenance_mut(unsafe { libc::pthread_self() } as usize);
    // SAFETY: the notes are as large as that.
    let mut places = (0..NOTES).map(|index| unsafe { notes.add(index) });
    // SAFETY: as above.
    let found = places.find(|place| own == unsafe { place.read_volatile() });
    found.unwrap_or(ptr::null_mut())
}
