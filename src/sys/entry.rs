//! Code that runs before `main`, in whatever program this crate is part of.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// `before_main!(NAME, function)`: calls a `fn()` before `main` (and when a shared object that it is part of is loaded). Neither the
/// runtime of Rust nor the constructors of C++ have run by then; the C library is ready.
macro_rules! before_main {
    ($name:ident, $function:path) => {
        #[used]
        #[allow(unsafe_code, reason = "the linker has to be told where it goes")]
        #[unsafe(link_section = ".init_array")]
        static $name: extern "C" fn() = {
            extern "C" fn call() {
                $function()
            }
            call
        };
    };
}
pub(crate) use before_main;

/// Takes over the socket `number`, if that is one and whoever made it is our parent: another program that happens to have the same
/// variable in its environment does not know the number, or is asked by nobody. No program that this process executes gets it.
pub(crate) fn socket_of_parent(number: RawFd) -> Option<OwnedFd> {
    if number < 3 {
        return None;
    }
    let parent = nix::unistd::getppid();
    // SAFETY: it is only borrowed to be asked what it is, and if it is closed the call fails.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let peer = getsockopt(&socket.as_fd(), PeerCredentials).ok()?;
    if peer.pid() != parent.as_raw() {
        return None;
    }
    // SAFETY: our parent made it for us, as the kernel vouches, and nothing else of this program has begun.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // Else what is executed here would keep it open when we are gone, and who asks would not hear of our end.
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(socket)
}
