//! The permanent threads that create processes for threads that may end.
//!
//! The kernel sends the parent-death signal when the *thread* that created the child exits
//! (`prctl(2)`, PR_SET_PDEATHSIG). So only a thread that lives as long as the program may create a child that
//! is to die with the program: the main thread when it is the caller, else one of these. They start on demand, and never end.
//!
//! For a caller all but that one call is done on its own thread, which then sleeps until the child has executed. The call is made on the
//! processor that the caller leaves: another one would first have to be woken, which takes longer. So there is one of these threads for
//! each processor on which there are callers, bound to it; the child runs where its caller may.
//!
//! Automatic restarts are done as a whole, by threads of their own: an `execve` that hangs on a dead file system holds up one of those,
//! never the reaper or a caller. There is at most one per core, and more only while all are held up.
//!
//! What a child inherits from its creating *thread* (nice value, capabilities, seccomp filters, namespaces, and in a restart affinity)
//! it inherits from here unless an option sets it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::sys;
use crate::sys::creator::Errand;
use crate::sys::locked;
use crate::threads::{Habits, Pool};

/// What it is good for, `docs/measurements.md` tells.
const LINGER: Duration = Duration::from_micros(100);

pub(crate) struct Spawners {
    restarting: Pool,
    /// By the processor; those of `None` are not bound. A leaf lock, but for that of each of them.
    creating: Mutex<BTreeMap<Option<usize>, Arc<Pool>>>,
}

static SPAWNERS: sys::PerProcess<Spawners> = sys::PerProcess::new();

impl Spawners {
    pub(crate) fn get() -> &'static Spawners {
        SPAWNERS
            .get_or_init(|| Spawners { restarting: pool("pkit-restart", cores(), None), creating: Mutex::default() })
    }

    /// Runs the whole of a restart. It fails only when there is no thread for it and none can be started.
    pub(crate) fn restart(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.restarting.run(job)
    }

    /// Has the errand run while the caller sleeps. It fails only when there is no thread for it and none can be started.
    pub(crate) fn create(&self, errand: Errand) -> io::Result<()> {
        self.near()?.run(|| errand.run())
    }

    /// Those of this processor; any other where it has none and cannot have one.
    fn near(&self) -> io::Result<Arc<Pool>> {
        let processor = sys::affinity::here();
        let most = if processor.is_some() { 1 } else { cores() };
        let mut creating = locked(&self.creating);
        let here = creating.entry(processor).or_insert_with(|| Arc::new(pool("pkit-spawn", most, processor)));
        match here.ensure() {
            Ok(()) => Ok(Arc::clone(here)),
            Err(error) => creating.values().find(|pool| pool.ensure().is_ok()).map(Arc::clone).ok_or(error),
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// All of its threads stay: the end of one would kill the children that it created.
fn pool(name: &'static str, most: usize, processor: Option<usize>) -> Pool {
    Pool::new(Habits { name, most, keep: usize::MAX, linger: LINGER, processor })
}
