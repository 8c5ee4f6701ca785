//! System calls past the C library.
//!
//! A child in our memory shares the thread-local storage of the thread that made it, and where that thread goes on meanwhile
//! the child may not touch any of it, errno included. So what runs in a child makes its calls here.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::arch::asm;

use libc::{c_int, c_long, c_void};

/// Makes a system call: `syscall!(libc::SYS_close, fd)`. Gives what it returned, or errno.
///
/// # Safety
/// What the manual page of the call asks for.
macro_rules! syscall {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::syscall::call($number, [$($crate::sys::syscall::Argument::word($argument)),*])
    };
}
pub(super) use syscall;

/// What may be given to the kernel.
pub(super) trait Argument {
    fn word(self) -> usize;
}

impl Argument for i32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Argument for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Argument for usize {
    fn word(self) -> usize {
        self
    }
}

impl<T> Argument for *const T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

impl<T> Argument for *mut T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

/// # Safety
/// As for [`syscall!`].
pub(super) unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, i32> {
    const { assert!(N <= 6) };
    let mut all = [0; 6];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument;
    }
    let [a, b, c, d, e, f] = all;
    let answer: isize;
    // SAFETY: the registers are those of the x86-64 ABI (syscall(2)); the kernel overwrites rcx and r11; the caller answers
    // for the call.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    // SAFETY: the registers are those of the arm64 ABI; as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => answer,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    // Where we do not know the machine: through the C library, whose errno is the calling thread's. That is right where the
    // thread waits until the child has left its memory, and `clone3` is not to be had.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        // SAFETY: the caller's promise.
        let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        answer = if returned == -1 { -(nix::errno::Errno::last_raw() as isize) } else { returned as isize };
    }
    result(answer)
}

/// The kernel's answer: errno is told as a small negative number.
fn result(answer: isize) -> Result<usize, i32> {
    if (-4095..0).contains(&answer) { Err(-answer as i32) } else { Ok(answer as usize) }
}

/// The kernel's `struct clone_args`, as of its first version.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct CloneArgs {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    /// Its lowest address.
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
}

/// `CLONE_CLEAR_SIGHAND` (Linux 5.5), for [`clone3`] only. That of the `libc` crate does not fit into its type.
pub(super) const CLEAR_SIGHAND: u64 = 1 << 32;

/// `clone3(2)` of a child that begins in `enter(argument)` on the stack that `args` names.
///
/// # Errors
/// ENOSYS also where we do not know how to enter the child.
///
/// # Safety
/// `args` is as `clone3(2)` wants it, and what it points to and `argument` outlive the child's stay in this memory. The stack
/// is nobody else's. `enter` does not return, and touches no thread-local storage.
pub(super) unsafe fn clone3(
    args: &CloneArgs,
    enter: extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
) -> Result<usize, i32> {
    let answer: isize;
    // SAFETY: as in `call`. The child has a stack of its own, and leaves this code by the call, from which it does not come
    // back.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => answer,
            in("rdi") std::ptr::from_ref(args), in("rsi") size_of::<CloneArgs>(),
            in("r12") enter, in("r13") argument,
            out("rcx") _, out("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x20",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") std::ptr::from_ref(args) => answer, in("x1") size_of::<CloneArgs>(),
            in("x20") enter, in("x21") argument,
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (args, enter, argument);
        answer = -(libc::ENOSYS as isize);
    }
    result(answer)
}

#[cfg(test)]
mod tests {
    #[test]
    fn errno_is_returned_and_not_set() {
        nix::errno::Errno::ENXIO.set();
        // SAFETY: getpid(2) cannot fail.
        let pid = unsafe { syscall!(libc::SYS_getpid) };
        assert_eq!(pid, Ok(std::process::id() as usize));
        // SAFETY: there is no such descriptor.
        assert_eq!(unsafe { syscall!(libc::SYS_close, -1) }, Err(libc::EBADF));
        let all = [1_u8, 2, 3];
        // SAFETY: write(2) reads three bytes, or none.
        let written = unsafe { syscall!(libc::SYS_pwrite64, -1, all.as_ptr(), all.len(), 0, 0, 0) };
        assert_eq!(written, Err(libc::EBADF));
        assert_eq!(nix::errno::Errno::last(), nix::errno::Errno::ENXIO);
    }
}
