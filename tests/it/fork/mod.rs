//! `Target::fork`: closures in forked copies of this program.

mod foreign;
mod nested;
mod threads;

use std::process::{ExitCode, Termination};

use nix::sys::resource::Resource;
use pkit::{Exit, Process, Signal, State, Stdio};

use crate::forked::{forked, tell};
use crate::support::{LONG, is_alive, limited, open_descriptors, tests, thread_names};

/// Its exit, and what it wrote to stdout and stderr.
fn run<T: Termination>(closure: impl Fn() -> T + Send + Sync + 'static) -> (Exit, String, String) {
    let process = Process::builder(forked(closure)).capture(1 << 20).build().unwrap();
    process.start(true).unwrap();
    let exit = process.join().unwrap();
    let output = process.output();
    (exit, output.stdout_text().into_owned(), output.stderr_text().into_owned())
}

tests! {
    fn the_result_is_the_exit_code() {
        assert_eq!(run(|| ()).0.code(), Some(0));
        for code in [0, 1, 7, 100, 101, 255] {
            assert_eq!(run(move || ExitCode::from(code)).0.code(), Some(code.into()));
        }
        assert_eq!(run(|| Ok::<(), String>(())).0.code(), Some(0));
        let (exit, _, stderr) = run(|| Err::<(), &str>("no luck"));
        assert_eq!((exit.code(), &*stderr), (Some(1), "Error: \"no luck\"\n"));
        assert_eq!(run(|| std::process::exit(9)).0.code(), Some(9));
        assert_eq!(run(|| std::process::abort()).0.signal(), Some(Signal::ABRT));
    }

    fn it_runs_if_the_start_says_so_and_not_else() {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let builder = Process::builder(forked(|| tell("x"))).stdin(Stdio::inherit()).stdout(Stdio::from(writer));
        let process = builder.build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        let ran = || nix::unistd::read(&reader, &mut [0; 64]).unwrap_or(0);
        assert_eq!(ran(), 1);
        let open = open_descriptors().len() as u64;
        // Whatever it lacks a descriptor for, a hold of its child above all.
        for limit in (0..20).flat_map(|_| open - 2..open + 6) {
            match limited(Resource::RLIMIT_NOFILE, limit, || process.start(true)) {
                Ok(_) => assert!(process.join().unwrap().success() && ran() == 1),
                Err(error) => {
                    assert_eq!((error.is_not_created(), error.raw_os_error()), (true, Some(libc::EMFILE)), "{error}");
                    assert_eq!(ran(), 0, "{limit}");
                }
            }
        }
    }

    fn it_captures_what_it_likes() {
        let text = "captured ".repeat(1000);
        let wanted = text.clone();
        let (exit, stdout, stderr) = run(move || tell(&text));
        assert!(exit.success());
        assert_eq!((stdout, stderr), (wanted, String::new()));
    }

    fn what_it_changes_is_its_own() {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(5);
        let process = Process::new(forked(|| ExitCode::from(COUNT.fetch_add(1, Ordering::SeqCst) as u8)));
        for _ in 0..3 {
            process.start(true).unwrap();
            assert_eq!(process.join().unwrap().code(), Some(5));
        }
        assert_eq!(COUNT.load(Ordering::SeqCst), 5);
    }

    fn a_panic_gives_101_with_the_message_on_stderr() {
        let (exit, stdout, stderr) = run(|| {
            if thread_names().len() == 1 {
                panic!("the answer is {}", 42);
            }
        });
        assert_eq!((exit.code(), &*stdout), (Some(101), ""));
        assert!(stderr.contains("panicked at") && stderr.contains("the answer is 42"), "{stderr}");
        let payload = run(|| std::panic::panic_any(5_u8));
        assert_eq!(payload.0.code(), Some(101));
        // The parent's own hook and unwinding are as they were.
        assert!(std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(1))).is_err());
    }

    fn it_is_stopped_like_any_other() {
        let process = Process::builder(forked(|| loop { std::thread::park() })).name("parked").build().unwrap();
        let pid = process.start(true).unwrap();
        assert!(is_alive(pid));
        process.terminate(true).unwrap();
        let exit = process.join().unwrap();
        assert_eq!((exit.signal(), exit.requested(), exit.forced()), (Some(Signal::TERM), true, false));
        let pid = process.start(true).unwrap();
        drop(process);
        crate::support::eventually("the last handle stopped it", || !is_alive(pid));
    }

    fn it_may_pause() {
        let process = Process::new(forked(|| loop { std::thread::park() }));
        process.start(true).unwrap();
        process.signal(Signal::STOP).unwrap();
        process.wait_until(LONG, |status| status.state == State::Paused).unwrap();
        process.terminate(true).unwrap();
    }

    fn its_streams_are_piped() {
        use std::io::{Read, Write};
        let echo = forked(|| {
            let mut text = String::new();
            std::fs::File::open("/proc/self/fd/0").unwrap().read_to_string(&mut text).unwrap();
            tell(&text.to_uppercase());
        });
        let process = Process::builder(echo).stdin(Stdio::piped()).stdout(Stdio::piped()).build().unwrap();
        process.start(true).unwrap();
        process.stdin().unwrap().write_all(b"quiet").unwrap();
        let mut loud = String::new();
        process.stdout().unwrap().read_to_string(&mut loud).unwrap();
        assert_eq!(loud, "QUIET");
        process.join().unwrap();
    }
}
