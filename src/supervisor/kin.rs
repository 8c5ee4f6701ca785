//! What a child of a supervisor is: a process, or another supervisor.

use std::sync::{Arc, Weak};

use super::core::Inner;
use super::handle::Supervisor;
use super::status::ChildStatus;
use crate::error::Result;
use crate::failure::Cause;
use crate::policy::{GiveUp, Restart};
use crate::process::{Overseer, Process, Queue, Tiding};

#[derive(Clone)]
pub(super) enum Kin {
    Process(Process),
    Supervisor(Supervisor),
}

impl Kin {
    pub(super) fn name(&self) -> &str {
        match self {
            Kin::Process(process) => process.name(),
            Kin::Supervisor(supervisor) => supervisor.name(),
        }
    }

    pub(super) fn process(&self) -> Option<&Process> {
        match self {
            Kin::Process(process) => Some(process),
            Kin::Supervisor(_) => None,
        }
    }

    pub(super) fn put_under(&self, by: &Arc<Inner>, place: usize) -> Result<()> {
        match self {
            Kin::Process(process) => {
                let by: Weak<Inner> = Arc::downgrade(by);
                process.put_under(by as Weak<dyn Overseer>, place, Restart::always())
            }
            Kin::Supervisor(supervisor) => supervisor.inner.put_under(by, place),
        }
    }

    pub(super) fn set_free(&self) {
        match self {
            Kin::Process(process) => process.set_free(),
            Kin::Supervisor(supervisor) => supervisor.inner.set_free(),
        }
    }

    /// Its events go there as well.
    pub(super) fn tell(&self, queue: &Arc<Queue>) {
        match self {
            Kin::Process(process) => process.tell(queue),
            Kin::Supervisor(supervisor) => supervisor.inner.subscribe(queue, true),
        }
    }

    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Kin::Process(process) => process.is_temporary(),
            Kin::Supervisor(supervisor) => supervisor.inner.restart == Restart::never(),
        }
    }

    pub(super) fn take_tidings(&self) -> Vec<Tiding> {
        match self {
            Kin::Process(process) => process.take_tidings(),
            Kin::Supervisor(supervisor) => supervisor.inner.take_tidings(),
        }
    }

    pub(super) fn launch(&self, anew: bool) {
        match self {
            Kin::Process(process) => process.launch(anew),
            Kin::Supervisor(supervisor) => supervisor.inner.launch(anew),
        }
    }

    pub(super) fn permit(&self) {
        match self {
            Kin::Process(process) => process.permit(),
            Kin::Supervisor(supervisor) => supervisor.inner.permit(),
        }
    }

    pub(super) fn ask_to_end(&self, kill: bool) {
        match self {
            Kin::Process(process) => process.ask_to_end(kill),
            Kin::Supervisor(supervisor) => supervisor.inner.ask_to_end(kill),
        }
    }

    /// The process in one of whose callbacks this thread is. With no lock held.
    pub(super) fn calling_here(&self) -> Option<Arc<str>> {
        match self {
            Kin::Process(process) => process.is_calling_here().then(|| process.name().into()),
            Kin::Supervisor(supervisor) => supervisor.inner.calling_here(),
        }
    }

    /// How it ended last, and why its policy gave up.
    pub(super) fn cause(&self) -> (Option<Cause>, Option<GiveUp>) {
        match self {
            Kin::Process(process) => {
                let status = process.status();
                (status.error.map(Cause::NotCreated).or(status.exit.map(Cause::Exit)), status.gave_up)
            }
            Kin::Supervisor(supervisor) => {
                let core = supervisor.inner.core.lock();
                (core.failure.clone().map(Cause::Failure), core.above.as_ref().and_then(|above| above.gave_up))
            }
        }
    }

    pub(super) fn status(&self) -> ChildStatus {
        match self {
            Kin::Process(process) => ChildStatus::Process(process.status()),
            Kin::Supervisor(supervisor) => ChildStatus::Supervisor(supervisor.status()),
        }
    }

    /// Drops the handle, which may be the last.
    pub(super) fn give_back(self) {
        match self {
            Kin::Process(process) => process.give_back(),
            Kin::Supervisor(supervisor) => {
                let inner = Arc::clone(&supervisor.inner);
                drop(supervisor);
                inner.let_go();
            }
        }
    }
}
