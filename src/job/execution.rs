//! What a pool was given to execute.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::roster::Running;
use crate::error::Result;
use crate::exit::Exit;
use crate::process::{Process, Status};

/// A process that a pool executes, or has; from [`Pool::execute`](crate::Pool::execute).
///
/// It is a handle: clones are the same.
///
/// # Drop
///
/// Dropped, it stops nothing: the pool holds the process until that has ended.
#[derive(Clone)]
pub struct Execution {
    running: Arc<Running>,
}

impl Execution {
    pub(super) fn new(running: Arc<Running>) -> Execution {
        Execution { running }
    }

    /// Its number in the pool, from 1 in the order in which slots were had. A start that failed has used up a number.
    pub fn id(&self) -> u64 {
        self.running.id
    }

    /// Everything about its process at this moment.
    pub fn status(&self) -> Status {
        self.running.process.status()
    }

    /// How its last finished run ended. With a restart policy that need not have been its last.
    pub fn exit(&self) -> Option<Exit> {
        self.running.process.exit()
    }

    /// Waits until it will not run again, and returns how its last run ended: [`Process::join`]. Its slot was given back
    /// by then, unless this returned before its end, inside a callback of its own.
    ///
    /// # Errors
    ///
    /// [`Error::is_foreign`](crate::Error::is_foreign), in a fork.
    pub fn join(&self) -> Result<Exit> {
        let exit = self.running.process.join();
        self.give_back_if(exit.is_ok());
        exit
    }

    /// [`join`](Execution::join) with a limit; `None` when it passed.
    ///
    /// # Errors
    ///
    /// Those of [`join`](Execution::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<Option<Exit>> {
        let exit = self.running.process.join_timeout(limit);
        self.give_back_if(matches!(exit, Ok(Some(_))));
        exit
    }

    /// Its process, for what is not here: [`signal`](Process::signal), [`stdin`](Process::stdin),
    /// [`output`](Process::output), [`exited`](Process::exited), a [`terminate`](Process::terminate) of this one alone.
    ///
    /// Who awaits [`exited`](Process::exited) may be told of the end a moment before its slot is back.
    ///
    /// What is started again by hand after its end, by [`start`](Process::start) or [`restart`](Process::restart),
    /// has no slot.
    pub fn process(&self) -> &Process {
        &self.running.process
    }

    /// Whoever wakes the pool may come a moment later than who joined.
    fn give_back_if(&self, ended: bool) {
        if ended {
            self.running.look();
        }
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution").field("id", &self.id()).field("process", self.process()).finish()
    }
}
