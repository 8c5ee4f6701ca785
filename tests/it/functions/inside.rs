//! The C library and pkit inside of a function.

use std::io::Write;
use std::process::ExitCode;

use nix::unistd::{getpid, gettid};
use pkit::{Command, Process, Signal, Target};

use super::{captured, printed};
use crate::support::{children, tests, thread_names};

fn threads_and_ids(_: ()) {
    assert_eq!((getpid(), thread_names().len()), (gettid(), 1));
    let own = gettid();
    let other = std::thread::spawn(gettid).join().unwrap();
    assert_ne!(own, other);
    let mut set = nix::sched::CpuSet::new();
    set.set(0).unwrap();
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: -1, tv_nsec: 0 });
    // SAFETY: pthread_self is this thread; each call reads or writes what it is given.
    #[allow(unsafe_code, clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        let size = size_of_val(&set);
        assert_eq!(libc::pthread_setaffinity_np(libc::pthread_self(), size, (&raw const set).cast()), 0);
        assert_eq!(libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock), 0);
        assert_eq!(libc::clock_gettime(clock, &raw mut time), 0);
        assert_eq!(libc::pthread_kill(libc::pthread_self(), 0), 0);
    }
    assert!(time.tv_sec >= 0);
    assert!(nix::sched::sched_getaffinity(own).unwrap().is_set(0).unwrap());
}

/// A mutex that other processes may share, whose owner ends while he holds it: the kernel marks it (robust mutexes, futex(2)).
fn a_robust_mutex(_: ()) {
    // SAFETY: the mutex and its attributes live to the end, and are initialised first.
    #[allow(unsafe_code, clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_mutexattr_t>();
        let mutex: *mut libc::pthread_mutex_t = Box::leak(Box::new(std::mem::zeroed()));
        assert_eq!(libc::pthread_mutexattr_init(&raw mut attributes), 0);
        assert_eq!(libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST), 0);
        assert_eq!(libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED), 0);
        assert_eq!(libc::pthread_mutex_init(mutex, &raw const attributes), 0);
        let address = mutex as usize;
        let lock = move || libc::pthread_mutex_lock(address as *mut _);
        assert_eq!(std::thread::spawn(lock).join().unwrap(), 0);
        assert_eq!(lock(), libc::EOWNERDEAD);
        // The list of this thread is known to the kernel, and is this thread's.
        let (mut head, mut size) = (std::ptr::null_mut::<libc::c_void>(), 0_usize);
        assert_eq!(libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut size), 0);
        assert!(!head.is_null());
    }
}

fn nested(depth: u8) -> ExitCode {
    let command = captured(Command::new("sh").args(["-c", "echo from a command"]));
    command.start(true).unwrap();
    assert!(command.join().unwrap().success());
    assert_eq!(command.output().stdout_text(), "from a command\n");
    if depth == 0 {
        return ExitCode::from(1);
    }
    let deeper = Process::new(Target::function(nested, depth - 1));
    deeper.start(true).unwrap();
    let code = deeper.join().unwrap().code().unwrap();
    ExitCode::from(code as u8 + 1)
}

tests! {
    fn threads_and_ids_are_its_own() {
        printed(Process::builder(Target::function(threads_and_ids, ())));
    }

    fn robust_mutexes_work() {
        printed(Process::builder(Target::function(a_robust_mutex, ())));
    }

    fn an_abort_is_one() {
        let process = Process::new(Target::function(|()| std::process::abort(), ()));
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().signal(), Some(Signal::ABRT));
    }

    fn what_was_printed_without_a_newline_is_flushed() {
        fn print(_: ()) {
            print!("Rust ");
            std::io::stdout().flush().unwrap();
            // SAFETY: it reads a string that ends in NUL.
            #[allow(unsafe_code)]
            unsafe {
                libc::printf(c"C ".as_ptr());
            }
            print!("unflushed");
        }
        let text = printed(Process::builder(Target::function(print, ())));
        assert!(text == "Rust unflushedC " || text == "Rust C unflushed", "{text}");
    }

    fn functions_start_functions_three_deep() {
        let process = captured(Target::function(nested, 3));
        process.start(true).unwrap();
        let exit = process.join().unwrap();
        assert_eq!(exit.code(), Some(4), "{}", process.output().stderr_text());
    }

    fn a_function_has_none_of_our_threads_and_children() {
        fn alone(_: ()) {
            assert_eq!((thread_names().len(), children()), (1, vec![]));
        }
        let other = Process::new(Target::function(super::park, ()));
        other.start(true).unwrap();
        printed(Process::builder(Target::function(alone, ())));
        other.kill(true).unwrap();
    }
}
