//! Forked copies of a test: their targets, and how they tell what they see.

#![allow(dead_code, reason = "not every binary uses all of it")]
#![allow(unsafe_code, reason = "`Target::fork` is what is tested")]

use std::process::Termination;
use std::sync::atomic::{AtomicBool, Ordering};

use pkit::Target;

/// The closures of the tests take no lock of the test program: they compute, read files, write to descriptors, and use pkit.
pub(crate) fn forked<T: Termination>(closure: impl Fn() -> T + Send + Sync + 'static) -> Target {
    // SAFETY: see above.
    unsafe { Target::fork(closure) }
}

/// Writes to stdout past Rust's lock and buffer of it, which belong to the parent.
pub(crate) fn tell(text: &str) {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let written = nix::unistd::write(std::io::stdout(), left).unwrap();
        left = &left[written..];
    }
}

/// Forks in the middle of a handler of SIGCHLD, which this raises; the child runs `function`, still in there, and ends.
pub(crate) fn fork_in_a_handler(function: fn()) {
    static FORK: AtomicBool = AtomicBool::new(false);
    let handler = move || {
        if FORK.swap(false, Ordering::SeqCst) {
            // SAFETY: this thread raised the signal, and holds no lock.
            if let Ok(nix::unistd::ForkResult::Child) = unsafe { nix::unistd::fork() } {
                function();
                // SAFETY: it ends the process, and nothing else.
                unsafe { libc::_exit(0) };
            }
        }
    };
    // SAFETY: signal-hook saves errno; for the rest see above.
    unsafe { signal_hook::low_level::register(libc::SIGCHLD, handler) }.unwrap();
    FORK.store(true, Ordering::SeqCst);
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGCHLD).unwrap();
}

/// Calls `function` in a fork that nobody but libc knows of, and waits for that to end well.
pub(crate) fn in_a_raw_fork(function: impl FnOnce()) {
    // SAFETY: the threads that this test has are those of pkit, and what is used inside is made for that.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            function();
            // SAFETY: it ends the process, and nothing else.
            unsafe { libc::_exit(0) };
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
        }
    }
}

/// Calls `function` in a process of another session whose parent is gone.
pub(crate) fn in_a_daemon(function: impl FnOnce()) {
    in_a_raw_fork(|| {
        nix::unistd::setsid().unwrap();
        // SAFETY: as above; this copy has one thread.
        if let nix::unistd::ForkResult::Child = unsafe { nix::unistd::fork() }.unwrap() {
            function();
        }
    });
}
