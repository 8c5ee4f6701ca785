//! Reading `/proc`: which processes there are, and who they belong to (`proc_pid_stat(5)`).
//!
//! Only for what no cheaper interface tells. It costs time in proportion to the processes of the
//! machine, so from kernel 6.9 on nothing on the way of an ordinary exit comes here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::callbacks::Callbacks;
use crate::panics::guarded;
use crate::sys;
use crate::sys::locked;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    /// Ended and not reaped. A leader whose main thread has ended while others run is not.
    pub(super) zombie: bool,
    /// Clock ticks since boot; with the pid it names a process for good.
    pub(super) started: u64,
}

/// All processes that can be seen. Some of them are gone when it is made.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) entries: Vec<Entry>,
    /// One with a larger number was begun later.
    pub(super) number: u64,
    /// What was found in the environments of some of them, by pid.
    pub(super) variables: OnceLock<BTreeMap<u32, Vec<u8>>>,
    /// In which cgroup the zombies among them are, by pid; `None`: it could not be read.
    pub(super) cgroups: OnceLock<BTreeMap<u32, Option<String>>>,
    /// What is there later, in place of what is.
    #[cfg(test)]
    pub(super) later: Option<Vec<Entry>>,
}

impl Snapshot {
    /// Made up: nothing changes.
    #[cfg(test)]
    pub(super) fn new(entries: Vec<Entry>, number: u64) -> Snapshot {
        let later = Some(entries.clone());
        Snapshot { entries, number, variables: OnceLock::new(), cgroups: OnceLock::new(), later }
    }

    /// Whether it is now the child of the very process that was seen with its parent's number. They were not read at one
    /// moment: it may be a stranger's child, and the number that of a stranger before or after.
    pub(super) fn is_child_still(&self, child: &Entry) -> io::Result<bool> {
        // In this order: who is there after the child was read was its parent then.
        let is_same = |now: Entry| now.started == child.started && now.parent == child.parent;
        if !self.read_again(child.pid)?.is_some_and(is_same) {
            return Ok(false);
        }
        let parent = self.read_again(child.parent)?;
        let seen = self.entries.iter().find(|entry| entry.pid == child.parent);
        Ok(parent.zip(seen).is_some_and(|(now, seen)| now.started == seen.started))
    }

    fn read_again(&self, pid: u32) -> io::Result<Option<Entry>> {
        #[cfg(test)]
        if let Some(later) = &self.later {
            return Ok(later.iter().find(|entry| entry.pid == pid).copied());
        }
        read(pid)
    }
}

/// # Errors
/// When some cannot be read that are perhaps there, for want of descriptors or memory: they are not to be taken for gone.
pub(super) fn all() -> io::Result<Snapshot> {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let mut entries = Vec::new();
    let directory = match fs::read_dir("/proc") {
        _ if !sys::process::is_proc_ours()? => None,
        Err(error) if sys::process::is_hidden(&error) => None,
        directory => Some(directory?),
    };
    for name in directory.into_iter().flatten() {
        if let Some(pid) = name?.file_name().to_str().and_then(|name| name.parse().ok()) {
            entries.extend(look_at(pid)?);
        }
    }
    Ok(Snapshot {
        entries,
        number,
        variables: OnceLock::new(),
        cgroups: OnceLock::new(),
        #[cfg(test)]
        later: None,
    })
}

/// Someone who wants to see all processes.
type Ask = Box<dyn FnOnce(&io::Result<Snapshot>) + Send>;

/// Shows all processes, as they are after this call, to `ask`, on a callback thread.
///
/// Those who ask side by side share one reading and one thread: a thousand children that end at once would else read as
/// many processes a thousand times.
pub(super) fn survey(ask: Ask) {
    let mut waiting = waiting();
    waiting.asks.push(ask);
    if !waiting.busy {
        waiting.busy = true;
        Callbacks::get().run_own(|| while answer_all() {});
    }
}

#[derive(Default)]
struct Waiting {
    asks: Vec<Ask>,
    /// A callback thread is reading, or on its way.
    busy: bool,
}

fn waiting() -> MutexGuard<'static, Waiting> {
    /// Leaf lock: nothing else but the callback queue is taken while it is held.
    static WAITING: sys::PerProcess<Mutex<Waiting>> = sys::PerProcess::new();
    locked(WAITING.get_or_init(Mutex::default))
}

/// False: nobody was waiting any more.
fn answer_all() -> bool {
    let asks = {
        let mut waiting = waiting();
        waiting.busy = !waiting.asks.is_empty();
        std::mem::take(&mut waiting.asks)
    };
    if asks.is_empty() {
        return false;
    }
    let found = all();
    for ask in asks {
        // A panic in one: the others are answered all the same.
        guarded(|| ask(&found), || log::error!("pkit: a panic while looking for what a run left"));
    }
    true
}

pub(super) fn entry(pid: u32) -> Option<Entry> {
    read(pid).ok().flatten()
}

/// `None`: it is gone, or not shown to us.
pub(super) fn read(pid: u32) -> io::Result<Option<Entry>> {
    if sys::process::is_proc_ours()? { look_at(pid) } else { Ok(None) }
}

fn look_at(pid: u32) -> io::Result<Option<Entry>> {
    // A name is bytes of the process's own choice, or a file name that was cut at 15 bytes: not always UTF-8.
    Ok(file_of(pid, "stat")?.and_then(|stat| parse(pid, &String::from_utf8_lossy(&stat))))
}

/// A file of a process, as [`read`].
pub(super) fn read_of(pid: u32, file: &str) -> io::Result<Option<Vec<u8>>> {
    if sys::process::is_proc_ours()? { file_of(pid, file) } else { Ok(None) }
}

fn file_of(pid: u32, file: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(format!("/proc/{pid}/{file}")) {
        Ok(bytes) => Ok(Some(bytes)),
        // Gone, or hidden (hidepid=1): who is not shown is nobody, as with a /proc that leaves them out.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EPERM | libc::EACCES)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The value of a variable in the environment with which the process was executed. It waits while that process changes its
/// memory, for ever if a dead file system holds that up: never to be read under a lock.
pub(super) fn variable(pid: u32, name: &str) -> io::Result<Option<Vec<u8>>> {
    let environment = read_of(pid, "environ")?.unwrap_or_default();
    let mut entries = environment.split(|byte| *byte == 0);
    Ok(entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).map(<[u8]>::to_vec))
}

/// Opens a pidfd of exactly this process, not of one that has its pid by now.
///
/// # Errors
/// ESRCH: it is gone.
pub(super) fn open(wanted: &Entry) -> io::Result<sys::pidfd::Pidfd> {
    let pidfd = sys::pidfd::Pidfd::open(wanted.pid)?;
    match read(wanted.pid)? {
        Some(entry) if entry.started == wanted.started => Ok(pidfd),
        Some(_) | None => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

fn parse(pid: u32, stat: &str) -> Option<Entry> {
    // The name is in parentheses and may itself contain any of them.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // Fields are counted from 1 in the manual; the first of `fields` is number 3.
    let field = |number: usize| fields.get(number - 3);
    let threads: u32 = field(20)?.parse().ok()?;
    Some(Entry {
        pid,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        zombie: matches!(*field(3)?, "Z" | "X") && threads <= 1,
        started: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself() {
        let own = entry(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(!own.zombie);
        assert!(all().unwrap().entries.contains(&own));
        assert!(open(&own).is_ok());
        let later = open(&Entry { started: own.started + 1, ..own }).unwrap_err();
        assert_eq!(later.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn without_proc_nobody_is_seen() {
        let empty = tempfile::tempdir().unwrap();
        sys::fork::tests::in_fork(|| {
            assert!(entry(sys::process::pid()).is_some());
            if nix::unistd::chroot(empty.path()).is_err() {
                return; // Without the right to.
            }
            assert_eq!(all().unwrap().entries, []);
            assert_eq!(entry(sys::process::pid()), None);
        });
    }

    #[test]
    fn a_name_full_of_parentheses() {
        let stat = "7 (a) b) (c) Z 1 2 3 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 99 0 0";
        let entry = parse(7, stat).unwrap();
        assert_eq!(entry, Entry { pid: 7, parent: 1, group: 2, session: 3, zombie: true, started: 99 });
        assert_eq!(parse(7, "garbage"), None);
    }
}
