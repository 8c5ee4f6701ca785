//! Named threads that run closures, started on demand.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::jobs::Jobs;
use crate::panics::guarded;
use crate::reaper::{Reaper, Watcher};
use crate::sys;

type Job = Box<dyn FnOnce() + Send>;

/// How long jobs wait for threads that are all held up before there is one more.
const PATIENCE: Duration = Duration::from_millis(100);

pub(crate) struct Pool(Arc<Threads>);

struct Threads {
    name: &'static str,
    jobs: Arc<Jobs<Job>>,
    /// In the reaper, which calls when jobs have waited for a while.
    id: u64,
    /// Leaf lock, but for the reaper's timers.
    relief: Mutex<Option<Instant>>,
}

impl Pool {
    /// At most `most` threads called `name`, and more only while all of those are held up; `keep` of them stay when there is nothing
    /// to do.
    pub(crate) fn new(name: &'static str, most: usize, keep: usize) -> Pool {
        let (jobs, id) = (Arc::new(Jobs::new(most, keep)), Reaper::get().new_id());
        Pool(Arc::new(Threads { name, jobs, id, relief: Mutex::default() }))
    }

    /// Makes sure that there is a thread.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        self.0.jobs.ensure(|| self.0.start())
    }

    /// Runs `job` on one of the threads. It fails, and the job is dropped, when there is none and none can be started.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let waits = self.0.jobs.push(Box::new(job), || self.0.start()).map_err(|(_, error)| error)?;
        if waits {
            self.0.look_later();
        }
        Ok(())
    }

    /// The same, but where it would fail the job waits for the first thread that there will be.
    pub(crate) fn run_some_time(&self, job: impl FnOnce() + Send + 'static) {
        match self.0.jobs.push(Box::new(job), || self.0.start()) {
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
        let mut relief = self.relief.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a reaper there is no start either, and so nothing to wait for.
        if relief.is_none() && Reaper::get().ensure().is_ok() {
            let at = Instant::now() + PATIENCE;
            *relief = Some(at);
            Reaper::get().set_timer(self.id, None, Some(at), self);
        }
    }

    fn start(&self) -> io::Result<()> {
        let (name, jobs) = (self.name, Arc::clone(&self.jobs));
        // The program's signal handlers have no business on these threads.
        let _blocked = sys::process::block_program_signals();
        sys::process::thread(name).spawn(move || work(name, &jobs))?;
        Ok(())
    }
}

impl Watcher for Threads {
    fn ready(self: Arc<Self>, _key: u64) {}

    fn due(self: Arc<Self>, _now: Instant) {
        *self.relief.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.jobs.relieve(|| self.start()) {
            self.look_later();
        }
    }

    fn look(self: Arc<Self>) {}
}

fn work(name: &'static str, jobs: &Jobs<Job>) {
    while let Some(job) = jobs.next() {
        // The thread must outlive every panic: others count on it, and the end of a spawner would kill its children.
        guarded(job, || log::error!("pkit: a panic on a thread `{name}`"));
    }
}
