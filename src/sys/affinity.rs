//! On which processors threads and children may run.

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::syscall::syscall;

/// The processor that this is called on; `None`: nobody is to be bound to it.
///
/// A seccomp filter may kill who binds itself, and cannot be asked (systemd's `SystemCallFilter=~@resources` is such a one): where the
/// calling thread has any, or that cannot be told, nothing here is called but this. Nor for a real-time thread: another one may keep the
/// processor from who is bound to it.
pub(crate) fn here() -> Option<usize> {
    // SAFETY: PR_GET_SECCOMP takes nothing else.
    let has_no_filter = unsafe { libc::prctl(libc::PR_GET_SECCOMP) } == 0;
    // SAFETY: sched_getscheduler(2) takes a number; 0 is the calling thread.
    let is_ordinary = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER;
    if has_no_filter && is_ordinary { sched_getcpu().ok() } else { None }
}

/// Binds the calling thread to a processor, if that is permitted.
pub(crate) fn bind(processor: usize) {
    let mut only = CpuSet::new();
    // More processors than the set has room for, or one that has gone: then it runs anywhere, as well but slower.
    let _ = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
}

/// The most that any kernel supports (`NR_CPUS`).
const PROCESSORS: usize = 8192;

/// Where a thread may run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Affinity(Box<Mask>);

type Mask = [u64; PROCESSORS / 64];

static ALL: Mask = [!0; PROCESSORS / 64];

impl Affinity {
    pub(super) fn of_this_thread() -> Option<Affinity> {
        let mut mask = Box::new([0; PROCESSORS / 64]);
        get(&mut mask).ok().map(|()| Affinity(mask))
    }

    /// Gives it to the calling child, whose creating thread has another one. Allocates nothing, and leaves errno alone.
    ///
    /// Who was not restricted is not to be restricted to the processors that there are today: the kernel keeps what was asked for,
    /// and gives what there is of it (`cpuset(7)`). What fails leaves a child that runs well, if slower, and so fails no start.
    pub(super) fn restore(&self) {
        let is_free = set(&ALL).is_ok();
        let mut now = [0; PROCESSORS / 64];
        if !(is_free && get(&mut now).is_ok() && now == *self.0) {
            let _ = set(&self.0);
        }
    }
}

fn get(mask: &mut Mask) -> Result<(), i32> {
    // SAFETY: sched_getaffinity(2) writes at most as many bytes as it is told; 0 is the calling thread.
    unsafe { syscall!(libc::SYS_sched_getaffinity, 0, size_of::<Mask>(), mask.as_mut_ptr()) }.map(drop)
}

fn set(mask: &Mask) -> Result<(), i32> {
    // SAFETY: sched_setaffinity(2) reads as many bytes as it is told; 0 is the calling thread.
    unsafe { syscall!(libc::SYS_sched_setaffinity, 0, size_of::<Mask>(), mask.as_ptr()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fork::tests::in_fork;

    #[test]
    fn who_has_a_filter_binds_nobody() {
        in_fork(|| {
            assert!(here().is_some());
            let allow = libc::BPF_RET as u16 | libc::BPF_K as u16;
            let mut all = libc::sock_filter { code: allow, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
            let filter = libc::sock_fprog { len: 1, filter: &raw mut all };
            nix::sys::prctl::set_no_new_privs().unwrap();
            // SAFETY: PR_SET_SECCOMP reads one program of one instruction.
            let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
            assert_eq!(set, 0);
            assert_eq!(here(), None);
        });
    }

    #[test]
    fn who_was_bound_runs_where_the_other_may() {
        in_fork(|| {
            let before = Affinity::of_this_thread().unwrap();
            let processor = here().unwrap();
            bind(processor);
            let bound = Affinity::of_this_thread().unwrap();
            assert_eq!(bound.0.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
            before.restore();
            assert_eq!(Affinity::of_this_thread(), Some(before));
            bound.restore();
            assert_eq!(Affinity::of_this_thread(), Some(bound));
            // One that does not exist changes nothing.
            bind(PROCESSORS - 1);
            bind(usize::MAX);
            assert_eq!(here(), Some(processor));
        });
    }
}
