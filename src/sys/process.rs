//! Facts about this process, and the few calls that concern a process or a user by number or name.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use super::locked;
use libc::c_int;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{self, Gid, Pid};

/// This process; in a fork, that one.
pub(crate) fn pid() -> u32 {
    super::own_pid::get()
}

/// Tells this process from all of which it is a fork.
pub(crate) fn incarnation() -> u32 {
    super::own_pid::incarnation()
}

/// Whether this process was forked, and has executed no program since. What other threads had locked then may be locked for ever.
pub(crate) fn is_fork() -> bool {
    super::own_pid::is_fork()
}

/// Whether `/proc` numbers processes as we do. Not in a pid namespace without one of its own, as `unshare --pid --fork` makes
/// it: what we would read there is of strangers. A program may mount one later, or lose it: it is asked each time.
///
/// # Errors
/// It cannot be told now, for want of memory.
pub(crate) fn is_proc_ours() -> io::Result<bool> {
    match std::fs::read_link("/proc/self") {
        Ok(number) => Ok(number.as_os_str() == pid().to_string().as_str()),
        // It is not mounted, has no number for us, or is not to be read.
        Err(error) if is_hidden(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a part of `/proc` is not there for us.
pub(crate) fn is_hidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::EPERM))
}

/// The environment, as it is now.
///
/// In a fork the lock that std guards it with may be held for ever by a thread that is not there. That is tried out, and as long as it
/// is so the environment is read without it.
///
/// # Errors
/// It cannot be tried out, for want of a thread.
pub(crate) fn environment() -> io::Result<Vec<(OsString, OsString)>> {
    if !is_fork() || is_environment_free()? {
        return Ok(std::env::vars_os().collect());
    }
    let array = &raw const environ;
    // SAFETY: it is null, or ends in a null, and its entries end in NUL; and nobody can change it by std in this process.
    let entries = unsafe { strings(array) };
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let pair = |entry: &CStr| {
        let entry = entry.to_bytes();
        // As std has it: a variable may begin with an equals sign.
        let equals = entry.iter().skip(1).position(|byte| *byte == b'=')? + 1;
        Some((text(&entry[..equals]), text(&entry[equals + 1..])))
    };
    Ok(entries.into_iter().filter_map(pair).collect())
}

/// Whether std's lock of the environment is to be had in this fork. A thread that finds it is not waits for it for ever.
fn is_environment_free() -> io::Result<bool> {
    /// Leaf lock; held while the first to ask waits for the answer.
    static ANSWER: super::PerProcess<Mutex<Option<Receiver<()>>>> = super::PerProcess::new();
    static FREE: super::PerProcess<AtomicBool> = super::PerProcess::new();
    /// Who holds it in this process copies the environment, or changes it, which takes microseconds.
    const HELD_AT_MOST: Duration = Duration::from_secs(1);
    let free = FREE.get_or_init(AtomicBool::default);
    if free.load(Ordering::Relaxed) {
        return Ok(true);
    }
    let mut answer = locked(ANSWER.get_or_init(Mutex::default));
    let mut limit = Duration::ZERO;
    if answer.is_none() {
        let (read, is_read) = sync_channel(1);
        let reader = move || {
            let _ = std::env::var_os("PKIT");
            let _ = read.send(());
        };
        let _blocked = block_program_signals();
        thread("pkit-environ").spawn(reader)?;
        *answer = Some(is_read);
        limit = HELD_AT_MOST;
    }
    if answer.as_ref().is_some_and(|answer| answer.recv_timeout(limit).is_ok()) {
        free.store(true, Ordering::Relaxed);
    }
    Ok(free.load(Ordering::Relaxed))
}

/// A thread of ours that is to be. A fork that it makes, or a callback that it runs, has its stack: so that is no smaller than the
/// main thread's, within reason.
pub(crate) fn thread(name: &str) -> std::thread::Builder {
    /// Of the program that was forked; 0 if that had made none of our threads.
    static STACK_SIZE: AtomicUsize = AtomicUsize::new(0);
    const DEFAULT: usize = 2 << 20;
    /// "Unlimited" is no size.
    const REASON: u64 = 64 << 20;
    // In a fork std is not to look the size up in the environment, whose lock is as above.
    if !is_fork() {
        let asked = std::env::var("RUST_MIN_STACK").ok().and_then(|size| size.parse().ok());
        STACK_SIZE.store(asked.unwrap_or(DEFAULT), Ordering::Relaxed);
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_STACK).unwrap_or_default();
    let size = DEFAULT.max(limit.min(REASON) as usize).max(STACK_SIZE.load(Ordering::Relaxed));
    std::thread::Builder::new().name(name.into()).stack_size(size)
}

unsafe extern "C" {
    static mut environ: *const *const libc::c_char;
}

/// # Safety
/// What `array` points to is null, or an array of strings that ends in a null pointer, which nobody changes meanwhile.
unsafe fn strings<'a>(array: *const *const *const libc::c_char) -> Vec<&'a CStr> {
    let mut strings = Vec::new();
    // SAFETY: the caller's promise.
    let mut array = unsafe { *array };
    // SAFETY: the caller's promise.
    while let Some(string) = unsafe { array.as_ref() }.filter(|string| !string.is_null()) {
        // SAFETY: the caller's promise.
        strings.push(unsafe { CStr::from_ptr(*string) });
        array = array.wrapping_add(1);
    }
    strings
}

/// Makes `entries` (`NAME=value`) the environment, without the lock that std and libc guard it with: in a forked child
/// that lock may be held by a thread which is not there. The entries live as long as the process.
///
/// # Safety
/// No other thread runs in this process.
pub(crate) unsafe fn replace_environment(entries: &[CString]) {
    let entries: Vec<CString> = entries.to_vec();
    let mut pointers: Vec<*const libc::c_char> = entries.iter().map(|entry| entry.as_ptr()).collect();
    pointers.push(std::ptr::null());
    std::mem::forget(entries);
    let pointers: &'static [*const libc::c_char] = pointers.leak();
    // SAFETY: the caller is the only thread; the array ends in a null pointer and is never freed.
    unsafe { environ = pointers.as_ptr() };
}

/// The same of entries that lie behind one another, each with its NUL.
///
/// # Safety
/// No other thread runs in this process.
#[cfg(feature = "tasks")]
pub(super) unsafe fn set_environment(entries: &'static [u8]) {
    let entries = entries.split_inclusive(|byte| *byte == 0).filter(|entry| entry.ends_with(&[0]));
    let pointers: Vec<*const libc::c_char> =
        entries.map(|entry| entry.as_ptr().cast()).chain([std::ptr::null()]).collect();
    let pointers: &'static [*const libc::c_char] = pointers.leak();
    // SAFETY: the caller is the only thread; the array ends in a null pointer and is never freed.
    unsafe { environ = pointers.as_ptr() };
}

/// This thread, as the kernel numbers it.
pub(crate) fn thread_id() -> u32 {
    unistd::gettid().as_raw() as u32
}

/// Ends this process at once: no handler runs, nothing is flushed.
#[cfg(feature = "tasks")]
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) touches no memory.
    unsafe { libc::_exit(code) }
}

/// Calls this thread as the kernel would if the program had been executed by its own name, and not by `/proc/self/exe`.
#[cfg(feature = "tasks")]
pub(crate) fn take_name_of_executable() {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
    if let Some(name) = name.and_then(|name| CString::new(name).ok()) {
        // It is cut where it is too long.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Whether this is the thread that lives as long as the process. In a forked child it is the one that forked.
pub(crate) fn is_main_thread() -> bool {
    thread_id() == pid()
}

/// Whether a process has executed a program since it was made; `None` where that cannot be told.
pub(super) fn has_executed(pid: u32) -> Option<bool> {
    // PF_FORKNOEXEC (linux/sched.h), of the flags in proc_pid_stat(5): cleared once it has a memory of its own.
    const NOT_YET: u32 = 0x40;
    is_proc_ours().ok().filter(|ours| *ours)?;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let flags: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()?;
    Some(flags & NOT_YET == 0)
}

/// Sends `signal` to a process group, by number. For kernels without a group signal by pidfd, and only while the
/// group's leader is unreaped: until then nobody else can get the number.
///
/// # Errors
/// ESRCH when the group is empty; EINVAL for the groups 0 and 1, which `kill(2)` takes for *my own* and *everybody*.
pub(crate) fn kill_group(pgid: u32, signal: i32) -> io::Result<()> {
    let pgid = i32::try_from(pgid).ok().filter(|&pgid| pgid > 1).ok_or(Errno::EINVAL)?;
    // SAFETY: kill(2) takes numbers only.
    Errno::result(unsafe { libc::kill(-pgid, signal) })?;
    Ok(())
}

/// Whether descendants that lost their parent come to this process.
pub(crate) fn adopts_orphans() -> bool {
    pid() == 1 || nix::sys::prctl::get_child_subreaper() == Ok(true)
}

/// Lets descendants that lost their parent become children of this process instead of `init`'s.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// The group that a process is in.
pub(crate) fn process_group_of(pid: u32) -> io::Result<u32> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    Ok(unistd::getpgid(Some(Pid::from_raw(pid)))?.as_raw() as u32)
}

/// The session that this process is in.
pub(crate) fn session() -> u32 {
    // It cannot fail for oneself.
    unistd::getsid(None).map_or(0, |session| session.as_raw() as u32)
}

/// Takes the exclusive lock of an open directory (or file), without waiting; false when someone else has it. The lock
/// ends with the last copy of the descriptor.
pub(crate) fn lock_directory(directory: BorrowedFd<'_>) -> io::Result<bool> {
    loop {
        // nix's Flock wants to own the descriptor.
        // SAFETY: flock(2) takes numbers only.
        match Errno::result(unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
            Ok(_) => return Ok(true),
            Err(Errno::EWOULDBLOCK) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a process that is to run as a user needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups it is in, `gid` among them.
    pub(crate) groups: Vec<u32>,
}

/// Looks a user up by name; `None` when there is none.
pub(crate) fn user(name: &str) -> io::Result<Option<User>> {
    // nix panics for a NUL in a name.
    let c_name = CString::new(name)?;
    let Some(user) = unistd::User::from_name(name)? else { return Ok(None) };
    let groups = unistd::getgrouplist(&c_name, user.gid)?;
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Some(User { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups }))
}

/// Puts the signal mask back when dropped, on the thread that it belongs to.
#[derive(Debug)]
#[must_use = "dropped at once, it blocks nothing"]
pub(crate) struct SavedMask {
    mask: u64,
    /// A mask is a thread's own, so this must not move to another.
    _thread: PhantomData<*const ()>,
}

/// Blocks every signal on this thread, those that the C library keeps for itself as well: a child started meanwhile runs no
/// handler in our memory.
pub(crate) fn block_all_signals() -> SavedMask {
    SavedMask { mask: set_mask(u64::MAX), _thread: PhantomData }
}

/// Blocks every signal but those of the C library. A thread started meanwhile inherits that, and will never run a handler of
/// the program; but it does take part when the library asks all threads to change their user (`setuid(2)`, nptl(7)), and
/// would else keep whoever asked waiting for ever.
pub(crate) fn block_program_signals() -> SavedMask {
    let of_library = (FIRST_OF_LIBRARY..libc::SIGRTMIN()).fold(0_u64, |mask, signal| mask | 1 << (signal - 1));
    SavedMask { mask: set_mask(!of_library), _thread: PhantomData }
}

/// From here to the first real-time signal that it lets programs use.
pub(super) const FIRST_OF_LIBRARY: i32 = 32;

impl Drop for SavedMask {
    fn drop(&mut self) {
        set_mask(self.mask);
    }
}

/// Sets the mask and returns the one before. The raw call: the library's leaves its own two signals out.
fn set_mask(mask: u64) -> u64 {
    let how: c_int = libc::SIG_SETMASK;
    let mut old = 0_u64;
    // SAFETY: rt_sigprocmask(2) reads and writes as many bytes as it is told, which is the size of both numbers.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const mask, &raw mut old, size_of::<u64>()) };
    debug_assert_eq!(result, 0, "it fails only for wrong pointers and sizes");
    old
}

#[cfg(test)]
mod tests;
