//! Workers: processes, and threads, that stay.

mod ends;
mod full;
mod hostile;
mod remote;
mod replaced;

use std::process::id;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_bytes::ByteBuf;

use pkit::{Ready, Resource, Restart, Task, TaskError, Worker};

use crate::support::{LONG, eventually, tests, thread_names};

fn square(n: u64) -> u64 {
    n * n
}

fn pid(_: ()) -> u32 {
    id()
}

fn echo(bytes: ByteBuf) -> ByteBuf {
    bytes
}

/// Until `open` was called in the same worker.
fn gate(_: ()) {
    while !OPEN.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
}

fn open(_: ()) {
    OPEN.store(true, Ordering::Release);
}

static OPEN: AtomicBool = AtomicBool::new(false);

/// Until it is cancelled; then how often it was before, in this worker.
fn until_cancelled(_: ()) {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    while !pkit::cancelled() {
        std::thread::yield_now();
    }
    CANCELLED.fetch_add(1, Ordering::Relaxed);
}

static BEGUN: AtomicU64 = AtomicU64::new(0);
static CANCELLED: AtomicU64 = AtomicU64::new(0);

/// One of each kind.
fn both() -> [Worker; 2] {
    [Worker::new().unwrap(), Worker::thread().unwrap()]
}

tests! {
    fn calls_run_one_after_the_other_in_one_place() {
        static LAST: AtomicU64 = AtomicU64::new(0);
        fn next(n: u64) -> u64 {
            LAST.swap(n, Ordering::Relaxed)
        }
        for worker in both() {
            assert_eq!(worker.invoke(square, 12).unwrap(), 144);
            assert_eq!(worker.invoke(pid, ()).unwrap(), worker.pid().unwrap_or_else(id));
            let tasks: Vec<Task<u64>> = (1..=5_000).map(|n| worker.schedule(next, n).unwrap()).collect();
            assert_eq!(worker.invoke(next, 9_999).unwrap(), 5_000, "after those that were scheduled");
            let before: Vec<u64> = tasks.into_iter().map(|task| task.wait().unwrap()).collect();
            assert_eq!(before, (0..5_000).collect::<Vec<_>>());
            LAST.store(0, Ordering::Relaxed);
        }
    }

    fn what_is_concurrent_does_not_wait_for_the_others() {
        for worker in both() {
            let waits = worker.schedule(gate, ()).unwrap();
            let behind = worker.schedule(square, 3).unwrap();
            let beside: Vec<_> = (0..10).map(|n| worker.concurrent(square, n).unwrap()).collect();
            assert_eq!(beside.into_iter().map(|task| task.wait().unwrap()).sum::<u64>(), 285);
            assert!(!waits.is_done() && !behind.is_done());
            worker.concurrent(open, ()).unwrap().wait().unwrap();
            waits.wait().unwrap();
            assert_eq!(behind.wait().unwrap(), 9);
            OPEN.store(false, Ordering::Release);
        }
    }

    fn many_threads_share_one() {
        for worker in both() {
            std::thread::scope(|scope| {
                for thread in 0..8_u64 {
                    let worker = &worker;
                    scope.spawn(move || {
                        for n in 0..300 {
                            let n = thread * 1_000 + n;
                            let later = worker.schedule(square, n + 1).unwrap();
                            let beside = (n % 50 == 0).then(|| worker.concurrent(square, n + 2).unwrap());
                            assert_eq!(worker.invoke(square, n).unwrap(), n * n);
                            assert_eq!(later.wait().unwrap(), (n + 1) * (n + 1));
                            assert_eq!(beside.map_or(0, |task| task.wait().unwrap()), if n % 50 == 0 { (n + 2) * (n + 2) } else { 0 });
                        }
                    });
                }
            });
        }
    }

    fn values_of_all_sizes_go_there_and_come_back() {
        for worker in both() {
            for size in [0, 1, 60_000, 65_520, 65_536, 70_000, 200_000, 1 << 20, 32 << 20] {
                let bytes: ByteBuf = (0..=255).cycle().take(size).collect::<Vec<u8>>().into();
                assert!(worker.invoke(echo, bytes.clone()).unwrap() == bytes, "{size}");
                assert!(worker.concurrent(echo, bytes.clone()).unwrap().wait().unwrap() == bytes, "{size}");
            }
        }
    }

    fn many_large_values_are_on_their_way_at_once() {
        for worker in both() {
            let tasks: Vec<_> = (0..200_u8).map(|n| worker.schedule(echo, vec![n; 100_000].into()).unwrap()).collect();
            let beside: Vec<_> = (0..40_u8).map(|n| worker.concurrent(echo, vec![n; 100_000].into()).unwrap()).collect();
            for (n, task) in tasks.into_iter().enumerate() {
                assert!(task.wait().unwrap().iter().all(|byte| *byte == n as u8));
            }
            for (n, task) in beside.into_iter().enumerate() {
                assert!(task.wait().unwrap().iter().all(|byte| *byte == n as u8));
            }
        }
    }

    fn a_hundred_thousand_can_be_queued() {
        for worker in both() {
            let waits = worker.schedule(gate, ()).unwrap();
            let tasks: Vec<_> = (0..100_000).map(|n| worker.schedule(square, n).unwrap()).collect();
            worker.concurrent(open, ()).unwrap().wait().unwrap();
            waits.wait().unwrap();
            assert!(tasks.into_iter().enumerate().all(|(n, task)| task.wait().unwrap() == (n * n) as u64));
            OPEN.store(false, Ordering::Release);
        }
    }

    fn a_panic_ends_the_call_and_not_the_worker() {
        for worker in both() {
            let home = worker.invoke(pid, ()).unwrap();
            let error = worker.invoke(|n: u32| -> u32 { panic!("{n} is too many") }, 3).unwrap_err();
            let TaskError::Panicked { message, location, .. } = error else { panic!("{error:?}") };
            assert_eq!(message, "3 is too many");
            assert!(location.unwrap().starts_with(file!()));
            let beside = worker.concurrent(|()| -> () { panic!("beside") }, ()).unwrap().wait().unwrap_err();
            assert!(matches!(beside, TaskError::Panicked { message, .. } if message == "beside"));
            let held = worker.hold(|()| -> u8 { panic!("held") }, ()).unwrap_err();
            assert!(matches!(held, TaskError::Panicked { message, .. } if message == "held"));
            assert_eq!(worker.invoke(pid, ()).unwrap(), home);
            fn caught(_: ()) {
                let _ = std::panic::catch_unwind(|| panic!("a secret"));
            }
            worker.invoke(caught, ()).unwrap();
            let resumed = worker.invoke(|()| -> () { std::panic::resume_unwind(Box::new("again")) }, ()).unwrap_err();
            assert!(matches!(resumed, TaskError::Panicked { message, location: None, .. } if message == "again"));
        }
    }

    fn a_cancelled_call_is_told_at_once() {
        for worker in both() {
            let (begun, before) = (BEGUN.load(Ordering::Relaxed), CANCELLED.load(Ordering::Relaxed));
            let runs = worker.schedule(until_cancelled, ()).unwrap();
            let waits = worker.schedule(until_cancelled, ()).unwrap();
            let beside = worker.concurrent(until_cancelled, ()).unwrap();
            let seen = |()| BEGUN.load(Ordering::Relaxed);
            eventually("both run", || worker.concurrent(seen, ()).unwrap().wait().unwrap() == begun + 2);
            waits.cancel();
            assert!(matches!(waits.wait(), Err(TaskError::Cancelled)), "it has not even begun");
            runs.cancel();
            beside.cancel();
            assert!(matches!(runs.wait(), Err(TaskError::Cancelled)));
            assert!(matches!(beside.wait(), Err(TaskError::Cancelled)));
            let seen = |()| CANCELLED.load(Ordering::Relaxed);
            eventually("both have seen it", || worker.invoke(seen, ()).unwrap() == before + 2);
            assert!(!worker.invoke(|()| pkit::cancelled(), ()).unwrap(), "the next is not");
            let done = worker.schedule(square, 3).unwrap();
            worker.invoke(square, 1).unwrap();
            done.cancel();
            assert_eq!(done.wait().unwrap(), 9, "its value was there before");
        }
        assert!(!pkit::cancelled());
    }

    fn who_waits_no_longer_may_wait_again() {
        for worker in both() {
            let mut task = worker.schedule(gate, ()).unwrap();
            assert!(matches!(task.wait_timeout(Duration::from_millis(10)), Err(TaskError::TimedOut)));
            assert!(!task.is_done());
            worker.concurrent(open, ()).unwrap().wait().unwrap();
            task.wait_timeout(LONG).unwrap();
            assert!(task.is_done());
            OPEN.store(false, Ordering::Release);
        }
    }

    fn a_task_is_a_future_and_costs_no_thread() {
        for worker in both() {
            let waits = worker.schedule(gate, ()).unwrap();
            let tasks: Vec<_> = (0..1_000).map(|n| worker.schedule(square, n).unwrap()).collect();
            let threads = thread_names();
            // The reaper, two spawners and a callback thread, the worker, this one and the harness's.
            assert!(threads.len() <= 9, "{threads:?}");
            let opened = worker.concurrent(open, ()).unwrap();
            let sum = async {
                opened.await.unwrap();
                let mut sum = 0;
                for task in tasks {
                    sum += task.await.unwrap();
                }
                sum
            };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert_eq!(runtime.block_on(sum), 332_833_500);
            smol::future::block_on(waits).unwrap();
            OPEN.store(false, Ordering::Release);
        }
    }

    fn what_is_to_be_done_at_the_end_is() {
        for worker in both() {
            let (sender, receiver) = mpsc::channel();
            for n in 1..=50 {
                let sender = sender.clone();
                worker.schedule(square, n).unwrap().on_done(move |value| sender.send(value.unwrap()).unwrap());
            }
            let mut squares: Vec<u64> = (0..50).map(|_| receiver.recv_timeout(LONG).unwrap()).collect();
            squares.sort_unstable();
            assert_eq!(squares, (1..=50).map(|n| n * n).collect::<Vec<_>>());
            let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
            drop(worker.schedule(|path: std::path::PathBuf| std::fs::write(path, "done").unwrap(), path.to_path_buf()).unwrap());
            eventually("a dropped one goes on", || std::fs::read_to_string(&path).is_ok_and(|text| text == "done"));
        }
    }

    fn options_hold_for_its_process() {
        let worker = Worker::builder()
            .process(|process| {
                process.name("limited").env("WORKER", "yes").current_dir("/").umask(0o027).rlimit(Resource::OpenFiles, 99, 99)
            })
            .build()
            .unwrap();
        assert_eq!(worker.name(), "limited");
        type Seen = (Option<String>, std::path::PathBuf, u64);
        let seen: Seen = worker.invoke(
            |()| {
                let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
                (std::env::var("WORKER").ok(), std::env::current_dir().unwrap(), limit.0)
            },
            (),
        ).unwrap();
        assert_eq!(seen, (Some("yes".to_owned()), "/".into(), 99));
        let wrong = Worker::builder().process(|process| process.current_dir("/nowhere")).build().unwrap_err();
        assert!(matches!(&wrong, TaskError::Start(error) if error.to_string().contains("/nowhere")), "{wrong:?}");
        let wrong = Worker::builder().process(|process| process.restart(Restart::always())).build().unwrap_err();
        assert!(matches!(&wrong, TaskError::Start(error) if error.to_string().contains("restart policy")), "{wrong:?}");
    }

    fn the_setup_runs_first_in_each_process() {
        static SET: AtomicU64 = AtomicU64::new(0);
        fn get(_: ()) -> (u64, u32) {
            (SET.load(Ordering::Relaxed), id())
        }
        let worker = Worker::builder().setup(|n: u64| SET.store(n, Ordering::Relaxed), 7).task_limit(3).build().unwrap();
        let seen: Vec<_> = (0..9).map(|_| worker.schedule(get, ()).unwrap()).collect();
        let seen: Vec<(u64, u32)> = seen.into_iter().map(|task| task.wait().unwrap()).collect();
        assert!(seen.iter().all(|(set, _)| *set == 7), "{seen:?}");
        let pids: Vec<u32> = seen.iter().map(|(_, pid)| *pid).collect();
        assert!(pids.chunks(3).all(|pids| pids.iter().all(|pid| *pid == pids[0])), "{pids:?}");
        assert!(pids[0] != pids[3] && pids[3] != pids[6] && pids[0] != pids[6], "{pids:?}");
        let failed = Worker::builder().setup(|()| -> () { panic!("not set up") }, ()).build().unwrap_err();
        assert!(matches!(failed, TaskError::Panicked { message, .. } if message == "not set up"));
    }

    fn its_setup_may_say_that_it_is_ready() {
        let within = |limit| Worker::builder().process(move |process| process.ready(Ready::notify()).ready_within(limit));
        let worker = within(LONG).setup(|()| pkit::ready().unwrap(), ()).task_limit(2).build().unwrap();
        let tasks: Vec<_> = (0..6).map(|n| worker.schedule(square, n).unwrap()).collect();
        let squares: Vec<u64> = tasks.into_iter().map(|task| task.wait().unwrap()).collect();
        assert_eq!(squares, [0, 1, 4, 9, 16, 25]);
        // What went wrong first is told.
        let error = within(LONG).setup(|()| -> () { panic!("not set up") }, ()).build().unwrap_err();
        assert!(matches!(&error, TaskError::Panicked { message, .. } if message == "not set up"), "{error:?}");
        let limit = Duration::from_millis(50);
        for silent in [within(limit).setup(|()| (), ()), within(limit).setup(crate::functions::park, ()), within(limit)] {
            let error = silent.build().unwrap_err();
            assert!(matches!(&error, TaskError::Start(error) if error.is_not_ready()), "{error:?}");
        }
    }

    fn one_that_takes_over_waits_for_the_last_call_of_the_one_before() {
        static PLACE: &str = "taken-over";
        fn add((path, n): (std::path::PathBuf, u64)) {
            use std::io::Write;
            writeln!(std::fs::File::options().append(true).create(true).open(path).unwrap(), "{n}").unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(PLACE);
        let worker = Worker::builder().task_limit(2).build().unwrap();
        let tasks: Vec<_> = (0..20).map(|n| worker.schedule(add, (path.clone(), n)).unwrap()).collect();
        tasks.into_iter().for_each(|task| task.wait().unwrap());
        let lines: Vec<u64> = std::fs::read_to_string(path).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(lines, (0..20).collect::<Vec<_>>());
    }

    fn workers_have_workers() {
        fn three_deep(n: u64) -> u64 {
            if n == 0 {
                let shell = pkit::Process::new(crate::support::sh("exit 5"));
                shell.start(true).unwrap();
                return shell.join().unwrap().code().unwrap() as u64;
            }
            let worker = if n == 2 { Worker::thread() } else { Worker::new() }.unwrap();
            worker.invoke(three_deep, n - 1).unwrap() + pkit::run(square, n).unwrap()
        }
        let worker = Worker::new().unwrap();
        assert_eq!(worker.invoke(three_deep, 3).unwrap(), 5 + 1 + 4 + 9);
    }

    fn who_prints_a_lot_or_has_no_stdout_gives_its_value_all_the_same() {
        let worker = Worker::builder().process(|process| process.capture(1_000)).build().unwrap();
        fn print(n: usize) -> usize {
            for _ in 0..n {
                println!("{}", "x".repeat(99));
            }
            n
        }
        assert_eq!(worker.invoke(print, 10_000).unwrap(), 10_000);
        fn close(_: ()) {
            for stream in 0..3 {
                nix::unistd::close(stream).unwrap();
            }
        }
        worker.invoke(close, ()).unwrap();
        assert_eq!(worker.invoke(square, 3).unwrap(), 9);
    }
}
