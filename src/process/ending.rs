//! The end of a process, for whoever in this crate keeps count of processes.
//!
//! It takes nothing that is the user's: no callback, no subscription, no stream. Whoever looks leaves a waker in the monitor
//! of the process, in the same stay under its lock, as [`Exited`](super::futures::Exited) does; every turn
//! after which no run is there wakes it, however that came about. So no end is missed, and no thread waits for it.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::core::Core;
use super::handle::Process;
use super::monitor;
use super::state::Event;
use crate::error::Error;

/// The end to which the next start of a process leads, through all restarts of its policy.
pub(crate) struct Ending {
    process: Process,
    /// Under which the waker is kept.
    id: u64,
    /// The number of that start.
    since: u64,
}

/// How much of an end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// A run is there, or due.
    None,
    /// Nothing runs and nothing is due; a callback may still be told.
    Over,
    /// The callbacks have returned, too.
    Settled,
}

impl Ending {
    pub(crate) fn of_next_start(process: &Process) -> Ending {
        let since = process.inner.lock().machine.generation() + 1;
        Ending { process: process.clone(), id: monitor::new_id(), since }
    }

    /// What has come of it. Unless that is all, `waker` is woken when more may have: it has to look again.
    pub(crate) fn look(&self, waker: &Waker) -> Rest {
        let mut is_at_rest = false;
        let settled = self.process.inner.poll(self.id, waker, |core: &Core| {
            let machine = &core.machine;
            is_at_rest = machine.generation() >= self.since && machine.is_at_rest();
            core.rests.is_settled(self.since).then_some(())
        });
        match settled.is_ready() {
            true => Rest::Settled,
            false if is_at_rest => Rest::Over,
            false => Rest::None,
        }
    }
}

impl Process {
    /// As when its last handle is dropped.
    pub(crate) fn abandon(&self) {
        self.inner.turn(|turn| {
            if !turn.core.detached {
                turn.request(Event::Stop);
            }
        });
    }

    /// Waits until the run that is there, if one is, is over. It waits for no callback.
    pub(crate) fn wait_run(&self, until: Option<Instant>) -> bool {
        let generation = self.inner.lock().machine.generation();
        self.inner.wait_end(until, |core| core.is_run_over(generation).then_some(())).is_some()
    }

    /// Whether this thread is inside one of its callbacks.
    pub(crate) fn is_calling(&self) -> bool {
        self.inner.is_within_callback()
    }

    /// Whether its next start waits until the callback has returned that this thread is in. (Or longer.)
    pub(crate) fn restarts_after_this_callback(&self) -> bool {
        if !self.is_calling() {
            return false;
        }
        let core = self.inner.lock();
        !core.machine.is_alive() && core.machine.next_start().is_some()
    }

    /// The error of who waited so long for its end.
    pub(crate) fn not_gone(&self, operation: &'static str, limit: Duration) -> Error {
        self.inner.timeout(&self.inner.lock(), operation, "not gone", limit)
    }
}
