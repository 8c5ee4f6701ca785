//! A cgroup v2 of a run's own (`cgroups(7)`).
//!
//! It is a directory `pkit-<pid>-<image>-<number>`, below the cgroup that this program is in; the image is a number that each
//! program draws, also one that another executed in its place. The directory is locked with `flock` as long as we live. Whoever
//! finds one that is not locked has found what a program left that was killed: it is emptied and removed, at the first use of a
//! cgroup in a program. A lock tells that truth across pid namespaces, where a pid would not. What is meant to outlive its
//! program or its run has `-kept` behind its name, and is removed by whoever makes the next cgroup beside it once it is empty,
//! and never emptied.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Leader, group, marks};
use crate::callbacks::{Callbacks, InOrder};
use crate::process::procfs::{self, Snapshot};
use crate::signal::Signal;
use crate::sys;

const PREFIX: &str = "pkit-";
const KEPT: &str = "-kept";

#[derive(Debug)]
pub(in crate::process) struct Cgroup {
    path: PathBuf,
    /// Its name in `/proc/<pid>/cgroup`, as this program sees it.
    name: String,
    procs: File,
    /// Open from the beginning: to be out of descriptors must not make it look empty, nor keep it from being killed.
    events: File,
    /// `None` before 5.14.
    kill: Option<File>,
    /// In the order in which they were sent.
    signals: Arc<InOrder>,
    /// Held for its lock.
    _directory: File,
}

impl Cgroup {
    /// `outlives`: nobody empties it when we are gone.
    pub(super) fn create(outlives: bool) -> io::Result<Cgroup> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        // Of one process: a fork could copy it while the sweep goes on.
        static SWEPT: sys::PerProcess<AtomicBool> = sys::PerProcess::new();
        #[cfg(feature = "_testing")]
        if NO_CGROUPS.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (parent, own) = own_directory()?;
        // Two that sweep side by side do no harm: each takes what the other has not locked.
        if !SWEPT.get_or_init(AtomicBool::default).swap(true, Ordering::Relaxed) {
            sweep(&parent, false);
        }
        sweep(&parent, true);
        loop {
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            let kept = if outlives { KEPT } else { "" };
            let directory = format!("{PREFIX}{}-{:016x}-{number}{kept}", sys::process::pid(), marks::image());
            let path = parent.join(&directory);
            match fs::create_dir(&path) {
                // Another pid namespace with the same view of the hierarchy.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            // Someone's sweep may have come between the two lines; then there is a next number.
            let name = format!("{}/{directory}", own.trim_end_matches('/'));
            if let Some(cgroup) = Cgroup::claim(path, name)? {
                return Ok(cgroup);
            }
        }
    }

    fn claim(path: PathBuf, name: String) -> io::Result<Option<Cgroup>> {
        let opened = File::open(&path).and_then(|directory| {
            let locked = sys::process::lock_directory(directory.as_fd())?;
            let write = |name| File::options().write(true).open(path.join(name));
            let kill = match write(kill_file()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                other => Some(other?),
            };
            let (procs, events) = (write("cgroup.procs")?, File::open(path.join("cgroup.events"))?);
            Ok(locked.then_some((procs, events, kill, directory)))
        });
        match opened {
            Ok(Some((procs, events, kill, _directory))) => {
                Ok(Some(Cgroup { path, name, procs, events, kill, signals: Arc::default(), _directory }))
            }
            Ok(None) => Ok(None),
            // It is there, and no cgroup: something else is mounted over them.
            Err(error) if fs::remove_dir(&path).is_ok() => Err(error),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn procs(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }

    pub(super) fn is_populated(&self) -> bool {
        is_populated(&self.events)
    }

    /// All of it at once: `cgroup.kill` (kernel 5.14), else one by one, on another thread: how many those are is up to them.
    /// Who forks meanwhile is met by the next round.
    pub(super) fn kill(&self) -> io::Result<()> {
        if let Some(file) = &self.kill {
            return file.write_all_at(b"1", 0);
        }
        let path = self.path.clone();
        Callbacks::get().run_own(move || kill_members(&path));
        Ok(())
    }

    /// Takes its directory away, once it is empty.
    pub(super) fn removal(&self) -> impl FnOnce() + Send + 'static {
        let path = self.path.clone();
        move || remove(&path)
    }

    /// Signals what left the group. How many those are is up to them, so it is done on another thread.
    /// The leader had it with the group, wherever it is.
    pub(super) fn signal_beyond_group(&self, leader: &Leader, signal: Signal) {
        let (path, leader) = (self.path.clone(), leader.clone());
        self.signals.run(move || {
            let group = group::holds_its_number(&leader).then_some(leader.pid);
            let left = |pid: &u32| {
                Some(*pid) != group && sys::process::process_group_of(*pid).is_ok_and(|of| Some(of) != group)
            };
            if let Err(error) = members::signal(&path, left, signal) {
                group::warn_of(signal, &error);
            }
        });
    }

    pub(super) fn membership(&self) -> Membership {
        Membership(self.name.clone())
    }
}

/// Who is in the cgroup of that name, or in one below it. A zombie stays in its own (cgroups(7)).
pub(super) struct Membership(String);

impl Membership {
    pub(super) fn contains(&self, pid: u32) -> io::Result<bool> {
        // Of one process alone: how many are in the cgroup is up to them.
        Ok(name_of(pid)?.is_some_and(|name| self.has(&name)))
    }

    /// The same of a zombie, which is read once, however many runs ask. `None`: it cannot be told now.
    pub(super) fn contains_zombie(&self, all: &Snapshot, pid: u32) -> Option<bool> {
        let names = all.cgroups.get_or_init(|| {
            let zombies = all.entries.iter().filter(|entry| entry.zombie);
            zombies.map(|zombie| (zombie.pid, name_of(zombie.pid).ok().map(Option::unwrap_or_default))).collect()
        });
        names.get(&pid)?.as_ref().map(|name| self.has(name))
    }

    fn has(&self, name: &str) -> bool {
        // A zombie does not keep it from being removed.
        let rest = name.strip_prefix(&self.0);
        rest.is_some_and(|rest| matches!(rest, "" | " (deleted)") || rest.starts_with('/'))
    }
}

/// `None`: it is gone, or in none.
fn name_of(pid: u32) -> io::Result<Option<String>> {
    let cgroups = procfs::read_of(pid, "cgroup")?.unwrap_or_default();
    Ok(v2_name(&String::from_utf8_lossy(&cgroups)).map(str::to_owned))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The directory of the cgroup that this program is in, and its name in the hierarchy.
fn own_directory() -> io::Result<(PathBuf, String)> {
    let not_here = || io::Error::from(io::ErrorKind::Unsupported);
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    // Fields of proc_pid_mountinfo(5): 4 is the root within the hierarchy, 5 the mount point, the type follows " - ".
    let (root, mount) = mounts
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right.starts_with("cgroup2 ").then_some(())?;
            let mut fields = left.split(' ').skip(3);
            Some((fields.next()?, fields.next()?))
        })
        .ok_or_else(not_here)?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = v2_name(&own).ok_or_else(not_here)?;
    let below = Path::new(own).strip_prefix(root).map_err(|_| not_here())?;
    Ok((Path::new(mount).join(below), own.to_owned()))
}

/// The one of the v2 hierarchy among the lines of `/proc/<pid>/cgroup`.
fn v2_name(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Removes what programs left that were killed before they could; or, of what was `kept` on purpose, the empty ones.
fn sweep(parent: &Path, kept: bool) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let run = name.strip_suffix(KEPT);
        if run.is_some() != kept || !is_a_runs(run.unwrap_or(name)) {
            continue;
        }
        let path = entry.path();
        let Ok(directory) = File::open(&path) else { continue };
        if matches!(sys::process::lock_directory(directory.as_fd()), Ok(true)) {
            if !kept {
                // Not `fs::write`, which would create it: where it is missing, as before 5.14, that is refused with EACCES.
                let file = File::options().write(true).open(path.join(kill_file()));
                if file.and_then(|file| file.write_all_at(b"1", 0)).is_err() {
                    kill_members(&path);
                }
            }
            if !kept || File::open(path.join("cgroup.events")).is_ok_and(|events| !is_populated(&events)) {
                remove(&path);
            }
        }
    }
}

/// Whether it is a name that [`Cgroup::create`] gives. The prefix alone is not: a `pkit-agent.service` is a stranger's, and
/// nobody locks it.
fn is_a_runs(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_image = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let numbers: Vec<&str> = name.strip_prefix(PREFIX).into_iter().flat_map(|rest| rest.split('-')).collect();
    matches!(numbers[..], [pid, image, number] if is_number(pid) && is_image(image) && is_number(number))
}

/// Who cannot be reached now, for want of descriptors, is by the next SIGKILL.
fn kill_members(path: &Path) {
    let _ = members::signal(path, |_| true, Signal::KILL);
}

#[cfg(feature = "_testing")]
static NO_CGROUPS: AtomicBool = AtomicBool::new(false);

/// From now on no cgroup can be made, in the whole program.
#[cfg(feature = "_testing")]
pub(crate) fn pretend_no_cgroups() {
    NO_CGROUPS.store(true, Ordering::Relaxed);
}

#[cfg(feature = "_testing")]
static NO_KILL: AtomicBool = AtomicBool::new(false);

/// From now on `cgroup.kill` is missing, in the whole program.
#[cfg(feature = "_testing")]
pub(crate) fn pretend_no_cgroup_kill() {
    NO_KILL.store(true, Ordering::Relaxed);
}

fn kill_file() -> &'static str {
    #[cfg(feature = "_testing")]
    if NO_KILL.load(Ordering::Relaxed) {
        return "cgroup.missing";
    }
    "cgroup.kill"
}

/// What cannot be read has somebody in it, unless it is gone.
fn is_populated(events: &File) -> bool {
    let mut buffer = [0; 256];
    match events.read_at(&mut buffer, 0) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "populated 1"),
        Err(error) => error.raw_os_error() != Some(libc::ENODEV),
    }
}

fn remove(path: &Path) {
    for directory in members::subtree(path).unwrap_or_else(|_| vec![path.to_owned()]).iter().rev() {
        // EBUSY right after a kill: the last zombies still count. It is tried again by the sweep of the next program.
        for _ in 0..100 {
            match fs::remove_dir(directory) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::yield_now(),
                _ => break,
            }
        }
    }
}

mod members;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_that_cannot_be_read_is_not_taken_for_a_strangers() {
        let own = procfs::entry(sys::process::pid()).unwrap();
        let zombie = procfs::Entry { zombie: true, ..own };
        let all = || Snapshot::new(vec![zombie], 1);
        let cgroup = Membership(name_of(own.pid).unwrap().unwrap_or_default());
        sys::fork::tests::in_fork(|| {
            // (A fork has another pid.)
            assert_eq!(cgroup.contains_zombie(&all(), own.pid), Some(true));
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 0, 0).unwrap();
            assert_eq!(cgroup.contains_zombie(&all(), own.pid), None);
        });
    }

    #[test]
    fn only_what_runs_left_is_swept() {
        assert!(is_a_runs("pkit-1-0123456789abcdef-0") && is_a_runs("pkit-4711-0123456789abcdef-12"));
        for strangers in [
            "pkit-",
            "pkit-1",
            "pkit-1-0",
            "pkit--0123456789abcdef-1",
            "pkit-agent.service",
            "pkit-1-0123456789abcdef-0.scope",
            "pkit-1-0123456789abcdef-0-1",
            "pkit-1-0-1",
            "x",
        ] {
            assert!(!is_a_runs(strangers), "{strangers}");
        }
    }
}
