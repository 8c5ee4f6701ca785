//! Objects that stay in a worker.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, mpsc};

use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{Remote, TaskError, Worker};
use serde::{Deserialize, Serialize};

use super::both;
use crate::support::{LONG, eventually, tests};

/// Neither copied nor sent.
struct Marked {
    path: PathBuf,
    count: u64,
}

impl Drop for Marked {
    fn drop(&mut self) {
        std::fs::write(&self.path, self.count.to_string()).unwrap();
    }
}

fn mark(path: PathBuf) -> Marked {
    Marked { path, count: 0 }
}

fn add(marked: &mut Marked, n: u64) -> u64 {
    marked.count += n;
    marked.count
}

#[derive(Serialize, Deserialize)]
struct Job {
    tables: HashMap<String, Remote<Vec<u64>>>,
    at: usize,
}

fn look_up(job: Job) -> u64 {
    job.tables.values().map(|table| table.lock()[job.at]).sum()
}

fn numbers(n: u64) -> Vec<u64> {
    (0..n).collect()
}

/// Gives what it has away as it is encoded.
struct GivesAway(Mutex<Option<Remote<u64>>>);

impl Serialize for GivesAway {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let given = self.0.lock().unwrap().take();
        given.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GivesAway {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<GivesAway, D::Error> {
        Ok(GivesAway(Mutex::new(Deserialize::deserialize(deserializer)?)))
    }
}

tests! {
    fn the_last_owner_may_be_the_argument_of_a_call_that_comes_too_late() {
        for worker in both() {
            let [first, second] = [1, 2].map(|n| worker.hold(|n: u64| n, n).unwrap());
            worker.terminate();
            let (told, is_told) = mpsc::channel();
            std::thread::spawn(move || {
                let gives_away = GivesAway(Mutex::new(Some(second)));
                told.send(first.with(|first, _: GivesAway| *first, gives_away).is_err()).unwrap();
                worker.terminate();
                told.send(true).unwrap();
            });
            assert!((0..2).all(|_| is_told.recv_timeout(LONG).unwrap()));
        }
    }

    fn an_object_stays_and_is_shared() {
        for worker in both() {
            let table = worker.hold(numbers, 1_000).unwrap();
            assert_eq!(table.with(|table, ()| table.iter().sum::<u64>(), ()).unwrap(), 499_500);
            table.with(|table, n| table.push(n), 7).unwrap();
            let job = Job { tables: HashMap::from([("a".into(), table.clone()), ("b".into(), table.clone())]), at: 1_000 };
            let beside = Job { tables: HashMap::from([("a".into(), table.clone())]), at: 999 };
            let (scheduled, beside) = (worker.schedule(look_up, job), worker.concurrent(look_up, beside));
            assert_eq!(scheduled.unwrap().wait().unwrap(), 14);
            assert_eq!(beside.unwrap().wait().unwrap(), 999);
            let inside = |table: Remote<Vec<u64>>| table.with(|table, n: usize| table[n], 5).unwrap();
            assert_eq!(worker.invoke(inside, table.clone()).unwrap(), 5);
            assert_eq!(table.into_inner().unwrap().len(), 1_001);
        }
    }

    fn it_is_dropped_with_its_last_owner() {
        for worker in both() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("count");
            let one = worker.hold(mark, path.clone()).unwrap();
            let other = one.clone();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..25).for_each(|_| _ = one.with(add, 1).unwrap()));
                }
            });
            drop(one);
            assert_eq!(other.with(add, 1).unwrap(), 101);
            assert!(!path.exists());
            fn last(marked: Remote<Marked>) {
                marked.lock().count += 1;
            }
            // A task that has not run yet has it, too.
            let task = worker.schedule(last, other).unwrap();
            task.wait().unwrap();
            eventually("it is dropped", || std::fs::read_to_string(&path).is_ok_and(|count| count == "102"));
            let path = directory.path().join("at the end");
            let kept = worker.hold(mark, path.clone()).unwrap();
            worker.close();
            assert_eq!(std::fs::read_to_string(path).unwrap(), "0");
            kept.with(add, 1).unwrap_err();
        }
    }

    fn of_a_worker_that_has_died_nothing_is_left() {
        let worker = Worker::new().unwrap();
        let table = worker.hold(numbers, 10).unwrap();
        kill(Pid::from_raw(worker.pid().unwrap() as i32), Raw::SIGKILL).unwrap();
        for _ in 0..2 {
            assert!(matches!(table.with(|table, ()| table.len(), ()), Err(TaskError::Crashed(_))));
        }
        assert_eq!(worker.invoke(super::square, 3).unwrap(), 9, "by a new one");
        let given = worker.invoke(|table: Remote<Vec<u64>>| table.lock().len(), table.clone());
        assert!(matches!(given, Err(TaskError::Crashed(_))), "{given:?}");
        assert!(matches!(table.into_inner(), Err(TaskError::Crashed(_))));
    }

    fn elsewhere_it_is_nothing() {
        let [process, thread] = both();
        let table = process.hold(numbers, 10).unwrap();
        let given = thread.invoke(|table: Remote<Vec<u64>>| table.lock().len(), table.clone());
        assert!(matches!(&given, Err(TaskError::Codec(why)) if why.contains("the worker that it is in")), "{given:?}");
        let given = pkit::run(|table: Remote<Vec<u64>>| table.lock().len(), table.clone());
        assert!(matches!(&given, Err(TaskError::Codec(_))), "{given:?}");
        let returned = process.invoke(|table: Remote<Vec<u64>>| table, table.clone());
        assert!(matches!(&returned, Err(TaskError::Codec(_))), "{returned:?}");
        fn pass_on(table: Remote<Vec<u64>>) -> bool {
            let other = Worker::new().unwrap();
            let _first = other.hold(numbers, 99).unwrap();
            let given = other.invoke(|table: Remote<Vec<u64>>| table.lock().len(), table);
            matches!(given, Err(TaskError::Codec(why)) if why.contains("the worker that it is in"))
        }
        assert!(process.invoke(pass_on, table.clone()).unwrap(), "nor a worker inside of its worker");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| table.lock().len()));
        panicked.unwrap_err();
        assert_eq!(table.with(|table, ()| table.len(), ()).unwrap(), 10, "nothing came of it");
    }

    fn one_whose_user_panicked_is_as_that_left_it() {
        for worker in both() {
            let table = worker.hold(numbers, 3).unwrap();
            let panicked = table.with(
                |table, ()| {
                    table.push(3);
                    assert!(table.is_empty(), "for the test");
                },
                (),
            );
            assert!(matches!(panicked, Err(TaskError::Panicked { .. })));
            assert_eq!(table.into_inner().unwrap(), [0, 1, 2, 3]);
        }
    }

    fn on_its_own_thread_it_is_at_hand_however_it_came_there() {
        static TABLE: Mutex<Option<Remote<Vec<u64>>>> = Mutex::new(None);
        fn table() -> Remote<Vec<u64>> {
            TABLE.lock().unwrap().clone().unwrap()
        }
        fn length(_: ()) -> (usize, usize) {
            (table().with(|table, ()| table.len(), ()).unwrap(), table().into_inner().unwrap().len())
        }
        /// Asks for the table when it is dropped.
        struct Asks(mpsc::Sender<usize>);
        impl Drop for Asks {
            fn drop(&mut self) {
                self.0.send(length(()).0).unwrap();
            }
        }
        static SENDER: Mutex<Option<mpsc::Sender<usize>>> = Mutex::new(None);
        let (sender, dropped) = mpsc::channel();
        *SENDER.lock().unwrap() = Some(sender);

        let worker = Worker::thread().unwrap();
        *TABLE.lock().unwrap() = Some(worker.hold(numbers, 5).unwrap());
        let other = Worker::thread().unwrap();
        let asks = worker.hold(|()| Asks(SENDER.lock().unwrap().take().unwrap()), ()).unwrap();
        let mut inside = worker.schedule(length, ()).unwrap();
        assert_eq!(inside.wait_timeout(LONG).unwrap(), (5, 5), "it would wait behind itself");
        assert_eq!(worker.concurrent(length, ()).unwrap().wait().unwrap(), (5, 5));
        assert_eq!(other.invoke(length, ()).unwrap(), (5, 5), "on another it is asked for");
        drop(asks);
        assert_eq!(dropped.recv_timeout(LONG).unwrap(), 5, "an object that is dropped is there, too");
        TABLE.lock().unwrap().take();
    }
}
