//! The permanent threads that create processes for threads that may end.
//!
//! The kernel sends the parent-death signal when the *thread* that created the child exits
//! (`prctl(2)`, PR_SET_PDEATHSIG). So only a thread that lives as long as the program may create a child that
//! is to die with the program: the main thread when it is the caller, else one of these. They start on demand, and never end.
//!
//! For a caller all but that one call is done on its own thread, which then sleeps until the child has executed. The call is made on the
//! processor that the caller leaves: another one would first have to be woken, which takes longer. So there is one of these threads for
//! a processor, bound to it; the child runs where its caller may. A processor gets its own when those of the others are busy: one that
//! is not needed could take the last place under a limit of processes.
//!
//! Automatic restarts are done as a whole, by threads of their own: an `execve` that hangs on a dead file system holds up one of those,
//! never the reaper or a caller. There is one, and more only while all are held up.
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
    /// For callers whose threads may not be bound.
    unbound: Pool,
    /// By the processor to which they are bound. A leaf lock, but for that of each of them.
    bound: Mutex<BTreeMap<usize, Arc<Pool>>>,
}

static SPAWNERS: sys::PerProcess<Spawners> = sys::PerProcess::new();

impl Spawners {
    pub(crate) fn get() -> &'static Spawners {
        SPAWNERS.get_or_init(|| Spawners {
            restarting: pool("pkit-restart", 1, None),
            unbound: pool("pkit-spawn", thread::available_parallelism().map_or(1, usize::from), None),
            bound: Mutex::default(),
        })
    }

    /// Makes sure that there is a thread for [`restart`](Spawners::restart).
    pub(crate) fn ensure_restarts(&self) -> io::Result<()> {
        self.restarting.ensure()
    }

    /// Runs the whole of a restart. It fails only when there is no thread for it and none can be started.
    pub(crate) fn restart(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.restarting.run(job)
    }

    /// Has the errand run while the caller sleeps. It fails only when there is no thread for it and none can be started.
    pub(crate) fn create(&self, errand: Errand) -> io::Result<()> {
        match sys::affinity::to_bind_to() {
            None => self.unbound.run(|| errand.run()),
            Some(processor) => self.bound_to(processor)?.run(|| errand.run()),
        }
    }

    /// Those of this processor, or of another one: see above.
    fn bound_to(&self, processor: usize) -> io::Result<Arc<Pool>> {
        let mut bound = locked(&self.bound);
        if let Some(pool) = bound.get(&processor).or_else(|| bound.values().find(|other| other.is_idle())) {
            return Ok(Arc::clone(pool));
        }
        let new = Arc::new(pool("pkit-spawn", 1, Some(processor)));
        if let Err(error) = new.ensure() {
            return bound.values().next().cloned().ok_or(error);
        }
        bound.insert(processor, Arc::clone(&new));
        Ok(new)
    }
}

/// All of its threads stay: the end of one would kill the children that it created.
fn pool(name: &'static str, most: usize, processor: Option<usize>) -> Pool {
    Pool::new(Habits { name, most, keep: usize::MAX, linger: LINGER, processor })
}
