//! One call of a function in another process, and its value back.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{ExitReason, Signal, Task, TaskError, Worker};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::park;
use crate::support::{LONG, children, eventually, skipped, tests, thread_names, without_descriptors};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Circle { radius: f64 },
    Named(String, BTreeMap<(i8, i8), Option<char>>),
}

fn twice(shape: Shape) -> (Shape, Shape) {
    (shape.clone(), shape)
}

const CLOSED: &str = "its process ended before it gave a value: exit code 101";

fn square(n: u64) -> u64 {
    n * n
}

fn repeat((byte, times): (u8, usize)) -> Vec<u8> {
    vec![byte; times]
}

fn crash(how: &str) -> Result<u64, TaskError> {
    fn go(how: String) -> u64 {
        match &*how {
            "segfault" => {
                // SAFETY: there is nothing safe about it; the kernel ends this process.
                #[allow(unsafe_code)]
                unsafe {
                    std::ptr::with_exposed_provenance_mut::<u8>(8).write_volatile(1);
                }
            }
            "abort" => std::process::abort(),
            "exit" => std::process::exit(3),
            "memory" => {
                setrlimit(Resource::RLIMIT_AS, 256 << 20, 256 << 20).unwrap();
                std::hint::black_box(vec![1_u8; 1 << 30]);
            }
            "kill" => kill(Pid::this(), Raw::SIGKILL).unwrap(),
            _ => {}
        }
        7
    }
    pkit::run(go, how.to_owned())
}

fn crashed(how: &str) -> ExitReason {
    match crash(how).unwrap_err() {
        TaskError::Crashed(exit) => exit.reason(),
        other => panic!("{other:?}"),
    }
}

fn parked() -> Task<()> {
    pkit::spawn(park, ()).unwrap()
}

tests! {
    fn values_come_back() {
        assert_eq!(pkit::run(square, 12).unwrap(), 144);
        assert_eq!(pkit::run(|(a, b): (String, String)| a + &b, ("a".into(), "b".into())).unwrap(), "ab");
        let named = Shape::Named("x".into(), BTreeMap::from([((1, -1), Some('ß')), ((0, 0), None)]));
        assert_eq!(pkit::run(twice, named.clone()).unwrap(), (named.clone(), named));
        let circle = Shape::Circle { radius: 1.5 };
        assert_eq!(pkit::run(twice, circle.clone()).unwrap(), (circle.clone(), circle));
        assert_eq!(pkit::run(|()| Err::<(), _>("no".to_owned()), ()).unwrap(), Err("no".to_owned()), "an error is a value");
    }

    fn values_of_all_sizes_come_back() {
        for size in [0, 1, 60_000, 65_530, 65_536, 70_000, 1 << 20, 64 << 20] {
            let bytes = pkit::run(repeat, (9, size)).unwrap();
            assert!(bytes.len() == size && bytes.iter().all(|byte| *byte == 9), "{size}");
        }
    }

    fn an_argument_of_a_gibibyte_comes_back() {
        if crate::OLD_KERNEL {
            return skipped("it takes long, and does not depend on the kernel");
        }
        let bytes = ByteBuf::from(vec![7; 1 << 30]);
        let bytes = pkit::run(|mut bytes: ByteBuf| { bytes[1 << 29] = 8; bytes }, bytes).unwrap();
        assert_eq!((bytes.len(), bytes[0], bytes[1 << 29], bytes[(1 << 30) - 1]), (1 << 30, 7, 8, 7));
    }

    fn a_function_that_closes_what_it_answers_by_writes_its_value_nowhere() {
        let close = |()| (3..100).for_each(|fd| _ = nix::unistd::close(fd));
        let error = pkit::run(close, ()).unwrap_err().to_string();
        assert!(error.starts_with(CLOSED), "{error}");
        let replace = |path: std::path::PathBuf| {
            (3..100).for_each(|fd| _ = nix::unistd::close(fd));
            for _ in 0..40 {
                let (one, other) = UnixDatagram::pair().unwrap();
                for end in [one, other] {
                    let path = path.clone();
                    std::thread::spawn(move || {
                        let mut bytes = [0; 100];
                        end.recv(&mut bytes).map(|_| std::fs::write(path, bytes).unwrap())
                    });
                }
            }
            "a secret".to_owned()
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("told");
        let error = pkit::run(replace, path.clone()).unwrap_err().to_string();
        assert!(error.starts_with(CLOSED), "{error}");
        assert!(!path.exists());
    }

    fn a_thread_that_ends_can_call_functions() {
        struct Last(mpsc::Sender<[u64; 3]>);
        impl Drop for Last {
            fn drop(&mut self) {
                let worker = Worker::new().unwrap();
                let here = Worker::thread().unwrap();
                let held = worker.hold(square, 4).unwrap();
                let values = [pkit::run(square, 2), worker.invoke(square, 3), held.with(|n, ()| *n, ())];
                assert_eq!(here.invoke(square, 5).unwrap(), 25);
                self.0.send(values.map(|value| value.unwrap())).unwrap();
            }
        }
        thread_local!(static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) });
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            LAST.set(Some(Last(tell)));
            // What is used after that is destroyed before it.
            pkit::run(square, 1).unwrap();
            Worker::new().unwrap().hold(square, 4).unwrap().with(|n, ()| *n, ()).unwrap();
        });
        assert_eq!(told.recv_timeout(LONG).unwrap(), [4, 9, 16]);
        thread.join().unwrap();
    }

    fn a_panic_tells_message_place_and_backtrace() {
        for wanted in [false, true] {
            // SAFETY: this process has no thread that reads it meanwhile.
            #[allow(unsafe_code)]
            unsafe {
                std::env::set_var("RUST_BACKTRACE", if wanted { "1" } else { "0" });
            }
            let error = pkit::run(|n: u32| -> u32 { panic!("{n} is too many") }, 3).unwrap_err();
            let shown = error.to_string();
            let TaskError::Panicked { message, location, backtrace } = error else { panic!("{error:?}") };
            assert_eq!(message, "3 is too many");
            assert!(location.unwrap().starts_with(file!()) && shown.contains(file!()));
            assert_eq!(backtrace.is_some_and(|trace| trace.contains("tasks")), wanted);
        }
        let error = pkit::run(|()| -> () { std::panic::panic_any(5) }, ()).unwrap_err();
        assert!(matches!(error, TaskError::Panicked { message, .. } if message.contains("no text")));
        let long = pkit::run(|()| -> () { panic!("{}", "ü".repeat(1 << 20)) }, ()).unwrap_err();
        assert!(matches!(long, TaskError::Panicked { message, .. } if message.starts_with("üü")));
    }

    fn crashes_are_told_apart() {
        assert_eq!(crashed("segfault"), ExitReason::Signaled(Signal::SEGV));
        assert_eq!(crashed("abort"), ExitReason::Signaled(Signal::ABRT));
        assert_eq!(crashed("exit"), ExitReason::Exited(3));
        assert_eq!(crashed("kill"), ExitReason::Signaled(Signal::KILL));
        assert_eq!(crashed("memory"), ExitReason::Signaled(Signal::ABRT));
        assert_eq!(crash("not at all").unwrap(), 7);
    }

    fn a_kill_from_outside_is_a_crash() {
        let task = parked();
        kill(Pid::from_raw(task.pid().unwrap() as i32), Raw::SIGKILL).unwrap();
        assert!(matches!(task.wait(), Err(TaskError::Crashed(exit)) if exit.signal() == Some(Signal::KILL)));
    }

    fn a_task_that_takes_long_goes_on() {
        fn read(path: std::path::PathBuf) -> String {
            std::fs::read_to_string(path).unwrap()
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut task = pkit::spawn(read, path.clone()).unwrap();
        assert!(matches!(task.wait_timeout(Duration::from_millis(10)), Err(TaskError::TimedOut)));
        assert!(!task.is_done());
        std::fs::write(&path, "late").unwrap();
        assert_eq!(task.wait_timeout(LONG).unwrap(), "late");
        assert!(task.is_done() && task.pid().is_none());
    }

    fn a_cancelled_task_says_so() {
        let task = parked();
        task.cancel();
        assert!(matches!(task.wait(), Err(TaskError::Cancelled)));
        let mut done = pkit::spawn(square, 3).unwrap();
        eventually("it is done", || done.is_done());
        done.cancel();
        assert_eq!(done.wait_timeout(LONG).unwrap(), 9, "its value was there before");
    }

    fn a_task_is_a_future_anywhere() {
        async fn both() -> (u64, bool) {
            let (value, crash) = (pkit::spawn(square, 5).unwrap(), pkit::spawn(|()| -> () { std::process::abort() }, ()).unwrap());
            let (value, crash) = (value.await, crash.await);
            let is_crash: Result<(), _> = crash;
            (value.unwrap(), matches!(is_crash, Err(TaskError::Crashed(_))))
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(runtime.block_on(both()), (25, true));
        assert_eq!(smol::future::block_on(both()), (25, true));
        let mut slow = parked();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(10), &mut slow).await.unwrap_err();
        });
        slow.cancel();
        assert!(matches!(smol::future::block_on(slow), Err(TaskError::Cancelled)));
    }

    fn no_task_costs_a_thread() {
        pkit::run(square, 1).unwrap();
        let tasks: Vec<_> = (0..50).map(|_| parked()).collect();
        let threads = thread_names();
        // The reaper, two spawners and a callback thread, this one and the harness's.
        assert!(threads.len() <= 8, "{threads:?}");
        for task in tasks {
            task.cancel();
            task.wait().unwrap_err();
        }
    }

    fn what_is_to_be_done_at_the_end_is() {
        let (sender, receiver) = mpsc::channel();
        for n in 1..=20 {
            let sender = sender.clone();
            pkit::spawn(square, n).unwrap().on_done(move |value| sender.send(value.unwrap()).unwrap());
        }
        let mut squares: Vec<u64> = (0..20).map(|_| receiver.recv_timeout(LONG).unwrap()).collect();
        squares.sort_unstable();
        assert_eq!(squares, (1..=20).map(|n| n * n).collect::<Vec<_>>());
        let failed = pkit::spawn(|()| -> u64 { panic!("told") }, ()).unwrap();
        let sender = sender.clone();
        failed.on_done(move |value| sender.send(u64::from(matches!(value, Err(TaskError::Panicked { .. })))).unwrap());
        assert_eq!(receiver.recv_timeout(LONG).unwrap(), 1);
    }

    fn what_is_to_be_done_at_the_end_is_done_with_a_value_that_panics_as_well() {
        #[derive(Debug, Serialize)]
        struct Explodes;
        impl<'de> Deserialize<'de> for Explodes {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Explodes, D::Error> {
                panic!("no value")
            }
        }
        let [process, thread] = [Worker::new(), Worker::thread()].map(Result::unwrap);
        let tasks = [pkit::spawn(|()| Explodes, ()), process.schedule(|()| Explodes, ()), thread.schedule(|()| Explodes, ())];
        for task in tasks {
            let (sender, receiver) = mpsc::channel();
            task.unwrap().on_done(move |value| sender.send(value.unwrap_err()).unwrap());
            let error = receiver.recv_timeout(LONG).unwrap();
            let TaskError::Panicked { message, location, .. } = error else { panic!("{error:?}") };
            assert_eq!(message, "no value");
            assert!(location.unwrap().starts_with(file!()));
        }
    }

    fn a_dropped_task_goes_on() {
        fn write(path: std::path::PathBuf) {
            std::fs::write(path, "done").unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        drop(pkit::spawn(write, path.clone()).unwrap());
        eventually("it was written", || std::fs::read_to_string(&path).is_ok_and(|text| text == "done"));
    }

    fn who_prints_a_lot_or_has_no_stdout_gives_its_value_all_the_same() {
        fn print(n: usize) -> usize {
            for _ in 0..n {
                println!("{}", "x".repeat(99));
            }
            n
        }
        assert_eq!(pkit::run(print, 10_000).unwrap(), 10_000);
        fn close(_: ()) -> u8 {
            for stream in 0..3 {
                nix::unistd::close(stream).unwrap();
            }
            7
        }
        assert_eq!(pkit::run(close, ()).unwrap(), 7);
    }

    fn what_does_not_fit_together_is_told() {
        #[derive(Debug, Serialize, Deserialize)]
        struct OneWay;
        #[derive(Debug)]
        struct Liar;
        impl Serialize for Liar {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u8(2)
            }
        }
        impl<'de> Deserialize<'de> for Liar {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Liar, D::Error> {
                bool::deserialize(deserializer).map(|_| Liar)
            }
        }
        let error = pkit::run(|_: Liar| OneWay, Liar).unwrap_err();
        assert!(matches!(&error, TaskError::Codec(why) if why.contains("argument")), "{error:?}");
        let error = pkit::run(|_: OneWay| Liar, OneWay).unwrap_err();
        assert!(matches!(&error, TaskError::Codec(why) if why.contains("value")), "{error:?}");
    }

    fn a_start_that_fails_is_told() {
        pkit::run(square, 1).unwrap();
        let error = without_descriptors(|| pkit::run(square, 1)).unwrap_err();
        assert!(matches!(&error, TaskError::Start(error) if error.to_string().contains("`square`")), "{error:?}");
        pkit::testing::end_fork_server();
        assert_eq!(children(), []);
        assert_eq!(pkit::run(square, 2).unwrap(), 4);
    }

    fn a_thousand_kills_leave_no_task_waiting() {
        fn slow(n: u64) -> u64 {
            (0..n).fold(0, |sum, _| std::hint::black_box(sum + 1))
        }
        std::thread::scope(|scope| {
            for seed in 0..4_u64 {
                scope.spawn(move || {
                    let (mut killed, mut state) = (0, seed);
                    for _ in 0..250 {
                        let task = pkit::spawn(slow, 1_000).unwrap();
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        for _ in 0..state >> 55 {
                            std::hint::spin_loop();
                        }
                        if let Some(pid) = task.pid() {
                            let _ = kill(Pid::from_raw(pid as i32), Raw::SIGKILL);
                        }
                        match task.wait() {
                            Ok(1_000) => {}
                            Err(TaskError::Crashed(exit)) => {
                                assert_eq!(exit.signal(), Some(Signal::KILL));
                                killed += 1;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    assert!(killed > 0);
                });
            }
        });
    }
}
