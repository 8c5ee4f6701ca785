//! The permanent threads that create processes for threads that may end.
//!
//! The kernel sends the parent-death signal when the *thread* that created the child exits
//! (`prctl(2)`, PR_SET_PDEATHSIG). So only a thread that lives as long as the program may create a child that
//! is to die with the program: the main thread when it is the caller, else one of these. All but that one call is done
//! on the caller's thread, and there one that hangs is waited for. They also take the automatic restarts, as a whole: an `execve` that
//! hangs on a dead file system holds up one of them, never the reaper.
//!
//! They start on demand, at most one per core, and more only while all of those are held up. They never end. What a child inherits from its
//! creating *thread* (affinity, nice value, capabilities, seccomp filters, namespaces) it
//! inherits from here unless an option sets it.

use std::io;
use std::thread;
use std::time::Duration;

use crate::sys;
use crate::threads::{Habits, Pool};

/// What it is good for, `docs/measurements.md` tells.
const LINGER: Duration = Duration::from_micros(100);

pub(crate) struct Spawners {
    pool: Pool,
}

static SPAWNERS: sys::PerProcess<Spawners> = sys::PerProcess::new();

impl Spawners {
    pub(crate) fn get() -> &'static Spawners {
        SPAWNERS.get_or_init(|| {
            let most = thread::available_parallelism().map_or(1, usize::from);
            // All of them stay: the end of one would kill the children that it created.
            Spawners { pool: Pool::new(Habits { name: "pkit-spawn", most, keep: usize::MAX, linger: LINGER }) }
        })
    }

    /// Runs `job` on a permanent thread. It fails only when there is none and none can be started.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.pool.run(job)
    }
}
