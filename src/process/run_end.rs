//! The end of a run, for who must not wait for its callbacks: they may wait for him.
//!
//! As in [`Ending`](super::ending::Ending), a waker is left in the monitor in the same stay under its lock in which the run was seen to go on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::core::Core;
use super::handle::Process;
use super::monitor;
use crate::exit::Exit;

/// The end of a run. Its callbacks may not have returned, or not have begun. To be polled to its end.
pub(crate) struct RunEnds {
    process: Process,
    /// Under which the waker is kept.
    id: u64,
    generation: u64,
}

impl Future for RunEnds {
    type Output = Exit;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Exit> {
        self.process.inner.poll(self.id, context.waker(), |core| end_of(core, self.generation))
    }
}

fn end_of(core: &Core, generation: u64) -> Option<Exit> {
    core.exit.as_ref().filter(|(of, _)| *of >= generation).map(|(_, exit)| exit.clone())
}

impl Process {
    /// The end of the run that is there. It closes a piped stdin that nobody took, as [`Process::join`] does.
    pub(crate) fn run_ends(&self) -> RunEnds {
        let mut core = self.inner.lock();
        let (generation, stdin) = (core.machine.generation(), core.streams.stdin.take());
        drop(core);
        drop(stdin);
        RunEnds { process: self.clone(), id: monitor::new_id(), generation }
    }

    /// How its first run ended.
    pub(crate) fn first_end(&self) -> Option<Exit> {
        end_of(&self.inner.lock(), 1)
    }
}
