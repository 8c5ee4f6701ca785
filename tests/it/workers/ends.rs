//! How a worker ends, and what becomes of who waits.

use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{ExitReason, Signal, Task, TaskError, Worker};

use super::{OPEN, both, gate, open, pid, square, until_cancelled};
use crate::functions::park;
use crate::support::{LONG, children, eventually, is_alive, open_descriptors, settle, tests, thread_names};

fn write(path: std::path::PathBuf) {
    std::fs::write(path, "done").unwrap();
}

fn die(_: ()) {
    kill(Pid::this(), Raw::SIGKILL).unwrap();
}

fn is_closed(error: &TaskError) -> bool {
    matches!(error, TaskError::Start(error) if error.is_closed())
}

tests! {
    fn a_crash_is_told_to_all_who_wait_and_the_next_call_is_done() {
        fn crash(how: String) {
            match &*how {
                "abort" => std::process::abort(),
                "exit" => std::process::exit(3),
                "segfault" => {
                    // SAFETY: there is nothing safe about it; the kernel ends this process.
                    #[allow(unsafe_code)]
                    unsafe {
                        std::ptr::with_exposed_provenance_mut::<u8>(8).write_volatile(1);
                    }
                }
                _ => kill(Pid::this(), Raw::SIGKILL).unwrap(),
            }
        }
        let worker = Worker::new().unwrap();
        for (how, reason) in [
            ("abort", ExitReason::Signaled(Signal::ABRT)),
            ("exit", ExitReason::Exited(3)),
            ("segfault", ExitReason::Signaled(Signal::SEGV)),
            ("kill", ExitReason::Signaled(Signal::KILL)),
        ] {
            let before = worker.schedule(square, 2).unwrap();
            let beside = worker.concurrent(park, ()).unwrap();
            let waits = worker.schedule(gate, ()).unwrap();
            let crashes = worker.schedule(crash, how.to_owned()).unwrap();
            let behind: Vec<_> = (0..100).map(|n| worker.schedule(square, n).unwrap()).collect();
            // (It may be gone before that has said that it is done.)
            let _ = worker.concurrent(open, ()).unwrap().wait();
            assert_eq!((before.wait().unwrap(), waits.wait().unwrap()), (4, ()), "they were done");
            for error in behind.into_iter().map(|task| task.wait().unwrap_err()).chain([beside.wait().unwrap_err(), crashes.wait().unwrap_err()]) {
                assert!(matches!(error, TaskError::Crashed(exit) if exit.reason() == reason), "{how}");
            }
            assert_eq!(worker.invoke(square, 3).unwrap(), 9, "by a new one");
        }
    }

    fn a_callback_of_its_end_holds_up_nobody_who_waits() {
        let (free, is_free) = mpsc::channel::<()>();
        let is_free = Mutex::new(is_free);
        let waits = move |_: &_, _: &_| _ = is_free.lock().unwrap().recv();
        let worker = Worker::builder().process(|process| process.on_exit(waits)).build().unwrap();
        let mut dies = worker.schedule(die, ()).unwrap();
        assert!(matches!(dies.wait_timeout(LONG), Err(TaskError::Crashed(_))));
        assert_eq!(worker.invoke(square, 3).unwrap(), 9);
        drop(free);
        worker.close();
    }

    fn a_callback_of_its_end_may_use_the_next_one() {
        let this = Arc::new(OnceLock::<Weak<Worker>>::new());
        let (told, is_told) = mpsc::channel();
        let uses = {
            let this = Arc::clone(&this);
            move |_: &_, _: &_| {
                let worker = this.get().and_then(Weak::upgrade);
                let _ = told.send(worker.map(|worker| worker.invoke(square, 4)));
            }
        };
        let worker = Arc::new(Worker::builder().process(|process| process.on_exit(uses)).build().unwrap());
        this.set(Arc::downgrade(&worker)).unwrap();
        for _ in 0..20 {
            let mut dies = worker.schedule(die, ()).unwrap();
            assert!(matches!(dies.wait_timeout(LONG), Err(TaskError::Crashed(_))));
            assert_eq!(is_told.recv_timeout(LONG).unwrap().unwrap().unwrap(), 16);
        }
        worker.terminate();
    }

    fn killed_with_large_arguments_on_their_way_nothing_stays() {
        fn length(bytes: serde_bytes::ByteBuf) -> usize {
            bytes.len()
        }
        let rings = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("pkit-ring").count();
        for _ in 0..5 {
            let worker = Worker::new().unwrap();
            let busy = worker.schedule(gate, ()).unwrap();
            let large = || serde_bytes::ByteBuf::from(vec![1; 100_000]);
            let waiting = [(); 20].map(|()| worker.schedule(length, large()).unwrap());
            kill(Pid::from_raw(worker.pid().unwrap() as i32), Raw::SIGKILL).unwrap();
            for task in waiting {
                assert!(matches!(task.wait(), Err(TaskError::Crashed(_))));
            }
            drop(busy);
            worker.terminate();
        }
        eventually("nothing of them is mapped", || rings() == 0);
    }

    fn closed_it_finishes_what_is_queued() {
        for worker in both() {
            let tasks: Vec<Task<u64>> = (0..1_000).map(|n| worker.schedule(square, n).unwrap()).collect();
            let waits = worker.concurrent(gate, ()).unwrap();
            let opens = worker.schedule(open, ()).unwrap();
            worker.close();
            assert!(tasks.iter().all(Task::is_done) && waits.is_done() && opens.is_done());
            assert_eq!(tasks.into_iter().map(|task| task.wait().unwrap()).sum::<u64>(), 332_833_500);
            waits.wait().unwrap();
            opens.wait().unwrap();
            assert!(is_closed(&worker.invoke(square, 1).unwrap_err()));
            assert!(is_closed(&worker.hold(square, 1).unwrap_err()));
            assert_eq!(worker.pid(), None);
            worker.close();
            worker.terminate();
            OPEN.store(false, std::sync::atomic::Ordering::Release);
        }
    }

    fn dropped_or_terminated_it_finishes_nothing() {
        for terminate in [false, true] {
            for worker in both() {
                let (runs, waits) = (worker.schedule(until_cancelled, ()).unwrap(), worker.schedule(square, 2).unwrap());
                let home = worker.pid();
                if terminate {
                    worker.terminate();
                    assert!(is_closed(&worker.invoke(square, 1).unwrap_err()));
                    assert!(!home.is_some_and(is_alive));
                } else {
                    drop(worker);
                }
                assert!(matches!(runs.wait(), Err(TaskError::Cancelled)));
                assert!(matches!(waits.wait(), Err(TaskError::Cancelled)));
                eventually("it is gone", || !home.is_some_and(is_alive));
            }
        }
    }

    fn detached_it_finishes_what_is_queued_and_ends() {
        for worker in both() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            let home = worker.pid();
            let waits = worker.schedule(gate, ()).unwrap();
            let opens = worker.concurrent(open, ()).unwrap();
            drop(worker.schedule(write, path.clone()).unwrap());
            worker.detach();
            eventually("it was written", || std::fs::read_to_string(&path).is_ok_and(|text| text == "done"));
            waits.wait().unwrap();
            opens.wait().unwrap();
            eventually("it has ended", || !home.is_some_and(is_alive));
            OPEN.store(false, std::sync::atomic::Ordering::Release);
        }
    }

    fn a_stopped_one_holds_up_nobody_who_does_not_wait() {
        let worker = Worker::new().unwrap();
        let home = Pid::from_raw(worker.pid().unwrap() as i32);
        kill(home, Raw::SIGSTOP).unwrap();
        let tasks: Vec<_> = (0..50_000).map(|n| worker.schedule(square, n).unwrap()).collect();
        let large: Vec<_> = (0..50).map(|n| worker.schedule(|bytes: Vec<u8>| bytes.len(), vec![1; 70_000 + n]).unwrap()).collect();
        let mut beside = worker.concurrent(square, 3).unwrap();
        assert!(matches!(beside.wait_timeout(Duration::from_millis(5)), Err(TaskError::TimedOut)));
        let given_up = worker.schedule(square, 4).unwrap();
        given_up.cancel();
        assert!(matches!(given_up.wait(), Err(TaskError::Cancelled)));
        kill(home, Raw::SIGCONT).unwrap();
        assert_eq!(beside.wait().unwrap(), 9);
        assert!(tasks.into_iter().enumerate().all(|(n, task)| task.wait().unwrap() == (n * n) as u64));
        assert!(large.into_iter().enumerate().all(|(n, task)| task.wait().unwrap() == 70_000 + n));
    }

    fn a_thousand_kills_leave_no_task_waiting() {
        let worker = Worker::new().unwrap();
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            for thread in 0..4_u64 {
                let (worker, done) = (&worker, done.clone());
                scope.spawn(move || {
                    let (mut values, mut crashes) = (0, 0);
                    while crashes < 150 || values < 150 {
                        let tasks = [worker.schedule(square, thread), worker.concurrent(square, thread), worker.schedule(square, thread)];
                        for task in tasks {
                            match task.and_then(Task::wait) {
                                Ok(value) => {
                                    assert_eq!(value, thread * thread);
                                    values += 1;
                                }
                                Err(TaskError::Crashed(exit)) => {
                                    assert_eq!(exit.signal(), Some(Signal::KILL));
                                    crashes += 1;
                                }
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                    }
                    drop(done);
                });
            }
            drop(done);
            let (mut kills, mut state) = (0, 1_u64);
            while !matches!(is_done.try_recv(), Err(mpsc::TryRecvError::Disconnected)) || kills < 1_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (0..state >> 50).for_each(|_| std::hint::spin_loop());
                if let Some(pid) = worker.pid() {
                    let _ = kill(Pid::from_raw(pid as i32), Raw::SIGKILL);
                    kills += 1;
                }
                if kills >= 1_000 {
                    // Whoever still wants crashes gets them.
                    std::thread::yield_now();
                }
                let _ = worker.invoke(square, 1);
            }
        });
    }

    fn nothing_is_left_of_many() {
        let one = || {
            let worker = Worker::new().unwrap();
            worker.invoke(square, 2).unwrap();
            worker.invoke(|bytes: Vec<u8>| bytes, vec![1; 100_000]).unwrap();
            let held = worker.hold(square, 2).unwrap();
            let task = worker.concurrent(pid, ()).unwrap();
            worker.close();
            drop((held, task));
            let thread = Worker::thread().unwrap();
            thread.invoke(square, 2).unwrap();
            thread.close();
        };
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains("memfd:pkit")).count();
        one();
        settle();
        let (descriptors, threads) = (open_descriptors(), thread_names().len());
        (0..100).for_each(|_| one());
        eventually("no thread is left", || thread_names().len() <= threads);
        eventually("no mapping is left", || maps() == 0);
        eventually("no descriptor is left", || open_descriptors().len() <= descriptors.len());
        pkit::testing::end_fork_server();
        eventually("no process is left", || children().is_empty());
    }

    fn a_fork_takes_no_value_and_no_answer() {
        let worker = Worker::new().unwrap();
        let thread = Worker::thread().unwrap();
        worker.schedule(gate, ()).unwrap().on_done(drop);
        let mut tasks = vec![pkit::spawn(square, 3).unwrap(), thread.schedule(square, 3).unwrap()];
        eventually("they are done", || tasks.iter().all(Task::is_done));
        tasks.extend((0..3).map(|_| worker.schedule(square, 3).unwrap()));
        let tasks = Arc::new(Mutex::new(tasks));
        let (theirs, thread) = (Arc::clone(&tasks), Arc::new(thread));
        let their_thread = Arc::clone(&thread);
        let forked = crate::forked::forked(move || {
            let is_foreign = |error| matches!(error, TaskError::Start(error) if error.is_foreign());
            let mut tasks = theirs.lock().unwrap();
            let mut next = || tasks.swap_remove(0);
            let mut told = Vec::new();
            let mut late = next();
            told.push(late.wait_timeout(LONG).unwrap_err());
            told.push(next().wait().unwrap_err());
            told.push(smol::block_on(next()).unwrap_err());
            let (sender, receiver) = mpsc::channel();
            next().on_done(move |end| sender.send(end.unwrap_err()).unwrap());
            told.push(receiver.recv_timeout(LONG).unwrap());
            let last = next();
            last.cancel();
            assert!(last.is_done() && last.pid().is_none());
            drop((late, last));
            told.push(their_thread.invoke(square, 3).unwrap_err());
            their_thread.terminate();
            std::process::ExitCode::from(u8::from(!told.into_iter().all(is_foreign)))
        });
        let forked = pkit::Process::new(forked);
        forked.start(true).unwrap();
        assert_eq!(forked.join_timeout(LONG).unwrap().unwrap().code(), Some(0));
        worker.concurrent(open, ()).unwrap().wait().unwrap();
        let tasks = std::mem::take(&mut *tasks.lock().unwrap());
        assert_eq!(tasks.into_iter().map(|task| task.wait().unwrap()).collect::<Vec<_>>(), [9; 5]);
        assert_eq!(thread.invoke(square, 3).unwrap(), 9);
    }

    fn in_a_fork_it_is_nothing() {
        let worker = Worker::new().unwrap();
        worker.invoke(square, 2).unwrap();
        let task = worker.schedule(gate, ()).unwrap();
        let given = Mutex::new(Some((worker, task)));
        // SAFETY: no other thread of this program holds a lock that this takes.
        #[allow(unsafe_code)]
        let forked = unsafe {
            pkit::Target::fork(move || {
                let (worker, task) = given.lock().unwrap().take().unwrap();
                let error = worker.invoke(square, 3).unwrap_err();
                drop((worker, task));
                let is_still_alone = thread_names().len() == 1;
                std::process::ExitCode::from(u8::from(!matches!(error, TaskError::Start(_)) || !is_still_alone))
            })
        };
        let forked = pkit::Process::new(forked);
        forked.start(true).unwrap();
        assert_eq!(forked.join().unwrap().code(), Some(0));
    }
}
