//! The permanent threads that create processes for threads that may end.
//!
//! The kernel sends the parent-death signal when the *thread* that created the child exits
//! (`prctl(2)`, PR_SET_PDEATHSIG). So only a thread that lives as long as the program may create a child that
//! is to die with the program: the main thread when it is the caller, else one of these. They
//! also take the automatic restarts: an `execve` that hangs on a dead file system holds up one of them,
//! never the reaper.
//!
//! They start on demand, at most one per core, and never end. What a child inherits from its
//! creating *thread* (affinity, nice value, capabilities, seccomp filters, namespaces) it
//! inherits from here unless an option sets it.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::sys;

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Spawners {
    shared: Arc<Shared>,
    most: usize,
}

struct Shared {
    /// Leaf lock: nothing else is taken while it is held.
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static SPAWNERS: sys::PerProcess<Spawners> = sys::PerProcess::new();

impl Spawners {
    pub(crate) fn get() -> &'static Spawners {
        SPAWNERS.get_or_init(|| Spawners {
            shared: Arc::new(Shared { queue: Mutex::default(), work: Condvar::new() }),
            most: thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// Runs `job` on a permanent thread. It fails only when there is none and none can be started.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut queue = self.shared.lock();
        if queue.idle <= queue.jobs.len() && queue.threads < self.most {
            match self.start() {
                Ok(()) => queue.threads += 1,
                Err(error) if queue.threads == 0 => return Err(error),
                // Those that are there will come to it.
                Err(_) => {}
            }
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }

    fn start(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let _blocked = sys::process::block_all_signals();
        thread::Builder::new().name("pkit-spawn".into()).spawn(move || shared.work())?;
        Ok(())
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            match queue.jobs.pop_front() {
                Some(job) => {
                    drop(queue);
                    // This thread must outlive every panic: its end would kill its children.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        log::error!("pkit: a panic while a process was being started");
                    }
                    queue = self.lock();
                }
                None => {
                    queue.idle += 1;
                    queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    queue.idle -= 1;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
