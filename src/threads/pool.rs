//! Named threads that run closures, started on demand.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::jobs::{Jobs, Relief};
use crate::panics::guarded;
use crate::reaper::{Reaper, Watcher};
use crate::sys;
use crate::sys::locked;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that is given jobs so soon one after the other is given more.
const SOON: Duration = Duration::from_millis(5);

/// How long jobs wait before it is looked whether there should be more threads.
const PATIENCE: Duration = Duration::from_millis(100);

pub(crate) struct Pool(Arc<Threads>);

/// How many threads there are, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    pub(crate) name: &'static str,
    /// There are more only as `relief` says.
    pub(crate) most: usize,
    pub(crate) relief: Relief,
    /// So many stay when there is nothing to do.
    pub(crate) keep: usize,
    /// While jobs come soon one after the other, a thread looks for the next one so long before it sleeps: to be woken takes longer
    /// than many a job. Meanwhile it leaves its processor to whoever else wants it.
    pub(crate) linger: Duration,
    /// To which its threads are bound at first, but those that relieve the others; `None`: none is.
    pub(crate) processor: Option<usize>,
}

struct Threads {
    habits: Habits,
    jobs: Arc<Jobs<Job>>,
    /// In the reaper, which calls when jobs have waited for a while.
    id: u64,
    /// Leaf lock, but for the queue, and the reaper's timers.
    relief: Mutex<Option<Instant>>,
    /// The number of the thread that is bound, once it has begun.
    bound: Arc<AtomicI32>,
}

impl Pool {
    pub(crate) fn new(habits: Habits) -> Pool {
        let (jobs, id) = (Arc::new(Jobs::new(habits.most, habits.keep, habits.relief)), Reaper::get().new_id());
        Pool(Arc::new(Threads { habits, jobs, id, relief: Mutex::default(), bound: Arc::default() }))
    }

    /// Makes sure that there is a thread.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        self.0.jobs.ensure(|| self.0.start())
    }

    /// Starts no more threads than this from now on, but as relief. How many there are.
    pub(crate) fn limit(&self, most: usize) -> usize {
        self.0.jobs.limit(most)
    }

    /// Whether one of its threads has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.jobs.is_any_idle()
    }

    /// Whether one of them sleeps.
    pub(crate) fn is_asleep(&self) -> bool {
        self.0.jobs.is_any_asleep()
    }

    /// Binds the thread that is bound to another processor.
    pub(crate) fn bind(&self, processor: usize) {
        let thread = self.0.bound.load(Ordering::Relaxed);
        if thread != 0 {
            sys::affinity::bind(thread, processor);
        }
    }

    /// Runs `job` on one of the threads. It fails, and the job is dropped, when there is none and none can be started.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let waits = self.0.jobs.push(Box::new(job), || self.0.start()).map_err(|(_, error)| error)?;
        // Somebody may keep the processor from who is bound to it.
        if waits || self.0.habits.processor.is_some() {
            self.0.look_later();
        }
        Ok(())
    }

    /// The same, but where it would fail the job waits for the first thread that there will be.
    pub(crate) fn run_some_time(&self, job: impl FnOnce() + Send + 'static) {
        self.see_to(self.0.jobs.push(Box::new(job), || self.0.start()));
    }

    /// The same, and it does not wait for the others.
    pub(crate) fn run_first(&self, job: impl FnOnce() + Send + 'static) {
        self.see_to(self.0.jobs.push_urgent(Box::new(job), || self.0.start()));
    }

    fn see_to(&self, pushed: Result<bool, (Job, io::Error)>) {
        match pushed {
            Ok(false) => {}
            Ok(true) => self.0.look_later(),
            Err((job, _)) => {
                self.0.jobs.leave(job);
                self.0.look_later();
            }
        }
    }
}

impl Threads {
    fn look_later(self: &Arc<Self>) {
        let mut relief = locked(&self.relief);
        // Without a reaper there is no start either, and so nothing to wait for.
        if relief.is_none() && Reaper::get().ensure().is_ok() {
            let at = Instant::now() + PATIENCE;
            *relief = Some(at);
            self.jobs.mark();
            Reaper::get().set_timer(self.id, None, Some(at), self);
        }
    }

    fn start(&self) -> io::Result<()> {
        self.start_on(self.habits.processor)
    }

    fn start_on(&self, processor: Option<usize>) -> io::Result<()> {
        let (Habits { name, linger, .. }, jobs) = (self.habits, Arc::clone(&self.jobs));
        let bound = Arc::clone(&self.bound);
        // The program's signal handlers have no business on these threads.
        let _blocked = sys::process::block_program_signals();
        sys::process::thread(name).spawn(move || {
            if let Some(processor) = processor {
                let thread = sys::process::thread_id() as i32;
                sys::affinity::bind(thread, processor);
                bound.store(thread, Ordering::Relaxed);
            }
            work(name, linger, &jobs);
        })?;
        Ok(())
    }
}

impl Watcher for Threads {
    fn ready(self: Arc<Self>, _key: u64) {}

    fn due(self: Arc<Self>, _now: Instant) {
        *locked(&self.relief) = None;
        // Not bound: it may be the processor that holds them up.
        if self.jobs.relieve(|| self.start_on(None)) {
            self.look_later();
        }
    }

    fn look(self: Arc<Self>) {}
}

fn work(name: &str, linger: Duration, jobs: &Jobs<Job>) {
    let mut is_busy = false;
    loop {
        let since = Instant::now();
        let next = jobs.next(|| {
            while is_busy && since.elapsed() < linger && !jobs.is_any() {
                thread::yield_now();
            }
        });
        let Some(job) = next else { return };
        is_busy = since.elapsed() < SOON;
        // The thread must outlive every panic: others count on it, and the end of a spawner would kill its children.
        guarded(job, || log::error!("pkit: a panic on a thread `{name}`"));
    }
}
