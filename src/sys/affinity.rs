//! On which processors threads and children may run.

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::syscall::syscall;

/// Whether the calling thread, and what it creates, may say where it runs: a seccomp filter may kill who does, and cannot be asked
/// (systemd's `SystemCallFilter=~@resources` is such a one). So not where it has any, or that cannot be told.
pub(super) fn may_be_set() -> bool {
    // SAFETY: PR_GET_SECCOMP takes nothing else.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP) == 0 }
}

/// The processor that this is called on; `None`: nobody is to be bound to it. Only an ordinary thread has one: where another is for
/// real time, a third may keep the processor from who is bound to it.
pub(crate) fn here() -> Option<usize> {
    // SAFETY: sched_getscheduler(2) takes a number; 0 is the calling thread.
    let is_ordinary = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER;
    if is_ordinary && may_be_set() { sched_getcpu().ok() } else { None }
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
pub(super) mod tests {
    use super::*;
    use crate::sys::fork::tests::in_fork;

    /// The calling thread has a filter from now on, which kills who sets an affinity.
    pub(in crate::sys) fn forbid() {
        let instruction = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let end = |what| instruction(libc::BPF_RET | libc::BPF_K, 0, what);
        let mut filter = [
            // The number of the call.
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_sched_setaffinity as u32),
            end(libc::SECCOMP_RET_KILL_PROCESS),
            end(libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        nix::sys::prctl::set_no_new_privs().unwrap();
        // SAFETY: PR_SET_SECCOMP reads one program, of as many instructions as it says.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        assert_eq!(set, 0);
    }

    #[test]
    fn who_has_a_filter_binds_nobody() {
        in_fork(|| {
            assert!(here().is_some());
            forbid();
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
