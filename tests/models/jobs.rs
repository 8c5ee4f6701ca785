//! Those who bring jobs and the threads that take them.

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use crate::explore;
use code::{Jobs, Relief};

#[allow(dead_code)]
#[path = "../../src/threads/jobs.rs"]
mod code;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

#[derive(Debug)]
enum Job {
    Work,
    /// Lasts until another has been done.
    Held,
    Urgent,
    /// Ends a thread, so that the model can end. The crate's threads that stay stay for ever.
    Quit,
}

struct Pool {
    jobs: Jobs<Job>,
    most: usize,
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    threads: Vec<JoinHandle<()>>,
    started: usize,
    ended: usize,
    done: usize,
    held: bool,
    urgent_was_first: bool,
}

/// Why a thread is not started.
#[derive(Debug, PartialEq)]
struct Refused;

impl Pool {
    fn new(most: usize, idle: usize) -> Arc<Pool> {
        let (seen, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Pool { jobs: Jobs::new(most, idle, Relief::Late), most, seen, changed })
    }

    fn start(self: &Arc<Self>) -> Result<(), Refused> {
        let pool = Arc::clone(self);
        let thread = thread::spawn(move || pool.work());
        let mut seen = self.seen.lock().unwrap();
        seen.threads.push(thread);
        seen.started += 1;
        assert!(seen.started - seen.ended <= self.most, "more threads than there may be");
        Ok(())
    }

    fn work(&self) {
        while let Some(job @ (Job::Work | Job::Held | Job::Urgent)) = self.jobs.next(|| ()) {
            let mut seen = self.seen.lock().unwrap();
            if let Job::Held = job {
                seen.held = true;
                self.changed.notify_all();
                while seen.done == 0 {
                    seen = self.changed.wait(seen).unwrap();
                }
            }
            seen.urgent_was_first |= matches!(job, Job::Urgent) && seen.done == 0;
            seen.done += 1;
            drop(seen);
            self.changed.notify_all();
        }
        self.seen.lock().unwrap().ended += 1;
        self.changed.notify_all();
    }

    fn push(self: &Arc<Self>) {
        _ = self.jobs.push(Job::Work, || self.start()).unwrap();
    }

    /// Waits for all jobs, for ever if one is forgotten; then ends the threads.
    fn finish(&self, jobs: usize) {
        let mut seen = self.seen.lock().unwrap();
        while seen.done < jobs {
            seen = self.changed.wait(seen).unwrap();
        }
        let threads = std::mem::take(&mut seen.threads);
        drop(seen);
        for _ in &threads {
            // It comes back when all have ended already.
            let _ = self.jobs.push(Job::Quit, || Err(Refused));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// `pushes[n]` jobs are brought by thread n.
fn model(most: usize, idle: usize, pushes: &'static [usize]) {
    explore(2, move || {
        let pool = Pool::new(most, idle);
        let (first, others) = pushes.split_first().unwrap();
        let others_jobs: Vec<_> = others
            .iter()
            .map(|jobs| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || (0..*jobs).for_each(|_| pool.push()))
            })
            .collect();
        (0..*first).for_each(|_| pool.push());
        others_jobs.into_iter().for_each(|thread| thread.join().unwrap());
        pool.finish(pushes.iter().sum());
    });
}

#[test]
fn one_permanent_thread_does_all() {
    model(1, 1, &[2, 1]);
}

#[test]
fn two_permanent_threads_do_all() {
    model(2, 2, &[2, 1]);
}

#[test]
fn a_thread_that_ended_makes_room_for_another() {
    explore(2, || {
        // The count here lags behind that of the queue: for a moment it sees both.
        let pool =
            Pool { jobs: Jobs::new(1, 0, Relief::HeldUp), most: 2, seen: Mutex::default(), changed: Condvar::new() };
        let pool = Arc::new(pool);
        pool.push();
        pool.push();
        pool.finish(2);
    });
}

#[test]
fn callback_threads_do_all_though_they_end() {
    model(usize::MAX, 1, &[2]);
    model(usize::MAX, 1, &[1, 1]);
}

#[test]
fn one_idle_thread_is_kept_and_no_more() {
    explore(2, || {
        let pool = Pool::new(usize::MAX, 1);
        pool.push();
        pool.push();
        let mut seen = pool.seen.lock().unwrap();
        while seen.done < 2 {
            seen = pool.changed.wait(seen).unwrap();
        }
        let threads = std::mem::take(&mut seen.threads);
        // All but one end by themselves, or this waits for ever.
        while seen.started - seen.ended > 1 {
            seen = pool.changed.wait(seen).unwrap();
        }
        // And that one does not.
        assert_eq!(seen.started - seen.ended, 1);
        drop(seen);
        pool.jobs.push(Job::Quit, || Err(Refused)).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_thread_that_cannot_be_started_costs_no_job() {
    explore(3, || {
        let pool = Pool::new(usize::MAX, 1);
        assert!(matches!(pool.jobs.push(Job::Work, || Err(Refused)), Err((Job::Work, Refused))));
        pool.jobs.ensure(|| pool.start()).unwrap();
        for _ in 0..2 {
            pool.jobs.push(Job::Work, || Err(Refused)).unwrap();
        }
        pool.finish(2);
    });
}

/// A pool of one thread, which is held up.
fn held_up(relief: Relief) -> Arc<Pool> {
    let pool = Pool { jobs: Jobs::new(1, 2, relief), most: 2, seen: Mutex::default(), changed: Condvar::new() };
    let pool = Arc::new(pool);
    pool.jobs.push(Job::Held, || pool.start()).unwrap();
    let mut seen = pool.seen.lock().unwrap();
    while !seen.held {
        seen = pool.changed.wait(seen).unwrap();
    }
    drop(seen);
    assert!(!pool.jobs.relieve(|| pool.start()), "nothing waits");
    pool
}

#[test]
fn a_job_behind_one_that_is_held_up_gets_a_thread() {
    for relief in [Relief::HeldUp, Relief::Late] {
        explore(2, move || {
            let pool = held_up(relief);
            assert!(pool.jobs.push(Job::Work, || pool.start()).unwrap(), "there may be one");
            // It has come since the last look.
            assert!(pool.jobs.relieve::<Refused>(|| unreachable!()));
            assert!(pool.jobs.relieve(|| pool.start()));
            pool.finish(2);
        });
    }
}

#[test]
fn it_gets_one_at_the_first_look_that_comes_after_a_mark() {
    explore(2, || {
        let pool = held_up(Relief::HeldUp);
        assert!(pool.jobs.push(Job::Work, || pool.start()).unwrap(), "there may be one");
        pool.jobs.mark();
        assert!(pool.jobs.relieve(|| pool.start()));
        pool.finish(2);
    });
}

#[test]
fn one_that_is_late_gets_one_though_others_are_taken() {
    explore(1, || {
        let refused = || Err(Refused);
        let jobs = Jobs::new(1, 1, Relief::Late);
        assert!(!jobs.push(1, || Ok::<(), Refused>(())).unwrap());
        assert!((2..5).all(|job| jobs.push(job, refused).unwrap()));
        jobs.mark();
        let mut started = 0;
        let mut relieve = |jobs: &Jobs<i32>| {
            let before = started;
            assert!(jobs.relieve(|| {
                started += 1;
                Ok::<(), Refused>(())
            }));
            started - before
        };
        assert_eq!(jobs.next(|| ()), Some(1));
        assert_eq!(relieve(&jobs), 1, "at most as many as there are");
        assert!(jobs.push(5, refused).unwrap());
        assert_eq!(jobs.next(|| ()), Some(2));
        assert_eq!(relieve(&jobs), 2, "not for the one that has just come");
    });
}

#[test]
fn an_urgent_one_gets_a_thread_at_once_and_comes_first() {
    explore(2, || {
        let pool = held_up(Relief::HeldUp);
        assert!(pool.jobs.push(Job::Work, || pool.start()).unwrap(), "there may be one");
        assert!(!pool.jobs.push_urgent(Job::Urgent, || pool.start()).unwrap());
        pool.finish(3);
        assert!(pool.seen.lock().unwrap().urgent_was_first);
    });
}

#[test]
fn a_job_that_was_left_is_done_by_the_first_thread() {
    explore(3, || {
        let pool = Pool::new(1, 1);
        let left = Arc::clone(&pool);
        let leaver = thread::spawn(move || left.jobs.leave(Job::Work));
        pool.push();
        leaver.join().unwrap();
        pool.finish(2);
    });
}
