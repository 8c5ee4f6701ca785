//! Where there is no room: for descriptors, for files on their way, for whoever has to wait.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pkit::{Process, Task, TaskError, Worker};
use serde_bytes::ByteBuf;

use super::{OPEN, both, gate, open, square, until_cancelled};
use crate::support::{LONG, children, eventually, is_alive, is_root, limited, sh, skipped, tests, thread_names};

const LARGE: usize = 100_000;

fn first(bytes: ByteBuf) -> u8 {
    bytes[0]
}

fn fill(byte: u8) -> ByteBuf {
    vec![byte; LARGE].into()
}

/// No descriptor is free in the worker until `free` was called.
fn use_up(_: ()) {
    let all = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    setrlimit(Resource::RLIMIT_NOFILE, 0, all).unwrap();
}

fn free(_: ()) {
    let all = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    setrlimit(Resource::RLIMIT_NOFILE, all, all).unwrap();
}

static CROWD: Mutex<Option<(UnixStream, UnixStream)>> = Mutex::new(None);

/// As many descriptors of this user are on their way as may be, until `disperse` was called.
fn crowd(_: ()) {
    let ends = UnixStream::pair().unwrap();
    let many = [ends.0.as_raw_fd(); 10];
    let send = || {
        sendmsg::<()>(
            ends.0.as_raw_fd(),
            &[IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&many)],
            MsgFlags::MSG_DONTWAIT,
            None,
        )
    };
    while send().inspect_err(|error| assert_eq!(*error, Errno::ETOOMANYREFS)).is_ok() {}
    *CROWD.lock().unwrap() = Some(ends);
}

fn disperse(_: ()) {
    CROWD.lock().unwrap().take();
}

/// Polls a task with a waker that holds up its thread until the sender was used; the receiver gets to know whether it was.
fn poll_with_one_that_waits(task: &mut Task<()>) -> (mpsc::Sender<()>, mpsc::Receiver<bool>) {
    struct Waits(mpsc::Sender<bool>, Mutex<mpsc::Receiver<()>>);
    impl Wake for Waits {
        fn wake(self: Arc<Self>) {
            let is_free = self.1.lock().unwrap().recv_timeout(LONG).is_ok();
            let _ = self.0.send(is_free);
        }
    }
    let ((told, is_told), (free, is_free)) = (mpsc::channel(), mpsc::channel());
    let waker = Arc::new(Waits(told, is_free.into())).into();
    assert!(Pin::new(task).poll(&mut Context::from_waker(&waker)).is_pending());
    (free, is_told)
}

fn until_cancelled_with(_: ByteBuf) {
    until_cancelled(());
}

tests! {
    fn an_argument_that_is_lost_is_that_of_one_call() {
        let worker = Worker::new().unwrap();
        worker.invoke(use_up, ()).unwrap();
        let lost = [worker.concurrent(first, fill(1)), worker.schedule(first, fill(2))].map(|task| task.unwrap().wait());
        assert!(lost.iter().all(|lost| matches!(lost, Err(TaskError::Codec(_)))), "{lost:?}");
        worker.invoke(free, ()).unwrap();
        for byte in 3..20 {
            assert_eq!(worker.invoke(first, fill(byte)).unwrap(), byte);
            assert_eq!(worker.concurrent(first, fill(byte)).unwrap().wait().unwrap(), byte);
        }
    }

    fn a_value_that_is_lost_is_that_of_one_call() {
        let worker = Worker::new().unwrap();
        worker.invoke(fill, 1).unwrap();
        let free = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let (mut values, mut lost) = (0, 0);
        limited(Resource::RLIMIT_NOFILE, free + 1, || {
            for _ in 0..10 {
                let tasks: Vec<_> = (0..50).map(|byte| worker.schedule(fill, byte).unwrap()).collect();
                for (byte, task) in tasks.into_iter().enumerate() {
                    match task.wait() {
                        Ok(bytes) => {
                            assert_eq!(usize::from(bytes[0]), byte);
                            values += 1;
                        }
                        Err(TaskError::Codec(_)) => lost += 1,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        });
        assert!(values > 0, "{lost} were lost");
        assert_eq!(worker.invoke(fill, 7).unwrap()[0], 7);
    }

    fn large_values_wait_until_somebody_has_time() {
        let worker = Worker::new().unwrap();
        let (go, goes) = mpsc::channel::<()>();
        // On a thread that reads the answers: nobody reads them while it is held up.
        let (held, is_held) = mpsc::channel();
        worker.schedule(square, 1).unwrap().on_done(move |_| {
            held.send(()).unwrap();
            goes.recv().unwrap();
        });
        is_held.recv_timeout(LONG).unwrap();
        let tasks: Vec<_> = (0..200).map(|byte| worker.schedule(fill, byte).unwrap()).collect();
        worker.concurrent(square, 2).unwrap().wait().unwrap();
        go.send(()).unwrap();
        for (byte, task) in tasks.into_iter().enumerate() {
            assert_eq!(usize::from(task.wait().unwrap()[0]), byte);
        }
    }

    fn large_arguments_of_those_that_go_on_hold_up_nobody() {
        let worker = Worker::new().unwrap();
        let tasks: Vec<_> = (0..20).map(|byte| worker.concurrent(until_cancelled_with, fill(byte)).unwrap()).collect();
        assert_eq!(worker.concurrent(square, 3).unwrap().wait().unwrap(), 9);
        let seen = |()| super::BEGUN.load(std::sync::atomic::Ordering::Relaxed);
        eventually("all run", || worker.invoke(seen, ()).unwrap() == 20);
        tasks.iter().for_each(Task::cancel);
        worker.close();
        assert!(tasks.into_iter().all(|task| matches!(task.wait(), Err(TaskError::Cancelled))));
    }

    fn what_was_begun_beside_is_finished_by_close() {
        for _ in 0..50 {
            let worker = Worker::new().unwrap();
            let tasks: Vec<_> = (0..5).map(|n| worker.concurrent(square, n).unwrap()).collect();
            let cancelled = worker.concurrent(square, 9).unwrap();
            cancelled.cancel();
            worker.close();
            assert!(tasks.into_iter().enumerate().all(|(n, task)| task.wait().unwrap() == (n * n) as u64));
            let _ = cancelled.wait();
        }
    }

    fn a_limit_ends_no_call_of_many_threads() {
        let worker = Worker::builder().task_limit(3).build().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..6_u64 {
                let worker = &worker;
                scope.spawn(move || {
                    for n in 0..60 {
                        assert_eq!(worker.schedule(square, n).unwrap().wait().unwrap(), n * n);
                        assert_eq!(worker.concurrent(first, fill(thread as u8)).unwrap().wait().unwrap(), thread as u8);
                        worker.schedule(square, n).unwrap().cancel();
                    }
                });
            }
        });
    }

    fn one_that_was_replaced_and_hangs_is_stopped_as_well() {
        for terminate in [true, false] {
            let worker = Worker::builder().task_limit(1).build().unwrap();
            let hangs = worker.schedule(crate::functions::park, ()).unwrap();
            let before = worker.pid().unwrap();
            let next = worker.schedule(square, 2).unwrap();
            if terminate {
                worker.terminate();
                assert!(!is_alive(before));
            }
            drop(worker);
            assert!(matches!((hangs.wait(), next.wait()), (Err(TaskError::Cancelled), Err(TaskError::Cancelled))));
            eventually("it is gone", || !is_alive(before));
        }
    }

    fn a_setup_that_hangs_holds_up_nobody_who_stops_it() {
        fn hang_again(path: std::path::PathBuf) {
            if path.exists() {
                crate::functions::park(());
            }
            std::fs::write(path, "").unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let worker = Worker::builder().setup(hang_again, directory.path().join("been here")).task_limit(1).build().unwrap();
        assert_eq!(worker.invoke(square, 2).unwrap(), 4);
        let mut waits = worker.schedule(square, 3).unwrap();
        assert!(matches!(waits.wait_timeout(Duration::from_millis(5)), Err(TaskError::TimedOut)));
        eventually("the next process is there", || worker.pid().is_some());
        worker.terminate();
        assert!(matches!(waits.wait_timeout(LONG), Err(TaskError::Cancelled)));
    }

    fn a_setup_that_fails_leaves_nothing() {
        fn fails(_: ()) -> Result<(), String> {
            Err("no file".to_owned())
        }
        for _ in 0..5 {
            let error = Worker::builder().setup(fails, ()).build().unwrap_err();
            assert!(matches!(&error, TaskError::Panicked { message, .. } if message.contains("setup")), "{error:?}");
            #[derive(serde::Deserialize)]
            struct Refuses;
            impl serde::Serialize for Refuses {
                fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                    Err(serde::ser::Error::custom("no"))
                }
            }
            let error = Worker::builder().setup(|_: Refuses| (), Refuses).build().unwrap_err();
            assert!(matches!(error, TaskError::Codec(_)), "{error:?}");
        }
        pkit::testing::end_fork_server();
        eventually("all are gone", || children().is_empty());
    }

    fn a_busy_one_has_its_grace() {
        fn clean_up(path: std::path::PathBuf) {
            let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]).unwrap();
            std::fs::write(&path, "begun").unwrap();
            signals.forever().next();
            std::fs::write(path, "clean").unwrap();
            std::process::exit(0);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let worker = Worker::new().unwrap();
        let state = || std::fs::read_to_string(&path).unwrap_or_default();
        let cleans = worker.concurrent(clean_up, path.clone()).unwrap();
        let busy: Vec<_> = (0..20).map(|n| worker.schedule(square, n).unwrap()).collect();
        eventually("it has begun", || state() == "begun");
        worker.terminate();
        assert_eq!(state(), "clean");
        drop((cleans, busy));
    }

    fn a_value_waits_until_it_can_be_sent() {
        if !is_root() {
            skipped("only root may become another user");
            return;
        }
        let user = 2_000_000 + std::process::id();
        let options = |process: pkit::Builder| process.uid(user).gid(user).rlimit(pkit::Resource::OpenFiles, 30, 30);
        let worker = Worker::builder().process(options).build().unwrap();
        worker.invoke(crowd, ()).unwrap();
        let [mut one, two] = [1, 2].map(|byte| worker.schedule(fill, byte).unwrap());
        let there = worker.concurrent(fill, 3).unwrap();
        assert!(matches!(one.wait_timeout(Duration::from_millis(20)), Err(TaskError::TimedOut)));
        let dispersed = worker.concurrent(disperse, ()).unwrap();
        assert_eq!([one, two, there].map(|task| task.wait().unwrap()[0]), [1, 2, 3]);
        dispersed.wait().unwrap();
    }

    fn all_end_when_nobody_waits_any_more() {
        const CALLS: usize = 20_000;
        let worker = Worker::new().unwrap();
        for round in 0..6 {
            let mut tasks: Vec<_> = (0..CALLS).map(|n| worker.schedule(square, n as u64).unwrap()).collect();
            // Who waits reads for the others, and leaves in the middle.
            tasks.swap_remove(round * 7919 % CALLS).wait().unwrap();
            eventually("all have ended", || {
                while tasks.pop_if(|task| task.is_done()).is_some() {}
                tasks.is_empty()
            });
        }
    }

    fn many_ends_at_once_share_some_threads() {
        const CALLS: u64 = 2_000;
        let worker = Worker::new().unwrap();
        worker.schedule(gate, ()).unwrap().on_done(drop);
        let (sender, threads) = mpsc::channel();
        for n in 0..CALLS {
            let sender = sender.clone();
            worker.schedule(square, n).unwrap().on_done(move |value| {
                assert_eq!(value.unwrap(), n * n);
                let count = || thread_names().iter().filter(|name| *name == "pkit-callback").count();
                sender.send((n % 50 == 0).then(count)).unwrap();
            });
        }
        worker.concurrent(open, ()).unwrap().wait().unwrap();
        let most = (0..CALLS).filter_map(|_| threads.recv_timeout(LONG).unwrap()).max();
        // One more for each 100 ms in which all of them are held up.
        assert!(most.is_some_and(|most| most <= 64), "{most:?} threads");
    }

    fn a_waker_that_blocks_holds_up_nobody_else() {
        struct Blocks(mpsc::SyncSender<()>, Mutex<mpsc::Receiver<()>>);
        impl Wake for Blocks {
            fn wake(self: Arc<Self>) {
                self.0.send(()).unwrap();
                let _ = self.1.lock().unwrap().recv();
            }
        }
        let worker = Worker::new().unwrap();
        let mut waits = worker.schedule(gate, ()).unwrap();
        let ((woken, is_woken), (end, ends)) = (mpsc::sync_channel(1), mpsc::channel());
        let waker = Arc::new(Blocks(woken, ends.into())).into();
        let polled = Pin::new(&mut waits).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        drop(worker.concurrent(open, ()).unwrap());
        is_woken.recv_timeout(LONG).unwrap();
        let other = Process::new(sh("exit 3"));
        other.start(true).unwrap();
        assert_eq!(other.join_timeout(LONG).unwrap().unwrap().code(), Some(3));
        assert_eq!(worker.invoke(square, 2).unwrap(), 4);
        drop(end);
    }

    fn a_waker_that_wants_what_somebody_has_does_not_run_on_his_thread() {
        for worker in both() {
            let mut waits = worker.schedule(gate, ()).unwrap();
            let (free, is_told) = poll_with_one_that_waits(&mut waits);
            let opened = worker.concurrent(open, ()).unwrap();
            assert_eq!(worker.invoke(square, 2).unwrap(), 4, "it comes after that one");
            opened.wait().unwrap();
            free.send(()).unwrap();
            assert!(is_told.recv_timeout(LONG).unwrap(), "who waited was held up");
            OPEN.store(false, std::sync::atomic::Ordering::Release);

            let mut cancelled = worker.schedule(until_cancelled, ()).unwrap();
            let (free, is_told) = poll_with_one_that_waits(&mut cancelled);
            cancelled.cancel();
            assert_eq!(worker.invoke(square, 3).unwrap(), 9);
            free.send(()).unwrap();
            assert!(is_told.recv_timeout(LONG).unwrap(), "who cancelled was held up");

            let mut stopped = worker.schedule(until_cancelled, ()).unwrap();
            let (free, is_told) = poll_with_one_that_waits(&mut stopped);
            worker.terminate();
            free.send(()).unwrap();
            assert!(is_told.recv_timeout(LONG).unwrap(), "who stopped it was held up");
        }
    }

    fn large_arguments_that_wait_take_descriptors_of_a_process_alone() {
        for worker in both() {
            let waits = worker.schedule(gate, ()).unwrap();
            worker.concurrent(first, fill(1)).unwrap().wait().unwrap();
            let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            let queued = limited(Resource::RLIMIT_NOFILE, used + 20, || {
                (0..100).map(|byte| worker.schedule(first, fill(byte))).collect::<Vec<_>>()
            });
            assert!(queued.iter().flatten().all(|task| !task.is_done()));
            worker.concurrent(open, ()).unwrap().wait().unwrap();
            waits.wait().unwrap();
            let ends: Vec<_> = queued.into_iter().map(|task| task.and_then(Task::wait)).collect();
            match worker.pid() {
                None => assert_eq!(ends.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>()),
                Some(_) => {
                    let values = ends.iter().flatten().count();
                    assert!(ends.iter().take(values).enumerate().all(|(n, end)| *end.as_ref().unwrap() as usize == n));
                    assert!(ends.iter().skip(values).all(|end| matches!(end, Err(TaskError::Codec(why)) if why.contains("open files"))));
                    assert!(values >= 19, "{values}");
                }
            }
            OPEN.store(false, std::sync::atomic::Ordering::Release);
        }
    }
}
