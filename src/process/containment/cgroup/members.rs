//! Who is in a cgroup, and those below it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::signal::Signal;
use crate::sys::pidfd::Pidfd;

/// The processes in it and in the cgroups that they made below it.
fn members(path: &Path) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for directory in subtree(path)? {
        let pids = if_readable(fs::read_to_string(directory.join("cgroup.procs")))?.unwrap_or_default();
        found.extend(pids.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    Ok(found)
}

/// So many pidfds are open at once, and so many members cost one more reading of the cgroup.
const AT_ONCE: usize = 64;

/// # Errors
/// When some were not reached, for want of descriptors.
pub(super) fn signal(path: &Path, wanted: impl Fn(&u32) -> bool, signal: Signal) -> io::Result<()> {
    let mut pids: Vec<u32> = members(path)?.into_iter().filter(wanted).collect();
    while !pids.is_empty() {
        // What is opened here must leave one descriptor for the second reading.
        let spare = File::open(path);
        let mut some = Vec::new();
        while some.len() < AT_ONCE
            && let Some(pid) = pids.pop()
        {
            match Pidfd::open(pid) {
                Ok(pidfd) => some.push((pid, pidfd)),
                Err(error) if is_shortage(&error) && some.is_empty() => return Err(error),
                Err(error) if is_shortage(&error) => {
                    pids.push(pid);
                    break;
                }
                // It has ended.
                Err(_) => {}
            }
        }
        drop(spare);
        // Opened first and looked up again then: a pid may have gone to a stranger in between.
        let now = members(path)?;
        for (_, pidfd) in some.into_iter().filter(|(pid, _)| now.contains(pid)) {
            // ESRCH: it has ended. EPERM: it changed its user; the SIGKILL of cgroup.kill asks nobody.
            let _ = pidfd.signal(signal.as_raw());
        }
    }
    Ok(())
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// `None`: it is not there any more, or cannot be read at all. (Of a threaded cgroup (EOPNOTSUPP) all are listed in that above it.)
///
/// # Errors
/// It cannot be read now.
fn if_readable<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_shortage(&error) => Err(error),
        result => Ok(result.ok()),
    }
}

/// The directory and all below it, parents first.
pub(super) fn subtree(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        let children = if_readable(fs::read_dir(directory))?.into_iter().flatten().flatten();
        let directories = children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let paths: Vec<PathBuf> = directories.map(|entry| entry.path()).collect();
        found.extend(paths);
        next += 1;
    }
    Ok(found)
}
