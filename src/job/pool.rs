//! `Pool`: at most so many processes at once.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::execution::Execution;
use super::roster::{Refusal, Roster};
use super::slots::Slots;
use crate::error::{Error, Kind, Result, Who};
use crate::process::{Builder, State};
use crate::wait::Wait;

const STUCK: &str = "every slot is kept for a restart that waits for a callback which waits for a slot";

/// Executes processes, at most so many at once.
///
/// Each has a [slot](Slots) from before its start until it will not run again: a restart policy keeps it through all
/// back-offs. However it ends, the slot comes back when its last run is over (which is before its `on_exit` returns),
/// or when the start has failed. There is no thread for that.
///
/// It is a handle: clones are the same pool, every method takes `&self` and may be called from any thread, callbacks
/// included.
///
/// # Drop
///
/// The last handle dropped closes the pool and stops what runs by its stop ladder, without waiting, even where there is
/// an [`Execution`] of it; what is [detached](crate::Process::detach) is left alone. The slots come back all the same, as
/// each is over.
///
/// # After a fork
///
/// In a process that `fork` copied from this one nothing is executed
/// ([`Error::is_foreign`]), the pool is empty and closed, and dropping it does nothing.
///
/// # Example
///
/// ```
/// use pkit::{Command, Pool, Process, Restart};
///
/// let pool = Pool::new(4);
/// for file in ["a", "b", "c", "d", "e", "f"] {
///     pool.execute(Command::new("echo").arg(file))?; // `e` begins when one of the others has ended
/// }
/// let last = Process::builder(Command::new("sh").args(["-c", "exit 3"])).restart(Restart::never());
/// let last = pool.execute(last)?;
/// assert_eq!((last.id(), last.join()?.code()), (7, Some(3)));
/// pool.close(); // until all have ended
/// assert!(pool.execute(Command::new("true")).is_err_and(|error| error.is_closed()));
/// # Ok::<(), pkit::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "the last handle dropped stops what runs"]
pub struct Pool {
    owner: Arc<Owner>,
}

/// What all handles have in common; what runs has only the roster.
struct Owner {
    roster: Arc<Roster>,
}

impl Pool {
    /// A pool with so many slots of its own.
    ///
    /// # Panics
    ///
    /// If `size` is 0.
    pub fn new(size: usize) -> Pool {
        Pool::with(Slots::new(size))
    }

    /// A pool that takes its slots from there, as others may.
    pub fn with(slots: Slots) -> Pool {
        Pool { owner: Arc::new(Owner { roster: Arc::new(Roster::new(slots)) }) }
    }

    /// Starts a process, of a target or with options, as soon as there is a slot for it; blocks until then, and until its
    /// program executes. Slots are given in the order of the calls.
    ///
    /// Inside a callback it may wait for the slot of the very process whose callback it is. That one's end does not wait
    /// for `on_exit`; but its output waits for `on_line`, and a program that writes much does not end before that returns.
    ///
    /// # Errors
    ///
    /// - [`Error::is_closed`]: the pool is closed, or was while this waited.
    /// - [`Error::is_invalid`]: the options make no sense; that is told at once. Or this would wait for ever: every slot is
    ///   kept by a process that its policy is to start again once its callback returns, and all those callbacks wait for
    ///   a slot, of which this is one.
    /// - [`Error::is_not_created`]: it could not be started. Its slot is free again, and a restart policy does nothing.
    pub fn execute(&self, process: impl Into<Builder>) -> Result<Execution> {
        let execution = self.execute_until(process.into(), None)?;
        Ok(execution.expect("without a limit there is no time-out"))
    }

    /// The same if there is a slot now; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](Pool::execute).
    pub fn try_execute(&self, process: impl Into<Builder>) -> Result<Option<Execution>> {
        self.execute_timeout(process, Duration::ZERO)
    }

    /// The same if there is a slot within the limit; `None` if there was none. The limit is for the slot, not for the
    /// start.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](Pool::execute).
    pub fn execute_timeout(&self, process: impl Into<Builder>, limit: Duration) -> Result<Option<Execution>> {
        self.execute_until(process.into(), Instant::now().checked_add(limit))
    }

    fn execute_until(&self, builder: Builder, until: Option<Instant>) -> Result<Option<Execution>> {
        const OPERATION: &str = "execute";
        let process = builder.build()?;
        self.check_owner(OPERATION, process.name())?;
        let refused = |refusal| {
            let kind = match refusal {
                Refusal::Closed => Kind::Closed("pool"),
                Refusal::Stuck => Kind::Invalid(STUCK.to_owned()),
            };
            Error::new(who(process.name()), OPERATION, kind)
        };
        let Some(running) = self.roster().admit(&process, until).map_err(refused)? else { return Ok(None) };
        match process.start(false) {
            Ok(_) => running.started(),
            Err(error) => {
                running.strike();
                return Err(error);
            }
        }
        Ok(Some(Execution::new(running)))
    }

    /// What runs, is being started, or is to be started again by its policy, in the order of the ids.
    pub fn running(&self) -> Vec<Execution> {
        if self.roster().is_foreign() {
            return Vec::new();
        }
        let all = self.roster().entries().into_iter();
        // What has ended may have a callback that has not returned.
        let runs = all.filter(|entry| !matches!(entry.process.state(), State::Idle | State::Failed));
        runs.map(Execution::new).collect()
    }

    /// Its slots.
    pub fn slots(&self) -> &Slots {
        &self.roster().slots
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.roster().is_foreign() || self.roster().is_closed()
    }

    /// Executes nothing more, and waits until all that it executes have ended, by themselves or because somebody stops them, and
    /// their `on_exit` callbacks have returned. Who waits for a slot gets an error at once.
    ///
    /// Restart policies go on: what is always started again never ends. A piped stdin that nobody took stays open.
    ///
    /// Inside a callback it waits for no callback, only for the end of the runs that are there, and not for that of its own
    /// process.
    pub fn close(&self) {
        if !self.roster().is_foreign() {
            self.roster().close(false);
            self.roster().wait(None);
        }
    }

    /// Executes nothing more, and stops all that runs, side by side, each by its stop ladder. Restart policies are off,
    /// and who waits for a slot gets an error at once.
    ///
    /// With `true` it waits until all are gone and their `on_exit` callbacks have returned, with a `Duration` at most so
    /// long. Inside a callback it waits for no callback, only for the end of the runs that are there.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`]: not all were gone within the limit given; the error is about the first of them. The ladders
    /// go on.
    pub fn terminate(&self, wait: impl Into<Wait>) -> Result<()> {
        const OPERATION: &str = "terminate";
        self.check_owner(OPERATION, "pool")?;
        let wait = wait.into();
        let limit = match wait {
            Wait::No | Wait::Yes => Duration::MAX,
            Wait::For(limit) => limit,
        };
        let until = Instant::now().checked_add(limit);
        for running in self.roster().close(true) {
            running.process.terminate(false)?;
        }
        if wait == Wait::No || self.roster().wait(until) {
            return Ok(());
        }
        match self.roster().entries().first() {
            Some(first) => Err(first.process.not_gone(OPERATION, limit)),
            None => Ok(()),
        }
    }

    fn roster(&self) -> &Arc<Roster> {
        &self.owner.roster
    }

    fn check_owner(&self, operation: &'static str, name: &str) -> Result<()> {
        let owner = self.roster().owner_pid;
        let foreign = || Error::new(who(name), operation, Kind::Foreign { owner });
        if self.roster().is_foreign() { Err(foreign()) } else { Ok(()) }
    }
}

fn who(name: &str) -> Who {
    Who { name: name.into(), pid: None }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.roster.is_foreign() {
            // The list may be as a thread left it that is not there: nothing of it is dropped.
            std::mem::forget(Arc::clone(&self.roster));
            return;
        }
        self.roster.close(true).iter().for_each(|running| running.process.abandon());
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Pool");
        out.field("slots", self.slots()).field("closed", &self.is_closed());
        out.finish_non_exhaustive()
    }
}
