//! Workers whose process is replaced after some calls.

use std::path::PathBuf;
use std::process::id;

use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize, Serializer};

use pkit::{Ready, TaskError, Worker};

use super::{pid, square};
use crate::support::{LONG, children, eventually, open_descriptors, tests};

fn until_there(path: PathBuf) -> u32 {
    while !path.exists() {
        std::thread::yield_now();
    }
    id()
}

/// An argument that cannot be encoded.
#[derive(Deserialize)]
struct Panics;

impl Serialize for Panics {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("for the test");
    }
}

/// How many processes there are where no worker is: the fork server, and perhaps a copy of it that waits for an order.
fn at_rest() -> usize {
    Worker::new().unwrap().terminate();
    children().len()
}

tests! {
    fn the_next_process_begins_when_the_one_before_has_ended() {
        let (at_rest, directory) = (at_rest(), tempfile::tempdir().unwrap());
        let path = directory.path().join("go on");
        let ready = |process: pkit::Builder| process.ready(Ready::notify()).ready_within(LONG);
        let worker = Worker::builder().process(ready).setup(|()| pkit::ready().unwrap(), ()).task_limit(2).build().unwrap();
        let first = worker.pid();
        let tasks: Vec<_> = (0..7).map(|_| worker.schedule(until_there, path.clone()).unwrap()).collect();
        // None of those that wait is there, to be late or to die before its turn.
        assert!(children().len() <= at_rest + 1 && worker.pid() == first);
        std::fs::write(&path, "").unwrap();
        let pids: Vec<u32> = tasks.into_iter().map(|task| task.wait().unwrap()).collect();
        assert!(pids.chunks(2).all(|pids| pids.iter().all(|pid| *pid == pids[0])), "{pids:?}");
        let mut different = pids.clone();
        different.dedup();
        assert_eq!(different.len(), 4, "{pids:?}");
        worker.close();
    }

    fn one_that_is_killed_takes_only_its_own_calls_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let worker = Worker::builder().task_limit(1).build().unwrap();
        let killed = worker.schedule(until_there, directory.path().join("never")).unwrap();
        let waiting: Vec<_> = (1..4).map(|n| worker.schedule(square, n).unwrap()).collect();
        kill(Pid::from_raw(worker.pid().unwrap() as i32), Raw::SIGKILL).unwrap();
        assert!(matches!(killed.wait(), Err(TaskError::Crashed(_))));
        let squares: Vec<u64> = waiting.into_iter().map(|task| task.wait().unwrap()).collect();
        assert_eq!(squares, [1, 4, 9]);
    }

    fn closed_or_stopped_none_of_those_that_wait_is_forgotten() {
        let (at_rest, directory) = (at_rest(), tempfile::tempdir().unwrap());
        let path = directory.path().join("go on");
        let queued = || {
            let worker = Worker::builder().task_limit(1).build().unwrap();
            let tasks: Vec<_> = (0..4).map(|_| worker.schedule(until_there, path.clone()).unwrap()).collect();
            (worker, tasks)
        };
        let (stopped, tasks) = queued();
        stopped.terminate();
        eventually("none is left", || children().len() <= at_rest);
        assert!(tasks.into_iter().all(|task| matches!(task.wait(), Err(TaskError::Cancelled))));
        let (closed, tasks) = queued();
        std::fs::write(&path, "").unwrap();
        closed.close();
        eventually("none is left", || children().len() <= at_rest);
        assert!(tasks.iter().all(pkit::Task::is_done));
        assert!(tasks.into_iter().all(|task| task.wait().is_ok()));
    }

    fn stopped_none_of_those_that_wait_begins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ran");
        fn write(path: PathBuf) {
            std::fs::write(path, "").unwrap();
        }
        // So many that it takes a while to end those of the second, when the first has ended already.
        const CALLS: u64 = 2_000;
        for round in 0..12 {
            let worker = Worker::builder().task_limit(CALLS).build().unwrap();
            let first = worker.schedule(until_there, directory.path().join("never")).unwrap();
            let behind: Vec<_> = (1..CALLS).map(|n| worker.schedule(square, n).unwrap()).collect();
            let second: Vec<_> = (0..CALLS).map(|_| worker.schedule(write, path.clone()).unwrap()).collect();
            if round % 2 == 0 {
                worker.terminate();
            } else {
                drop(worker);
            }
            assert!(matches!(first.wait(), Err(TaskError::Cancelled)));
            assert!(behind.into_iter().all(|task| matches!(task.wait(), Err(TaskError::Cancelled))));
            assert!(second.into_iter().all(|task| matches!(task.wait(), Err(TaskError::Cancelled))));
        }
        pkit::testing::end_fork_server();
        eventually("all are gone", || children().is_empty());
        assert!(!path.exists());
    }

    fn closed_all_has_ended_however_it_does() {
        for _ in 0..20 {
            let worker = Worker::builder().task_limit(2).build().unwrap();
            let tasks: Vec<_> = (0..4).map(|_| worker.schedule(|()| -> () { std::process::abort() }, ()).unwrap()).collect();
            worker.close();
            assert!(tasks.iter().all(pkit::Task::is_done));
        }
    }

    fn where_the_next_cannot_be_started_its_calls_say_so() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let path = directory.path().join("go on");
        let begins_in = home.clone();
        let worker = Worker::builder().process(|process| process.current_dir(begins_in)).task_limit(1).build().unwrap();
        let first = worker.schedule(until_there, path.clone()).unwrap();
        let large = |_| serde_bytes::ByteBuf::from(vec![1; 300_000]);
        let length = |bytes: serde_bytes::ByteBuf| bytes.len();
        let waiting: Vec<_> = (0..20).map(|n| worker.schedule(length, large(n)).unwrap()).collect();
        std::fs::remove_dir(&home).unwrap();
        std::fs::write(&path, "").unwrap();
        first.wait().unwrap();
        for task in waiting {
            let error = task.wait().unwrap_err();
            assert!(matches!(&error, TaskError::Start(error) if error.is_not_created()), "{error:?}");
        }
        let files = || open_descriptors().iter().filter(|(_, target)| target.contains("memfd")).count();
        eventually("their arguments are nowhere", || files() == 0);
        std::fs::create_dir(&home).unwrap();
        assert!(worker.invoke(pid, ()).is_ok(), "and it goes on when it can");
    }

    fn an_argument_of_the_setup_that_panics_leaves_nothing() {
        let at_rest = at_rest();
        for _ in 0..3 {
            let builds = || Worker::builder().setup(|_: Panics| (), Panics).build();
            assert!(std::panic::catch_unwind(builds).is_err());
        }
        eventually("none is left", || children().len() <= at_rest);
        let rings = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("pkit-ring").count();
        eventually("nothing of them is mapped", || rings() == 0);
    }
}
