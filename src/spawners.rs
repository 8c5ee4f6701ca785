//! The permanent threads that create processes for threads that may end.
//!
//! The kernel sends the parent-death signal when the *thread* that created the child exits
//! (`prctl(2)`, PR_SET_PDEATHSIG). So only a thread that lives as long as the program may create a child that
//! is to die with the program: the main thread when it is the caller, else one of these. They start on demand, and never end.
//!
//! For a caller all but that one call is done on its own thread, which then sleeps until the child has executed. The call is made on the
//! processor that the caller leaves: another one would first have to be woken, which takes longer. So a thread that sleeps is bound to that
//! processor, where the caller ran a moment ago, before it is woken; the child runs where its caller may. There are more threads only
//! where starts come side by side: one that is not needed could take the last place under a limit of processes.
//!
//! Automatic restarts are done as a whole, by threads of their own: an `execve` that hangs on a dead file system holds up one of those,
//! never the reaper or a caller. There is one, and more only while all are held up.
//!
//! What a child inherits from its creating *thread* (nice value, capabilities, seccomp filters, namespaces, and in a restart affinity)
//! it inherits from here unless an option sets it.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::sys;
use crate::sys::creator::Errand;
use crate::sys::locked;
use crate::threads::{Habits, Pool, Relief};

/// What it is good for, `docs/measurements.md` tells.
const LINGER: Duration = Duration::from_micros(100);

pub(crate) struct Spawners {
    restarting: Pool,
    /// For callers whose threads may not be bound.
    unbound: Pool,
    /// A leaf lock, but for that of each of them.
    bound: Mutex<Vec<Bound>>,
    cores: usize,
}

/// One thread, with those that relieve it.
struct Bound {
    threads: Arc<Pool>,
    processor: usize,
}

static SPAWNERS: sys::PerProcess<Spawners> = sys::PerProcess::new();

impl Spawners {
    pub(crate) fn get() -> &'static Spawners {
        SPAWNERS.get_or_init(|| Spawners::new(thread::available_parallelism().map_or(1, usize::from)))
    }

    fn new(cores: usize) -> Spawners {
        Spawners {
            restarting: pool("pkit-restart", 1, None),
            unbound: pool("pkit-spawn", cores, None),
            bound: Mutex::default(),
            cores,
        }
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

    /// One that does it on this processor, if there is a choice.
    fn bound_to(&self, processor: usize) -> io::Result<Arc<Pool>> {
        let mut all = locked(&self.bound);
        // Also if it is busy: a moment later it is not, and the one of another processor would have to come over.
        if let Some(there) = all.iter().find(|bound| bound.processor == processor) {
            return Ok(Arc::clone(&there.threads));
        }
        if let Some(sleeps) = all.iter_mut().find(|bound| bound.threads.is_asleep()) {
            sleeps.threads.bind(processor);
            sleeps.processor = processor;
            return Ok(Arc::clone(&sleeps.threads));
        }
        let busy = || all.first().map(|busy| Arc::clone(&busy.threads));
        let lingers = all.iter().find(|bound| bound.threads.is_idle()).map(|lingers| Arc::clone(&lingers.threads));
        if let Some(other) = lingers.or_else(|| if self.has_room(all.len()) { None } else { busy() }) {
            return Ok(other);
        }
        let threads = Arc::new(pool("pkit-spawn", 1, Some(processor)));
        if let Err(error) = threads.ensure() {
            return busy().ok_or(error);
        }
        all.push(Bound { threads: Arc::clone(&threads), processor });
        Ok(threads)
    }

    /// Whether there may be one more that is bound. There is one thread for each processor, of both kinds together, and at least one of each.
    fn has_room(&self, bound: usize) -> bool {
        let unbound = self.unbound.limit(self.cores.saturating_sub(bound + 1).max(1));
        bound == 0 || bound + unbound < self.cores
    }
}

/// All of its threads stay: the end of one would kill the children that it created.
fn pool(name: &'static str, most: usize, processor: Option<usize>) -> Pool {
    Pool::new(Habits { name, most, relief: Relief::HeldUp, keep: usize::MAX, linger: LINGER, processor })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bound threads there come to be beside so many others, and how many others there may be then.
    fn bound_beside(others: usize, cores: usize) -> (usize, usize) {
        let spawners = Spawners::new(cores);
        let held: Vec<_> = (0..others)
            .map(|_| {
                let (release, gate) = std::sync::mpsc::channel::<()>();
                spawners.unbound.run(move || _ = gate.recv()).unwrap();
                release
            })
            .collect();
        let bound = (0..).find(|bound| !spawners.has_room(*bound)).unwrap();
        drop(held);
        (bound, spawners.unbound.limit(cores))
    }

    #[test]
    fn threads_of_both_kinds_share_one_number() {
        for cores in 1..5 {
            for others in 0..=cores {
                let (bound, unbound) = bound_beside(others, cores);
                assert_eq!(unbound, others);
                assert_eq!(bound, (cores - others).max(1), "beside {others} on {cores}");
            }
        }
    }
}
