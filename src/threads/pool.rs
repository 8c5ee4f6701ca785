//! Named threads that run closures, started on demand.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::jobs::Jobs;
use crate::sys;

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Pool {
    name: &'static str,
    jobs: Arc<Jobs<Job>>,
}

impl Pool {
    /// At most `most` threads called `name`, of which `keep` stay when there is nothing to do.
    pub(crate) fn new(name: &'static str, most: usize, keep: usize) -> Pool {
        Pool { name, jobs: Arc::new(Jobs::new(most, keep)) }
    }

    /// Makes sure that there is a thread.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        self.jobs.ensure(|| self.start())
    }

    /// Runs `job` on one of the threads. It fails, and the job is dropped, when there is none and none can be started.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.jobs.push(Box::new(job), || self.start()).map_err(|(_, error)| error)
    }

    /// The same, but where it would fail the job waits for the first thread that there will be.
    pub(crate) fn run_some_time(&self, job: impl FnOnce() + Send + 'static) {
        if let Err((job, _)) = self.jobs.push(Box::new(job), || self.start()) {
            self.jobs.leave(job);
        }
    }

    fn start(&self) -> io::Result<()> {
        let (name, jobs) = (self.name, Arc::clone(&self.jobs));
        // The program's signal handlers have no business on these threads.
        let _blocked = sys::process::block_program_signals();
        thread::Builder::new().name(name.into()).spawn(move || work(name, &jobs))?;
        Ok(())
    }
}

fn work(name: &'static str, jobs: &Jobs<Job>) {
    while let Some(job) = jobs.next() {
        // The thread must outlive every panic, that of the logger and that of a payload's drop too: others count on
        // it, and the end of a spawner would kill its children.
        std::mem::forget(catch_unwind(AssertUnwindSafe(|| {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("pkit: a panic on a thread `{name}`");
            }
        })));
    }
}
