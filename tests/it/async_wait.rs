//! `exited()`, under any runtime.

use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use pkit::{Backoff, BecomesReady, Command, Exited, Process, Ready, Restart, State, Stdio};
use smol::future::{FutureExt, block_on, poll_once};

use crate::support::{LONG, say, sh, tests, wait_for};

fn tokio_threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

fn tokio_here() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicU32);

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics, as it should in this test");
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Uses the process when it is dropped.
struct Busybody(Mutex<Option<Process>>);

impl Wake for Busybody {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Busybody {
    fn drop(&mut self) {
        if let Some(process) = self.0.get_mut().unwrap().take() {
            _ = process.status();
        }
    }
}

fn poll(future: &mut Exited, waker: &Waker) -> bool {
    pin!(future).poll(&mut Context::from_waker(waker)).is_ready()
}

tests! {
    fn a_waker_that_panics_stops_nobody_else() {
        let process = Process::new(sh("read x; exit 7").stdin(Stdio::piped()).clone());
        process.start(true).unwrap();
        let mut exited = pin!(process.exited());
        let waker = Waker::from(Arc::new(Panics));
        assert!(exited.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // With a limit: the reaper sees the end, and wakes.
        drop(process.stdin());
        assert_eq!(process.join_timeout(LONG).unwrap().unwrap().code(), Some(7));
        let other = Process::new(sh("exit 3"));
        other.start(true).unwrap();
        assert_eq!(other.join_timeout(LONG).unwrap().unwrap().code(), Some(3));
    }

    fn under_every_runtime() {
        let process = Process::new(sh("read x < /dev/null; exit 7"));
        for _ in 0..20 {
            process.start(false).unwrap();
            assert_eq!(block_on(process.exited()).unwrap().code(), Some(7));
        }
        for runtime in [tokio_threads(), tokio_here()] {
            for _ in 0..20 {
                process.start(false).unwrap();
                let exited = process.exited();
                let exit = runtime.block_on(async move { tokio::spawn(exited).await.unwrap().unwrap() });
                assert_eq!(exit.code(), Some(7));
            }
        }
        let executor = smol::Executor::new();
        process.start(false).unwrap();
        let task = executor.spawn(process.exited());
        assert_eq!(block_on(executor.run(task)).unwrap().code(), Some(7));
    }

    fn several_at_once() {
        let process = Process::new(sh("exec sleep 1000"));
        process.start(true).unwrap();
        let (threads, here, executor) = (tokio_threads(), tokio_here(), smol::Executor::new());
        let tasks: Vec<_> = (0..10).map(|_| threads.spawn(process.exited())).collect();
        let smol_task = executor.spawn(process.exited());
        let (first, second) = (process.exited(), process.exited());
        let stopper = process.clone();
        let stop = std::thread::spawn(move || stopper.terminate(true));
        let both = here.block_on(async { tokio::join!(first, second) });
        let mut exits = vec![both.0.unwrap(), both.1.unwrap(), block_on(executor.run(smol_task)).unwrap()];
        exits.extend(tasks.into_iter().map(|task| threads.block_on(task).unwrap().unwrap()));
        stop.join().unwrap().unwrap();
        assert!(exits.len() == 13 && exits.iter().all(|exit| exit.requested() && Some(exit) == process.exit().as_ref()));
    }

    fn readiness_is_awaited() {
        let script = "read line; test $line = up || exit 3; echo up; exec sleep 1000";
        let builder = Process::builder(sh(script)).ready(Ready::line("up")).stdin(Stdio::piped());
        let process = builder.restart(Restart::on_failure().backoff(Backoff::fixed(LONG)).unlimited()).build().unwrap();
        assert!(block_on(process.ready()).unwrap_err().is_not_running());
        type Runtime = fn(BecomesReady) -> pkit::Result<u32>;
        let runtimes: [Runtime; 3] = [
            |ready| block_on(ready),
            |ready| tokio_here().block_on(ready),
            |ready| tokio_threads().block_on(async { tokio::spawn(ready).await.unwrap() }),
        ];
        for runtime in runtimes {
            let pid = process.start(false).unwrap();
            let mut stdin = process.stdin().unwrap();
            let mut early = process.ready();
            assert!(block_on(poll_once(&mut early)).is_none());
            let waiting = std::thread::spawn({
                let ready = process.ready();
                move || runtime(ready)
            });
            say(&mut stdin, "up");
            assert_eq!(waiting.join().unwrap().unwrap(), pid);
            assert_eq!(block_on(early).unwrap(), pid);
            assert_eq!(block_on(process.ready()).unwrap(), pid, "it was ready already");
            process.terminate(true).unwrap();
        }
        // A run that ends instead, and what its policy does then is another run.
        process.start(false).unwrap();
        let ready = process.ready();
        let mut stdin = process.stdin().unwrap();
        let answer = std::thread::spawn(move || block_on(ready));
        say(&mut stdin, "down");
        let error = answer.join().unwrap().unwrap_err();
        assert!(error.is_ended() && error.exit().unwrap().code() == Some(3), "{error}");
        assert!(error.to_string().ends_with("; its restart policy goes on"), "{error}");
        drop(process);
    }

    fn a_readiness_that_cannot_come_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busy");
        std::fs::copy("/bin/true", &path).unwrap();
        let writer = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let busy = Process::builder(Command::new(&path)).retry_text_busy(LONG).build().unwrap();
        let starting = std::thread::spawn({
            let busy = busy.clone();
            move || busy.start(false)
        });
        wait_for(&busy, State::Starting);
        let ready = busy.ready();
        // The next try finds it neither busy nor executable.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        drop(writer);
        let (started, ready) = (starting.join().unwrap().unwrap_err(), block_on(ready).unwrap_err());
        assert!(ready.is_not_created() && ready.to_string() == started.to_string(), "{ready}");
    }

    fn a_readiness_that_nobody_awaits_any_more_keeps_no_waker() {
        let process = Process::builder(sh("exec sleep 1000")).ready(Ready::fd(3)).build().unwrap();
        process.start(false).unwrap();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut ready = process.ready();
        assert!(pin!(&mut ready).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        drop(ready);
        assert_eq!(Arc::strong_count(&count), 1);
        process.kill(true).unwrap();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    fn it_does_not_block() {
        let process = Process::new(sh("exec sleep 1000"));
        assert!(block_on(process.exited()).unwrap_err().is_never_started());
        process.start(true).unwrap();
        assert!(block_on(poll_once(process.exited())).is_none());
        process.terminate(true).unwrap();
        assert!(block_on(poll_once(process.exited())).unwrap().unwrap().requested());
        assert!(block_on(process.exited()).unwrap().requested());
    }

    fn a_time_out_leaves_it_alone() {
        let process = Process::new(sh("exec sleep 1000"));
        let pid = process.start(true).unwrap();
        for runtime in [tokio_threads(), tokio_here()] {
            let limited = || tokio::time::timeout(Duration::from_millis(20), process.exited());
            assert!(runtime.block_on(async { limited().await }).is_err());
            let other = async { "other" };
            let first = runtime.block_on(async {
                tokio::select! { biased; _ = process.exited() => "exited", first = other => first }
            });
            assert_eq!(first, "other");
        }
        assert_eq!(process.pid(), Some(pid));
        let racing = async { Some(process.exited().await) }.or(async { None });
        assert!(block_on(racing).is_none());
        process.terminate(true).unwrap();
    }

    fn a_dropped_future_keeps_no_waker() {
        let process = Process::new(sh("exec sleep 1000"));
        process.start(true).unwrap();
        let count = Arc::new(Count::default());
        let weak: Weak<Count> = Arc::downgrade(&count);
        let waker = Waker::from(count);
        let mut future = process.exited();
        assert!(!poll(&mut future, &waker) && !poll(&mut future, &waker));
        assert_eq!(weak.strong_count(), 2);
        // The latest waker is the one that counts.
        assert!(!poll(&mut future, Waker::noop()));
        assert_eq!(weak.strong_count(), 1);
        assert!(!poll(&mut future, &waker));
        drop(future);
        assert_eq!(weak.strong_count(), 1);
        process.terminate(true).unwrap();
        assert_eq!(weak.upgrade().unwrap().0.load(Ordering::SeqCst), 0);
    }

    fn it_is_woken() {
        let process = Process::new(sh("exec sleep 1000"));
        process.start(true).unwrap();
        let count = Arc::new(Count::default());
        let mut future = process.exited();
        let waker = Waker::from(Arc::clone(&count));
        assert!(!poll(&mut future, &waker));
        process.terminate(true).unwrap();
        crate::support::eventually("it is woken", || count.0.load(Ordering::SeqCst) > 0);
        assert!(poll(&mut future, &waker));
    }

    fn a_waker_may_do_anything() {
        let process = Process::new(sh("exec sleep 1000"));
        process.start(true).unwrap();
        let mut future = process.exited();
        for _ in 0..3 {
            // The future holds the last reference, and drops it when the next one comes.
            let busybody = Arc::new(Busybody(Mutex::new(Some(process.clone()))));
            assert!(!poll(&mut future, &Waker::from(busybody)));
        }
        drop(future);
        process.terminate(true).unwrap();
    }

    fn a_hundred_together() {
        let runtime = tokio_threads();
        let processes: Vec<Process> = (0..100).map(|n| Process::new(sh(&format!("exit {n}")))).collect();
        let codes = runtime.block_on(async {
            // Started from inside async code.
            let tasks: Vec<_> = processes
                .iter()
                .map(|process| {
                    process.start(false).unwrap();
                    tokio::spawn(process.exited())
                })
                .collect();
            let mut codes = Vec::new();
            for task in tasks {
                codes.push(task.await.unwrap().unwrap().code().unwrap());
            }
            codes
        });
        assert!(codes.into_iter().eq(0..100));
    }

    fn started_and_awaited_in_a_task() {
        for runtime in [tokio_threads(), tokio_here()] {
            let code = runtime.block_on(async {
                let task = tokio::spawn(async {
                    let process = Process::new(sh("exit 9"));
                    process.start(Duration::from_secs(60)).unwrap();
                    process.exited().await.unwrap().code()
                });
                tokio::time::timeout(LONG, task).await.unwrap().unwrap()
            });
            assert_eq!(code, Some(9));
        }
    }

    fn the_future_is_a_handle() {
        let process = Process::new(sh("exit 5"));
        process.start(true).unwrap();
        let future = process.exited();
        drop(process);
        let exit = block_on(future).unwrap();
        assert_eq!((exit.code(), exit.requested()), (Some(5), false));
        let process = Process::new(sh("exec sleep 1000"));
        let pid = process.start(true).unwrap();
        let mut future = process.exited();
        drop(process);
        assert!(matches!(pin!(&mut future).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        assert!(crate::support::is_alive(pid));
        drop(future);
        crate::support::eventually("it is gone", || !crate::support::is_alive(pid));
    }
}
