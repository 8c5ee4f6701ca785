//! The fork server itself: preloads, deaths, hangs, and who may use it.

use std::sync::OnceLock;

use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{Group, Process, Signal, Target, TaskError};

use super::{park, printed, sum};
use crate::program::{Program, role, say, stay};
use crate::support::{LONG, children, eventually, is_alive, skipped, tests};

/// A file with a byte for each server that is to end before it is ready.
const DYING: &str = "PKIT_TEST_DYING";

/// Before `main`, and before that of pkit: those are called in the order of their names.
#[used]
#[allow(unsafe_code, reason = "the linker has to be told where it goes")]
#[unsafe(link_section = ".init_array.00999")]
static DIE: extern "C" fn() = die;

extern "C" fn die() {
    let Some(file) = std::env::var_os(DYING).filter(|_| std::env::var_os("PKIT_FORK_SERVER").is_some()) else { return };
    let left = std::fs::read(&file).unwrap();
    if let Some(rest) = left.get(1..) {
        std::fs::write(&file, rest).unwrap();
        nix::sys::signal::raise(Raw::SIGKILL).unwrap();
    }
}

static PRELOADED_BY: OnceLock<u32> = OnceLock::new();
static TABLE: OnceLock<Vec<u64>> = OnceLock::new();

fn build_table() {
    TABLE.get_or_init(|| (0..1000).map(|n| n * n).collect());
}

fn table(at: usize) {
    print!("{:?}", TABLE.get().map(|table| table[at]));
}

fn signal_server(signal: Raw) -> u32 {
    let server = pkit::testing::fork_server().unwrap();
    kill(Pid::from_raw(server as i32), signal).unwrap();
    server
}

/// Directory, a variable, umask, a limit, and whether SIGUSR2 is ignored.
fn surroundings((): ()) {
    let directory = std::env::current_dir().unwrap();
    let variable = std::env::var("SPARE_TEST").ok();
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty()).bits();
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap() & 1 << (Raw::SIGUSR2 as u64 - 1) != 0;
    print!("{:?}", (directory, variable, umask, limit, ignored));
}

fn move_by((from, by): (u64, u64)) -> u64 {
    from + by
}

fn add(numbers: Vec<u8>) -> Option<i32> {
    let process = Process::new(Target::function(sum, numbers));
    process.start(true).unwrap();
    process.join().unwrap().code()
}

/// The copy that waits for the next order.
fn spare() -> u32 {
    let server = pkit::testing::fork_server().unwrap();
    let mut found = None;
    eventually("there is a copy", || {
        found = children().into_iter().find(|pid| *pid != server);
        found.is_some()
    });
    eventually("the server has let go of it", || is_asleep(server));
    found.unwrap()
}

fn is_asleep(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('S'))
}

/// What a preload has left behind.
static LEFT: OnceLock<u32> = OnceLock::new();

fn left(_: ()) -> u32 {
    *LEFT.get().unwrap()
}

/// A copy of the server that stays, with all that it has open.
#[allow(unsafe_code, reason = "it is a plain fork that is in the way")]
fn leave_fork() -> u32 {
    // SAFETY: the child calls nothing but pause(2).
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        loop {
            // SAFETY: it takes no argument.
            unsafe { libc::pause() };
        }
    }
    pid as u32
}

/// Kills the servers, one after the other; whom their preload has left behind.
fn killed_servers() -> Vec<u32> {
    let mut all = vec![pkit::run(left, ()).unwrap()];
    for n in 0..3 {
        let server = signal_server(Raw::SIGKILL);
        if n % 2 == 0 {
            eventually("it is gone", || !is_alive(server));
        }
        // By the copy that it had made ahead, and by another server.
        for n in 0..3 {
            assert_eq!(pkit::run(move_by, (n, 1)).unwrap(), n + 1);
        }
        all.push(pkit::run(left, ()).unwrap());
    }
    all
}

fn signal(pid: u32, signal: Raw) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

tests! {
    fn the_next_process_is_there_before_it_is_asked_for() {
        assert_eq!(add(vec![1]), Some(1));
        for n in 2..10 {
            let spare = spare();
            let process = Process::new(Target::function(sum, vec![n]));
            assert_eq!(process.start(true).unwrap(), spare);
            assert_eq!(process.join().unwrap().code(), Some(i32::from(n)));
        }
    }

    fn a_copy_that_was_killed_while_it_waited_costs_nobody() {
        assert_eq!(add(vec![1]), Some(1));
        for n in 2..22 {
            let spare = spare();
            signal(spare, Raw::SIGKILL);
            if n % 2 == 0 {
                eventually("it has ended", || !is_alive(spare));
            }
            assert_eq!(add(vec![n]), Some(i32::from(n)));
            assert!(!children().contains(&spare), "it is reaped");
        }
    }

    fn a_copy_that_was_stopped_while_it_waited_goes_on() {
        assert_eq!(add(vec![1]), Some(1));
        signal(spare(), Raw::SIGSTOP);
        assert_eq!(add(vec![2]), Some(2));
    }

    fn what_is_sent_to_a_copy_that_waits_is_for_nobody() {
        fn pending(_: ()) -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let pending = |key| u64::from_str_radix(status.lines().find_map(|line| line.strip_prefix(key)).unwrap(), 16).unwrap();
            pending("SigPnd:\t") | pending("ShdPnd:\t")
        }
        let with_blocked = || {
            let blocked = vec![Signal::USR1, Signal::TERM];
            pkit::spawn_with(|process| process.signal_mask(blocked), pending, ()).unwrap().wait().unwrap()
        };
        assert_eq!(with_blocked(), 0);
        let waits = spare();
        [Raw::SIGUSR1, Raw::SIGTERM, Raw::SIGINT, Raw::SIGTSTP].into_iter().for_each(|which| signal(waits, which));
        assert_eq!(with_blocked(), 0);
    }

    fn nothing_is_left_of_servers_and_copies_that_are_killed() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (bad, good) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while good.load(Ordering::Relaxed) < 300 {
                        match pkit::run(move_by, (1, 1)) {
                            Ok(sum) => {
                                assert_eq!(sum, 2);
                                good.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(TaskError::Crashed(_) | TaskError::Start(_)) => _ = bad.fetch_add(1, Ordering::Relaxed),
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                });
            }
            for round in 0.. {
                let (there, before) = (children(), good.load(Ordering::Relaxed));
                if before >= 300 {
                    break;
                }
                // Who sleeps waits: a copy has told of itself by then, or its server has.
                if let Some(victim) = there.get(round % there.len().max(1)).filter(|pid| is_asleep(**pid)) {
                    // It may have ended, and then its number is nobody else's as fast as that.
                    let _ = kill(Pid::from_raw(*victim as i32), Raw::SIGKILL);
                }
                eventually("another call has come to a good end", || good.load(Ordering::Relaxed) > before);
            }
        });
        println!("{bad:?} calls ended otherwise");
    }

    #[allow(unsafe_code, reason = "it is a plain fork that is in the way")]
    fn forks_of_the_program_hold_up_no_start() {
        let forks: Vec<i32> = std::thread::scope(|scope| {
            let starter = scope.spawn(|| (0..300).for_each(|n| assert_eq!(pkit::run(move_by, (n, 1)).unwrap(), n + 1)));
            let forks = std::iter::from_fn(|| {
                // SAFETY: the child calls nothing but pause(2).
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    loop {
                        // SAFETY: it takes no argument.
                        unsafe { libc::pause() };
                    }
                }
                std::thread::yield_now();
                (!starter.is_finished()).then_some(pid)
            });
            forks.take(400).collect()
        });
        for fork in forks {
            signal(fork as u32, Raw::SIGKILL);
            nix::sys::wait::waitpid(Pid::from_raw(fork), None).unwrap();
        }
    }

    fn a_preload_meets_the_program_as_it_is() {
        fn say_who(_: ()) -> (Option<u32>, u64) {
            (PRELOADED_BY.get().copied(), nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap().0)
        }
        if role().is_some() {
            assert_eq!(pkit::run(say_who, ()).unwrap().0, None);
            signal_server(Raw::SIGKILL);
            // The server that was killed is another one by then.
            nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
            pkit::preload(|| {
                PRELOADED_BY.set(nix::unistd::geteuid().as_raw()).unwrap();
                nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 1, 1).unwrap();
            }).unwrap();
            say(format!("{:?}", pkit::run(say_who, ()).map_err(|error| error.to_string())));
            stay();
        }
        if !nix::unistd::geteuid().is_root() {
            return skipped("only root can become somebody else");
        }
        let mut program = Program::start("preloads");
        let said = program.line().unwrap();
        // A hard limit that was lowered nobody but root can raise, and that is told.
        assert!(said.contains("limit") || said.starts_with("Ok((Some(65534)"), "{said}");
        assert!(!said.contains("Some(0)"), "{said}");
    }

    fn a_function_is_in_the_group_that_the_program_is_in_by_now() {
        if role().is_some() {
            let group = |_: ()| nix::unistd::getpgrp().as_raw();
            let before = pkit::spawn_with(|process| process.group(Group::Inherit), group, ()).unwrap().wait().unwrap();
            assert_eq!(before, nix::unistd::getpgrp().as_raw());
            nix::unistd::setpgid(Pid::this(), Pid::from_raw(0)).unwrap();
            let after = pkit::spawn_with(|process| process.group(Group::Inherit), group, ()).unwrap().wait().unwrap();
            say(before != after && after == nix::unistd::getpgrp().as_raw());
            stay();
        }
        assert_eq!(Program::start("moves").line().as_deref(), Some("true"));
    }

    #[allow(unsafe_code, reason = "the environment and the signals of the test change between two starts")]
    fn what_has_changed_since_the_copy_was_made_holds() {
        let seen = || printed(Process::builder(Target::function(surroundings, ())));
        let before = seen();
        spare();
        let directory = tempfile::tempdir().unwrap();
        std::env::set_current_dir(directory.path()).unwrap();
        // SAFETY: no other thread of this process uses the environment.
        unsafe { std::env::set_var("SPARE_TEST", "new") };
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o137));
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, hard.min(4096)).unwrap();
        // SAFETY: no handler is installed.
        unsafe { nix::sys::signal::signal(Raw::SIGUSR2, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
        let path = directory.path().canonicalize().unwrap();
        let after = seen();
        assert_ne!(before, after);
        let limit = (0, hard.min(4096));
        assert_eq!(after, format!("{:?}", (path, Some("new"), 0o137, limit, true)));
    }

    fn what_is_preloaded_is_there_in_every_process() {
        let print = || printed(Process::builder(Target::function(table, 7)));
        assert_eq!(print(), "None");
        pkit::preload(build_table).unwrap();
        assert!(TABLE.get().is_none(), "it is the server that has it");
        assert_eq!(print(), "Some(49)");
        let server = signal_server(Raw::SIGKILL);
        eventually("it is gone", || !is_alive(server));
        assert_eq!(print(), "Some(49)", "the next server has it, too");
    }

    #[allow(unsafe_code, reason = "the servers of this test have a variable more")]
    fn a_server_that_is_killed_before_it_is_ready_is_replaced() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // SAFETY: no other thread of this process uses the environment.
        unsafe { std::env::set_var(DYING, file.path()) };
        let dying = |count| std::fs::write(file.path(), vec![0_u8; count]).unwrap();
        dying(2);
        assert_eq!(add(vec![1, 2]), Some(3));
        pkit::testing::end_fork_server();
        dying(2);
        pkit::preload(build_table).unwrap();
        pkit::testing::end_fork_server();
        dying(3);
        let error = Process::new(Target::function(sum, vec![1])).start(true).unwrap_err().to_string();
        assert!(error.contains("it ended before it was ready") && error.contains("SIGKILL"), "{error}");
        assert_eq!(add(vec![1, 2]), Some(3));
    }

    fn a_preload_that_fails_is_told() {
        let error = pkit::preload(|| panic!("no table")).unwrap_err().to_string();
        assert!(error.contains("cannot preload") && error.contains("it panicked"), "{error}");
        fn with_a_thread() {
            std::thread::spawn(|| park(()));
        }
        let error = pkit::preload(with_a_thread).unwrap_err().to_string();
        assert!(error.contains("cannot preload `with_a_thread`") && error.contains("threads"), "{error}");
        let error = pkit::preload(|| std::process::abort()).unwrap_err().to_string();
        assert!(error.contains("ended"), "{error}");
        assert_eq!(add(vec![1, 2]), Some(3));
    }

    #[allow(clippy::zombie_processes, reason = "it is to be there when its parent, the server, is gone")]
    fn a_preload_may_leave_a_program_behind() {
        pkit::preload(|| {
            let program = std::process::Command::new("sleep").arg("600").spawn().unwrap();
            LEFT.set(program.id()).unwrap();
        }).unwrap();
        for program in killed_servers() {
            let open = std::fs::read_dir(format!("/proc/{program}/fd")).unwrap();
            let open: Vec<_> = open.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap()).collect();
            assert!(!open.iter().any(|file| file.to_string_lossy().starts_with("socket:")), "{open:?}");
            signal(program, Raw::SIGKILL);
        }
    }

    fn a_preload_may_leave_a_fork_behind() {
        pkit::preload(|| LEFT.set(leave_fork()).unwrap()).unwrap();
        killed_servers().into_iter().for_each(|fork| signal(fork, Raw::SIGKILL));
    }

    #[allow(unsafe_code, reason = "the server of this test has a variable more")]
    fn a_preload_that_leaves_a_fork_behind_and_ends_the_server_is_told() {
        const FILE: &str = "PKIT_TEST_LEFT";
        let file = tempfile::NamedTempFile::new().unwrap();
        // SAFETY: no other thread of this process uses the environment.
        unsafe { std::env::set_var(FILE, file.path()) };
        let error = pkit::preload(|| {
            std::fs::write(std::env::var_os(FILE).unwrap(), leave_fork().to_string()).unwrap();
            nix::sys::signal::raise(Raw::SIGKILL).unwrap();
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("ended while it ran it"), "{error}");
        assert_eq!(add(vec![1, 2]), Some(3));
        signal(std::fs::read_to_string(file.path()).unwrap().parse().unwrap(), Raw::SIGKILL);
    }

    fn a_preload_that_was_stopped_goes_on() {
        pkit::preload(|| nix::sys::signal::raise(Raw::SIGSTOP).unwrap()).unwrap();
        assert_eq!(add(vec![1, 2]), Some(3));
    }

    fn a_server_that_hung_is_not_asked_again_whatever_it_left() {
        pkit::preload(|| LEFT.set(leave_fork()).unwrap()).unwrap();
        let first = pkit::run(left, ()).unwrap();
        spare();
        let server = signal_server(Raw::SIGSTOP);
        assert_eq!(add(vec![1]), Some(1));
        let error = Process::new(Target::function(sum, vec![1])).start(true).unwrap_err().to_string();
        assert!(error.contains("within 10 s"), "{error}");
        assert_eq!(add(vec![1, 1]), Some(2));
        eventually("the other is gone", || !is_alive(server));
        let second = pkit::run(left, ()).unwrap();
        [first, second].into_iter().for_each(|fork| signal(fork, Raw::SIGKILL));
    }

    fn the_servers_death_costs_nobody() {
        let process = Process::new(Target::function(park, ()));
        let pid = process.start(true).unwrap();
        for _ in 0..20 {
            let server = signal_server(Raw::SIGKILL);
            // By the copy that it had made ahead, and by another server.
            assert_eq!(add(vec![4, 5]), Some(9));
            assert_eq!(add(vec![5, 6]), Some(11));
            eventually("it is gone", || !is_alive(server));
        }
        assert!(is_alive(pid));
        process.kill(true).unwrap();
    }

    fn starts_beside_a_server_that_is_killed_again_and_again() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
        let (done, ran) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut killed = 0;
                while !done.load(Ordering::Relaxed) {
                    if let Some(server) = pkit::testing::fork_server() {
                        let before = ran.load(Ordering::Relaxed);
                        let _ = kill(Pid::from_raw(server as i32), Raw::SIGKILL);
                        killed += 1;
                        // Else the next may be killed before it has done anything, again and again.
                        eventually("another has made one that ran", || {
                            pkit::testing::fork_server() != Some(server) && ran.load(Ordering::Relaxed) > before || done.load(Ordering::Relaxed)
                        });
                    }
                    std::thread::yield_now();
                }
                killed
            });
            let starters: Vec<_> = (0..4).map(|_| scope.spawn(|| {
                let (mut good, mut bad) = (0, 0);
                for _ in 0..50 {
                    let process = Process::new(Target::function(sum, vec![4, 5]));
                    match process.start(true) {
                        Ok(_) => {
                            assert_eq!(process.join().unwrap().code(), Some(9));
                            good += 1;
                            ran.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.to_string().contains("fork server"), "{error}");
                            bad += 1;
                        }
                    }
                }
                (good, bad)
            })).collect();
            let counts: Vec<(u32, u32)> = starters.into_iter().map(|starter| starter.join().unwrap()).collect();
            done.store(true, Ordering::Relaxed);
            assert!(killer.join().unwrap() > 0);
            assert!(counts.iter().all(|(good, bad)| good + bad == 50 && *good > 0), "{counts:?}");
        });
    }

    fn a_server_that_hangs_is_replaced() {
        assert_eq!(add(vec![1]), Some(1));
        // What waits already does not need it.
        spare();
        let server = signal_server(Raw::SIGSTOP);
        assert_eq!(add(vec![1]), Some(1));
        let error = Process::new(Target::function(sum, vec![1])).start(true).unwrap_err().to_string();
        assert!(error.contains("fork server") && error.contains("within 10 s"), "{error}");
        assert_eq!(add(vec![1, 1]), Some(2));
        eventually("the other is gone", || !is_alive(server));
    }

    fn no_function_survives_a_killed_program() {
        if role().is_some() {
            let process = Process::new(Target::function(park, ()));
            // By a thread that ends.
            let pid = std::thread::scope(|scope| scope.spawn(|| process.start(true).unwrap()).join().unwrap());
            say(pid);
            say(pkit::testing::fork_server().unwrap());
            let known = [pid, pkit::testing::fork_server().unwrap()];
            eventually("there is a copy", || children().len() > known.len());
            say(children().into_iter().find(|child| !known.contains(child)).unwrap());
            stay();
        }
        let mut program = Program::start("parent");
        let pids: Vec<u32> = (0..3).map(|_| program.line().unwrap().parse().unwrap()).collect();
        assert!(pids.iter().all(|pid| is_alive(*pid)));
        drop(program);
        eventually("all are gone", || !pids.iter().any(|pid| is_alive(*pid)));
    }

    fn it_starts_beside_many_threads() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let receiver = std::sync::Mutex::new(receiver);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| _ = receiver.lock().unwrap().recv());
            }
            assert_eq!(add(vec![2, 3]), Some(5));
            drop(sender);
        });
        let process = Process::new(Target::function(park, ()));
        process.start(true).unwrap();
        process.terminate(LONG).unwrap();
    }

    fn the_variable_alone_makes_no_server() {
        if role().is_some() {
            say("main");
            stay();
        }
        let own = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(own);
        let output = command.arg("--list").env("PKIT_FORK_SERVER", "3").output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("the_variable_alone"));
    }
}
