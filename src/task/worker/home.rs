//! What a worker is to whoever has tasks for it: a process, or a thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::board::Pending;
use super::host::Host;
use super::link::Link;
use super::remote::Object;
use super::slot::Slot;
use super::wire::Lane;
use crate::sys::image::Entry;
use crate::task::error::TaskError;
use crate::task::handle::{Ended, Work};
use crate::task::outcome::Encoded;

pub(super) trait Home: Send + Sync {
    /// A number that no other one of this program has.
    fn id(&self) -> u64;
    fn name(&self) -> String;
    fn pid(&self) -> Option<u32>;
    /// Its inside, if that is in this process.
    fn host(&self) -> Option<&Arc<Host>>;
    /// Asks for a call; its number. It ends, whatever happens.
    fn call(&self, lane: Lane, entry: Entry, argument: Encoded, pending: Pending) -> u64;
    /// Who waits for it is told at once.
    fn cancel(&self, id: u64, lane: Lane);
    /// Nobody has it any more.
    fn drop_object(&self, id: u64);
    /// Until it is filled, or that moment.
    fn wait(&self, slot: &Slot, until: Option<Instant>);
    /// Why nothing is done here any more.
    fn over(&self) -> Option<TaskError>;
    /// How many calls were asked for.
    fn calls(&self) -> u64;
    /// It ends when all is done that was asked for.
    fn close(&self);
    /// It ends now; who waits gets [`TaskError::Cancelled`].
    fn stop(&self);
    /// Waits until it has ended.
    fn join(&self);
}

/// All that there is of a worker.
pub(super) struct Homes {
    pub(super) now: Option<Arc<dyn Home>>,
    pub(super) before: Vec<Arc<Link>>,
    pub(super) was_closed: bool,
}

impl Homes {
    /// The last first: none is to begin because the one before it has ended.
    pub(super) fn stop(&self) {
        self.now.iter().for_each(|home| home.stop());
        self.before.iter().rev().for_each(|home| home.stop());
    }

    pub(super) fn join(&self) {
        self.before.iter().for_each(|home| home.join());
        self.now.iter().for_each(|home| home.join());
    }

    pub(super) fn close(&self) {
        if !self.was_closed {
            self.now.iter().for_each(|home| home.close());
        }
    }
}

/// A task of a worker.
pub(super) struct Queued {
    home: Arc<dyn Home>,
    id: u64,
    lane: Lane,
    slot: Arc<Slot>,
}

impl Queued {
    pub(super) fn new(
        home: &Arc<dyn Home>,
        lane: Lane,
        entry: Entry,
        argument: Encoded,
        kept: Vec<Arc<Object>>,
    ) -> Queued {
        let slot = Arc::<Slot>::default();
        let id = home.call(lane, entry, argument, Pending { slot: Arc::clone(&slot), _kept: kept });
        Queued { home: Arc::clone(home), id, lane, slot }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Waits for its end.
    pub(super) fn end(&self) -> Ended {
        self.wait(None).unwrap_or(Err(TaskError::TimedOut))
    }
}

impl Future for Queued {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        self.slot.poll(context)
    }
}

impl Work for Queued {
    fn wait(&self, until: Option<Instant>) -> Option<Ended> {
        self.home.wait(&self.slot, until);
        self.slot.take()
    }

    fn is_done(&self) -> bool {
        self.slot.is_done()
    }

    fn cancel(&self) {
        if !self.slot.is_done() {
            self.home.cancel(self.id, self.lane);
        }
    }

    fn pid(&self) -> Option<u32> {
        self.home.pid()
    }

    fn name(&self) -> String {
        self.home.name()
    }
}
