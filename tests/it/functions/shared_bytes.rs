//! Bytes that are passed without being copied.

use std::process::{ExitCode, id};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pkit::{Process, Resource, Run, SharedBytes, Target, TaskError, Worker};
use serde::{Deserialize, Serialize};

use super::captured;
use crate::support::{children, eventually, limited, open_descriptors, tests, without_descriptors};

const LARGE: usize = 1 << 20;

fn some(byte: u8) -> SharedBytes {
    SharedBytes::from(vec![byte; LARGE])
}

fn same(bytes: SharedBytes) -> SharedBytes {
    bytes
}

/// The file that they are in.
fn inode(bytes: &SharedBytes) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let at = bytes.as_ptr().addr() as u64;
    let has_it = |range: &str| {
        let (from, to) = range.split_once('-').unwrap();
        (u64::from_str_radix(from, 16).unwrap()..u64::from_str_radix(to, 16).unwrap()).contains(&at)
    };
    let line = maps.lines().find(|line| has_it(line.split(' ').next().unwrap())).unwrap();
    line.split_whitespace().nth(4).unwrap().parse().unwrap()
}

/// What they are in here, in which process, and they themselves.
fn seen(bytes: SharedBytes) -> (u64, u32, SharedBytes) {
    assert!(bytes.iter().all(|byte| *byte == 7));
    (inode(&bytes), id(), bytes)
}

fn nested((bytes, depth): (SharedBytes, u32)) -> (u64, SharedBytes) {
    if depth == 0 { (inode(&bytes), bytes) } else { pkit::run(nested, (bytes, depth - 1)).unwrap() }
}

/// How many descriptors are open that are memory.
fn memories(_: ()) -> usize {
    open_descriptors().iter().filter(|(_, target)| target.starts_with("/memfd:pkit (")).count()
}

#[derive(Serialize, Deserialize)]
struct Sum(SharedBytes);

impl Run for Sum {
    type Output = ExitCode;

    fn run(self) -> ExitCode {
        println!("{} {}", inode(&self.0), self.0.iter().map(|byte| usize::from(*byte)).sum::<usize>());
        ExitCode::from(3)
    }
}

tests! {
    fn they_are_the_same_memory_everywhere() {
        let bytes = some(7);
        let file = inode(&bytes);
        let (process, thread) = (Worker::new().unwrap(), Worker::thread().unwrap());
        let all = [
            pkit::run(seen, bytes.clone()).unwrap(),
            process.invoke(seen, bytes.clone()).unwrap(),
            process.concurrent(seen, bytes.clone()).unwrap().wait().unwrap(),
            thread.invoke(seen, bytes.clone()).unwrap(),
        ];
        let (ours, theirs) = (id(), process.pid().unwrap());
        for (there, pid, back) in &all {
            assert_eq!((*there, inode(back)), (file, file));
            assert_eq!(*back, bytes);
            assert!(*pid == theirs || (*pid == ours) == (pid == &all[3].1));
        }
        assert_eq!(pkit::run(nested, (bytes, 3)).unwrap().0, file);
    }

    fn they_stay_where_they_are_held() {
        let worker = Worker::new().unwrap();
        let bytes = some(5);
        let held = worker.hold(|bytes: SharedBytes| vec![bytes], bytes.clone()).unwrap();
        held.with(|all, more: SharedBytes| all.push(more), some(6)).unwrap();
        assert_eq!(worker.invoke(memories, ()).unwrap(), 2);
        let back = held.with(|all, ()| all.clone(), ()).unwrap();
        assert_eq!((inode(&back[0]), back[1][0]), (inode(&bytes), 6));
        assert_eq!(held.into_inner().unwrap(), back);
        assert_eq!(worker.invoke(memories, ()).unwrap(), 0, "it was dropped there");
    }

    fn nothing_of_them_is_left() {
        let worker = Worker::new().unwrap();
        let before = memories(());
        let tasks: Vec<_> = (0..100).map(|n| worker.schedule(same, some(n)).unwrap()).collect();
        for (n, task) in tasks.into_iter().enumerate() {
            assert!(task.wait().unwrap().iter().all(|byte| usize::from(*byte) == n));
        }
        drop(worker.schedule(same, some(1)).unwrap());
        assert_eq!(worker.invoke(memories, ()).unwrap(), 0);
        eventually("it is all closed", || memories(()) == before);
        worker.terminate();
        pkit::testing::end_fork_server();
        assert_eq!(children(), []);
    }

    fn more_than_go_with_a_value_are_copied() {
        let all: Vec<SharedBytes> = (0..40).map(some).collect();
        let worker = Worker::new().unwrap();
        let back: Vec<SharedBytes> = worker.invoke(|all: Vec<SharedBytes>| all, all.clone()).unwrap();
        assert_eq!(back, all);
        let is_same: Vec<bool> = back.iter().zip(&all).map(|(back, sent)| inode(back) == inode(sent)).collect();
        assert_eq!(is_same, (0..40).map(|n| n < 16).collect::<Vec<_>>());
        let both = (all[0].clone(), "between".to_owned(), SharedBytes::from(vec![1; 10]), all[0].clone());
        assert_eq!(pkit::run(|both: (SharedBytes, String, SharedBytes, SharedBytes)| both, both.clone()).unwrap(), both);
    }

    fn each_run_of_a_process_gets_them() {
        let bytes = some(2);
        let shown = format!("{} {}\n", inode(&bytes), 2 * LARGE);
        let process = captured(Sum(bytes));
        for _ in 0..3 {
            process.start(true).unwrap();
            assert_eq!(process.join().unwrap().code(), Some(3));
            assert_eq!(process.output().stdout_text(), shown);
        }
    }

    fn they_do_not_come_where_a_descriptor_of_the_function_is_to_be() {
        fn check(bytes: SharedBytes) {
            assert!(bytes.iter().all(|byte| *byte == 9));
            assert_eq!(pkit::run(same, bytes.clone()).unwrap(), bytes);
            let null = open_descriptors().iter().filter(|(fd, to)| (3..20).contains(fd) && to == "/dev/null").count();
            print!("{null}");
        }
        let mut builder = Process::builder(Target::function(check, some(9)));
        for number in 3..20 {
            builder = builder.pass_fd(std::fs::File::open("/dev/null").unwrap().into(), number);
        }
        let process = builder.capture(1 << 16).build().unwrap();
        process.start(true).unwrap();
        assert!(process.join().unwrap().success(), "{}", process.output().stderr_text());
        assert_eq!(process.output().stdout_text(), "17");
    }

    fn without_descriptors_they_are_copied() {
        let bytes = without_descriptors(|| some(3));
        let back = pkit::run(same, bytes.clone()).unwrap();
        assert_eq!(back, bytes);
        let worker = Worker::new().unwrap();
        assert_eq!(worker.invoke(same, bytes).unwrap(), back);
        // (There is none for those that come.)
        let task = worker.schedule(same, back.clone()).unwrap();
        let lost = without_descriptors(|| task.wait());
        assert!(lost.is_ok() || matches!(lost, Err(TaskError::Codec(_))), "{lost:?}");
        assert_eq!(worker.invoke(same, back.clone()).unwrap(), back);
    }

    fn what_is_preloaded_is_passed_on() {
        static KEPT: Mutex<Option<SharedBytes>> = Mutex::new(None);
        pkit::preload(|| *KEPT.lock().unwrap() = Some(some(1))).unwrap();
        let kept = |with_others: bool| {
            // Whatever gets the number of its file.
            let others = [2, 3].map(|byte| with_others.then(|| some(byte)));
            (KEPT.lock().unwrap().clone().unwrap(), others[0].clone())
        };
        for with_others in [false, true] {
            let (back, others) = pkit::run(kept, with_others).unwrap();
            assert!(back.iter().all(|byte| *byte == 1) && others.is_none_or(|others| others[0] == 2));
            let worker = Worker::new().unwrap();
            assert!(worker.invoke(kept, with_others).unwrap().0.iter().all(|byte| *byte == 1));
        }
        let dropped = |()| {
            let others = [2, 3, 4].map(some);
            KEPT.lock().unwrap().take();
            (memories(()), others)
        };
        let (open, others) = pkit::run(dropped, ()).unwrap();
        assert_eq!((open, others.map(|other| other[0])), (3, [2, 3, 4]), "it closes nobody else's");
    }

    fn a_process_has_them_once_and_until_it_drops_them() {
        let (bytes, before) = (some(1), memories(()));
        let worker = Worker::new().unwrap();
        let back: Vec<SharedBytes> = (0..50).map(|_| worker.invoke(same, bytes.clone()).unwrap()).collect();
        assert_eq!(memories(()), before);
        drop(back);
        let held = worker.hold(|()| Vec::<SharedBytes>::new(), ()).unwrap();
        (0..50).for_each(|_| held.with(|all, bytes: SharedBytes| all.push(bytes), bytes.clone()).unwrap());
        assert_eq!(worker.invoke(memories, ()).unwrap(), 1);
        let dropped = |bytes: SharedBytes| {
            let before = memories(());
            drop(bytes);
            (before, memories(()))
        };
        assert_eq!(pkit::run(dropped, bytes.clone()).unwrap(), (1, 0));
        drop(held);
        assert_eq!(worker.invoke(dropped, bytes).unwrap(), (1, 0));
    }

    fn many_that_wait_take_few_descriptors_there() {
        let worker = Worker::builder().process(|process| process.rlimit(Resource::OpenFiles, 40, 40)).build().unwrap();
        let all: Vec<Vec<SharedBytes>> = (0..10).map(|_| (0..10).map(some).collect()).collect();
        let tasks: Vec<_> =
            all.iter().map(|all| worker.schedule(|all: Vec<SharedBytes>| all.len(), all.clone()).unwrap()).collect();
        assert!(tasks.into_iter().all(|task| task.wait().unwrap() == 10));
    }

    fn a_function_that_closes_all_descriptors_has_them_still() {
        fn close_all() {
            (3..100).for_each(|fd| _ = nix::unistd::close(fd));
        }
        let drops = |bytes: SharedBytes| {
            close_all();
            let own: Vec<std::fs::File> = (0..20).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
            assert!(bytes.iter().all(|byte| *byte == 1));
            drop(bytes);
            for file in &own {
                file.metadata().unwrap();
            }
            ExitCode::from(7)
        };
        let process = captured(Target::function(drops, some(1)));
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(7), "{}", process.output().stderr_text());
        let passes = |all: Vec<SharedBytes>| {
            close_all();
            // What has their numbers now.
            let others: Vec<SharedBytes> = (50..80).map(some).collect();
            let back = pkit::run(|all: Vec<SharedBytes>| all, all.clone()).unwrap();
            assert_eq!(back, all);
            let worker = Worker::new().unwrap();
            assert_eq!(worker.invoke(|all: Vec<SharedBytes>| all, all.clone()).unwrap(), all);
            worker.close();
            drop(others);
            ExitCode::from(8)
        };
        let process = captured(Target::function(passes, (0..16).map(some).collect()));
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(8), "{}", process.output().stderr_text());
    }

    fn a_call_that_can_never_be_sent_ends_and_holds_up_nobody() {
        static OPEN: AtomicBool = AtomicBool::new(false);
        let worker = Worker::new().unwrap();
        let gate = |()| {
            while !OPEN.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        };
        let held = worker.schedule(gate, ()).unwrap();
        // More than are sent before one of them is taken.
        let tasks: Vec<_> = (0..20).map(|n| worker.schedule(same, some(n)).unwrap()).collect();
        let mut closed = 0;
        for (fd, target) in open_descriptors() {
            let size = std::fs::metadata(format!("/proc/self/fd/{fd}")).map(|file| file.len());
            if target.starts_with("/memfd:pkit (") && size.is_ok_and(|size| size == LARGE as u64) {
                nix::unistd::close(fd).unwrap();
                closed += 1;
            }
        }
        // (Those that were sent are the worker's alone.)
        assert!(closed > 0);
        // SAFETY: to ignore a signal runs nothing.
        #[allow(unsafe_code)]
        unsafe { nix::sys::signal::signal(nix::sys::signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
        let ends: Vec<_> = limited(nix::sys::resource::Resource::RLIMIT_FSIZE, 1_000, || {
            worker.concurrent(|()| OPEN.store(true, Ordering::SeqCst), ()).unwrap().wait().unwrap();
            held.wait().unwrap();
            tasks.into_iter().map(|task| task.wait()).collect()
        });
        let lost = ends.iter().filter(|end| matches!(end, Err(TaskError::Codec(why)) if why.contains("File too large")));
        let lost = lost.count();
        let ok = ends.iter().filter(|end| end.is_ok()).count();
        assert_eq!((lost, ok), (closed, 20 - closed), "{ends:?}");
        assert_eq!(worker.invoke(|n: u32| n + 1, 1).unwrap(), 2);
    }

    fn a_copy_of_the_program_starts_what_was_built_before() {
        let builder = Process::builder(Sum(some(2)));
        let copy = {
            let builder = builder.clone();
            // SAFETY: this test has no other threads than those of pkit, which sleep.
            #[allow(unsafe_code)]
            unsafe {
                Target::fork(move || {
                    let process = builder.clone().build().unwrap();
                    process.start(true).unwrap();
                    ExitCode::from(process.join().unwrap().code().unwrap() as u8)
                })
            }
        };
        let copy = captured(copy);
        for process in [builder.capture(1 << 16).build().unwrap(), copy] {
            process.start(true).unwrap();
            assert_eq!(process.join().unwrap().code(), Some(3), "{}", process.output().stderr_text());
        }
    }

    fn a_copy_of_the_program_has_them() {
        let bytes = some(8);
        let copy = captured({
            let bytes = bytes.clone();
            // SAFETY: it allocates, as this test's only other threads, those of pkit, do not while they sleep.
            #[allow(unsafe_code)]
            unsafe {
                Target::fork(move || ExitCode::from(u8::from(bytes.iter().any(|byte| *byte != 8))))
            }
        });
        copy.start(true).unwrap();
        assert!(copy.join().unwrap().success());
        assert_eq!(bytes[LARGE - 1], 8);
    }
}
