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
    /// By the processor; those of `None` are not bound. A leaf lock, but for that of each of them.
    creating: Mutex<BTreeMap<Option<usize>, Arc<Pool>>>,
}

static SPAWNERS: sys::PerProcess<Spawners> = sys::PerProcess::new();

impl Spawners {
    pub(crate) fn get() -> &'static Spawners {
        SPAWNERS.get_or_init(|| Spawners { restarting: pool("pkit-restart", 1, None), creating: Mutex::default() })
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
        self.near()?.run(|| errand.run())
    }

    /// Those of this processor. It gets some when those of the others are busy, and if it can: a thread that is not needed would
    /// take the place of a process where their number is limited.
    fn near(&self) -> io::Result<Arc<Pool>> {
        let processor = sys::affinity::here();
        let mut creating = locked(&self.creating);
        // Who may not be bound is not to come to those who are, nor the other way round.
        let mut others = creating.iter().filter(|(other, _)| other.is_some() == processor.is_some());
        let idle =
            creating.get(&processor).or_else(|| others.clone().map(|(_, pool)| pool).find(|pool| pool.is_idle()));
        if let Some(pool) = idle {
            return Ok(Arc::clone(pool));
        }
        let new = Arc::new(pool("pkit-spawn", if processor.is_some() { 1 } else { cores() }, processor));
        match (new.ensure(), others.next()) {
            (Err(_), Some((_, busy))) => return Ok(Arc::clone(busy)),
            (ensured, _) => ensured?,
        }
        creating.insert(processor, Arc::clone(&new));
        Ok(new)
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// All of its threads stay: the end of one would kill the children that it created.
fn pool(name: &'static str, most: usize, processor: Option<usize>) -> Pool {
    Pool::new(Habits { name, most, keep: usize::MAX, linger: LINGER, processor })
}
