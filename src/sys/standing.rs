//! What a process has that its children inherit, and that is not told by options: looked up where it matters that it may have changed.

use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use libc::c_int;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::getpgrp;

/// What this process has now. Of its main thread, as `/proc` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) umask: u32,
    /// Bit n-1: signal n is ignored.
    pub(crate) ignored: u64,
    /// Of users, groups, capabilities, seccomp filters, the session and the root directory: what a process cannot give to another.
    pub(crate) rights: u64,
    /// Its process group.
    pub(crate) group: i32,
    pub(crate) limits: Vec<Limit>,
}

/// (`RLIMIT_*`, soft, hard).
pub(crate) type Limit = (i32, u64, u64);

/// The limit of open files, which a server raises.
const DESCRIPTORS: i32 = libc::RLIMIT_NOFILE as i32;

/// As many as this process may allow itself.
pub(crate) fn allow_all_descriptors() {
    let allowed =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    debug_assert!(allowed.is_ok(), "a soft limit may be raised to the hard one (setrlimit(2))");
}

/// `RLIM_NLIMITS` (linux/resource.h).
const LIMITS: c_int = 16;

impl Standing {
    /// # Errors
    /// There is no `/proc`, or no descriptor to read it with.
    pub(crate) fn now() -> io::Result<Standing> {
        let status = read("/proc/self/status")?;
        // A main thread that has ended has none any more.
        let umask = status.lines().find_map(umask).map_or_else(umask_of_thread, Ok)?;
        let mut standing = Standing { umask, ignored: 0, rights: 0, group: getpgrp().as_raw(), limits: limits() };
        let mut rights = DefaultHasher::new();
        for (key, value) in status.lines().filter_map(|line| line.split_once(":\t")) {
            match key {
                "SigIgn" => standing.ignored = number(value, 16)?,
                "Uid" | "Gid" | "Groups" | "CapInh" | "CapPrm" | "CapEff" | "CapBnd" | "CapAmb" | "NoNewPrivs"
                | "Seccomp" | "Seccomp_filters" => value.hash(&mut rights),
                _ => {}
            }
        }
        super::process::session().hash(&mut rights);
        let root = root()?;
        (root.dev(), root.ino()).hash(&mut rights);
        standing.rights = rights.finish();
        Ok(standing)
    }

    /// Those that a copy of a server does not have from it, which was started at that time; all, where it has changed some itself.
    pub(crate) fn limits_beyond(&self, server: &Standing, has_changed: bool) -> impl Iterator<Item = Limit> {
        let is_other = move |limit: &&Limit| has_changed || limit.0 == DESCRIPTORS || !server.limits.contains(limit);
        self.limits.iter().filter(is_other).copied()
    }
}

/// (Its length is not known before, and the standard library would ask for 32 bytes first.)
fn read(path: &str) -> io::Result<String> {
    let mut text = String::with_capacity(4096);
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// After a chroot it is another one.
fn root() -> io::Result<Metadata> {
    // A main thread that has ended has none any more.
    fs::metadata("/proc/self/root").or_else(|_| fs::metadata("/"))
}

fn umask(line: &str) -> Option<u32> {
    u32::from_str_radix(line.strip_prefix("Umask:")?.trim(), 8).ok()
}

fn umask_of_thread() -> io::Result<u32> {
    let status = read("/proc/thread-self/status")?;
    status.lines().find_map(umask).ok_or_else(|| io::Error::other("/proc does not tell the umask"))
}

fn number(text: &str, radix: u32) -> io::Result<u64> {
    u64::from_str_radix(text.trim(), radix).map_err(io::Error::other)
}

fn limits() -> Vec<Limit> {
    let limit = |resource: c_int| {
        let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: prlimit64(2) of this process changes nothing where there is no new limit, and writes the old one.
        let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, 0_usize, &raw mut limit) };
        (result == 0).then_some((resource, limit.rlim_cur, limit.rlim_max))
    };
    (0..LIMITS).filter_map(limit).collect()
}

/// Ignores signal n where bit n-1 is set, and takes the default where it is not but was `before`.
pub(crate) fn ignore(before: u64, now: u64) {
    for signal in (1..=64).filter(|signal| (before ^ now) & 1 << (signal - 1) != 0) {
        let handler = if now & 1 << (signal - 1) != 0 { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: neither of both is a handler that would run.
        unsafe { libc::signal(signal, handler) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_seen() {
        super::super::fork::tests::in_fork(|| {
            let before = Standing::now().unwrap();
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o27));
            ignore(0, 1 << (libc::SIGUSR1 - 1));
            setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
            nix::sys::prctl::set_no_new_privs().unwrap();
            let after = Standing::now().unwrap();
            assert_eq!((after.umask, after.ignored), (0o27, before.ignored | 1 << (libc::SIGUSR1 - 1)));
            assert_ne!((after.rights, &after.limits), (before.rights, &before.limits));
            ignore(after.ignored, before.ignored);
            assert_eq!(Standing::now().unwrap().ignored, before.ignored);
        });
    }
}
