//! On which processors threads and children may run.
//!
//! A thread that makes children for others may be bound to one processor, so that a caller hands over to it without waking another one
//! (`spawners`). A child has the affinity of its creating thread, so it gives itself that of its caller, unless it was asked for another.
//! Both are left alone where the calling or the creating thread has a seccomp filter: one may kill who sets an affinity, and it
//! cannot be asked (systemd's `SystemCallFilter=~@resources` is such a one).

use super::syscall::syscall;

/// The most that any kernel supports (`NR_CPUS`).
const PROCESSORS: usize = 8192;

/// A set of processors, as `sched_setaffinity(2)` takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cores(Box<Mask>);

type Mask = [u64; PROCESSORS / 64];

static ALL: Mask = [!0; PROCESSORS / 64];

impl Cores {
    /// `None`: there is none of such a number.
    pub(super) fn of(numbers: &[usize]) -> Option<Cores> {
        let mut mask = Box::new([0; PROCESSORS / 64]);
        for number in numbers {
            *mask.get_mut(number / 64)? |= 1 << (number % 64);
        }
        Some(Cores(mask))
    }

    pub(super) fn of_this_thread() -> Option<Cores> {
        let mut mask = Box::new([0; PROCESSORS / 64]);
        get(&mut mask).ok().map(|()| Cores(mask))
    }

    /// Binds the calling thread to them, with errno where it fails. Allocates nothing.
    pub(super) fn bind(&self) -> Result<(), i32> {
        set(0, &self.0)
    }

    /// Gives them back to the calling child, whose creating thread has others. Allocates nothing.
    ///
    /// Who was not restricted is not to be restricted to the processors that there are today: the kernel keeps what was asked for,
    /// and gives what there is of it (`cpuset(7)`). What fails leaves a child that runs well, if slower, and so fails no start.
    pub(super) fn restore(&self) {
        let is_free = set(0, &ALL).is_ok();
        let mut now = [0; PROCESSORS / 64];
        if !(is_free && get(&mut now).is_ok() && now == *self.0) {
            let _ = self.bind();
        }
    }
}

/// Whether the calling thread, and what it creates, may say where it runs. Not where it has any filter, or that cannot be told.
pub(super) fn may_be_set() -> bool {
    // SAFETY: PR_GET_SECCOMP takes nothing else.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP) == 0 }
}

/// The caller's processor, if a thread that works for it may be bound there; `None`: that may be forbidden, or the caller is not
/// `SCHED_OTHER`. (Beside one for real time, who is bound to its processor may starve.)
pub(crate) fn to_bind_to() -> Option<usize> {
    // SAFETY: sched_getscheduler(2) takes a number; 0 is the calling thread.
    let is_ordinary = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER;
    if !is_ordinary || !may_be_set() {
        return None;
    }
    // SAFETY: sched_getcpu(3) takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Binds a thread of this process to a processor, if that is permitted. (Else it runs anywhere, as well but slower.)
pub(crate) fn bind(thread: i32, processor: usize) {
    let _ = Cores::of(&[processor]).map(|only| set(thread, &only.0));
}

fn get(mask: &mut Mask) -> Result<(), i32> {
    // SAFETY: sched_getaffinity(2) writes at most as many bytes as it is told; 0 is the calling thread.
    unsafe { syscall!(libc::SYS_sched_getaffinity, 0, size_of::<Mask>(), mask.as_mut_ptr()) }.map(drop)
}

/// 0 is the calling thread.
fn set(thread: i32, mask: &Mask) -> Result<(), i32> {
    // SAFETY: sched_setaffinity(2) reads as many bytes as it is told.
    unsafe { syscall!(libc::SYS_sched_setaffinity, thread, size_of::<Mask>(), mask.as_ptr()) }.map(drop)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sys::fork::tests::in_fork;

    /// The calling thread has a filter from now on, which kills who sets an affinity.
    pub(in crate::sys) fn forbid() {
        filter(libc::SYS_sched_setaffinity, libc::SECCOMP_RET_KILL_PROCESS);
    }

    /// The calling thread has a filter from now on, which does that to who makes this call.
    pub(in crate::sys) fn filter(call: libc::c_long, what: u32) {
        let instruction = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let end = |what| instruction(libc::BPF_RET | libc::BPF_K, 0, what);
        let mut filter = [
            // The number of the call.
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
            end(what),
            end(libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        nix::sys::prctl::set_no_new_privs().unwrap();
        // SAFETY: PR_SET_SECCOMP reads one program, of as many instructions as it says.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        assert_eq!(set, 0);
    }

    #[test]
    fn they_are_told_by_their_numbers() {
        let cores = Cores::of(&[0, 65, 3]).unwrap();
        assert_eq!(cores.0[..3], [0b1001, 0b10, 0]);
        assert_eq!(Cores::of(&[PROCESSORS]), None);
        assert_eq!(Cores::of(&[0, usize::MAX]), None);
    }

    #[test]
    fn who_has_a_filter_binds_nobody() {
        in_fork(|| {
            assert!(to_bind_to().is_some());
            forbid();
            assert_eq!(to_bind_to(), None);
        });
    }

    #[test]
    fn who_was_bound_runs_where_the_other_may() {
        in_fork(|| {
            let before = Cores::of_this_thread().unwrap();
            let processor = to_bind_to().unwrap();
            bind(0, processor);
            let bound = Cores::of_this_thread().unwrap();
            assert_eq!(bound.0.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
            before.restore();
            assert_eq!(Cores::of_this_thread(), Some(before));
            bound.restore();
            assert_eq!(Cores::of_this_thread(), Some(bound));
            // One that does not exist changes nothing.
            bind(0, PROCESSORS - 1);
            bind(0, usize::MAX);
            assert_eq!(to_bind_to(), Some(processor));
        });
    }
}
