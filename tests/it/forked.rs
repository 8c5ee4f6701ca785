//! Forked copies of a test: their targets, and how they tell what they see.

#![allow(dead_code, reason = "not every binary uses all of it")]
#![allow(unsafe_code, reason = "`Target::fork` is what is tested")]

use std::process::Termination;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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

/// From now on a fork starts threads as it begins, as those libraries do that need theirs.
pub(crate) fn threads_come_back_in_forks() {
    extern "C" fn in_child() {
        static READY: AtomicUsize = AtomicUsize::new(0);
        const THREADS: usize = 6;
        for _ in 0..THREADS {
            std::thread::spawn(|| {
                std::hint::black_box([0xff_u8; 1 << 18]);
                READY.fetch_add(1, Ordering::SeqCst);
                loop {
                    std::thread::park();
                }
            });
        }
        while READY.load(Ordering::SeqCst) < THREADS {
            std::thread::yield_now();
        }
    }
    // SAFETY: the child may allocate: nobody forks while another thread does.
    assert_eq!(unsafe { libc::pthread_atfork(None, None, Some(in_child)) }, 0);
}

/// Calls `function` while another thread changes the environment.
pub(crate) fn beside_changes_of_the_environment(function: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the others read it by std alone, or in a fork, where this thread is not.
                unsafe { std::env::set_var("PKIT_TEST_CHANGES", "again") };
            }
        });
        function();
        done.store(true, Ordering::Relaxed);
    });
}

/// Has the program listen to SIGCHLD by signal-hook.
pub(crate) fn register_with_signal_hook() {
    // SAFETY: it does nothing.
    unsafe { signal_hook::low_level::register(libc::SIGCHLD, || {}) }.unwrap();
}

/// Puts a handler of SIGCHLD on top of the one that is there, which it calls.
pub(crate) fn put_a_handler_on_top() {
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    static BEFORE: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let before = BEFORE.load(Ordering::SeqCst);
        // SAFETY: it was installed with SA_SIGINFO.
        let before = unsafe { std::mem::transmute::<usize, Handler>(before) };
        before(signal, info, context);
    }
    // SAFETY: all zero is a valid action.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: this reads the action that is there.
    assert_eq!(unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut before) }, 0);
    assert_ne!(before.sa_flags & libc::SA_SIGINFO, 0);
    BEFORE.store(before.sa_sigaction, Ordering::SeqCst);
    let on_top = libc::sigaction { sa_sigaction: handler as *const () as usize, ..before };
    // SAFETY: it does what that handler does.
    assert_eq!(unsafe { libc::sigaction(libc::SIGCHLD, &raw const on_top, std::ptr::null_mut()) }, 0);
}

/// Calls `function` in a fork that nobody but libc knows of, and waits for that to end well.
pub(crate) fn in_a_raw_fork(function: impl FnOnce()) {
    // SAFETY: the threads that this test has are those of pkit, and what is used inside is made for that.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            // A panic that left here would end this copy of the test's thread, and the process with it: well.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(function));
            // SAFETY: it ends the process, and nothing else.
            unsafe { libc::_exit(i32::from(result.is_err())) };
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
