//! What waits to be sent to a worker's process, and when it is.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Link;
use crate::reaper::Reaper;
use crate::sys::locked;
use crate::sys::ring::Garbage;
use crate::task::error::TaskError;
use crate::task::worker::outgoing::{Outgoing, Pumped};
use crate::task::worker::wire::{Lane, Request};

/// Until a descriptor that could not be sent is tried again.
const AGAIN: Duration = Duration::from_millis(20);

impl Link {
    pub(super) fn send(&self, lane: Lane, request: &Request) {
        let lane = &self.lanes[lane as usize];
        locked(lane).add(request);
        self.pump(lane);
    }

    pub(super) fn pump(&self, lane: &Mutex<Outgoing>) {
        loop {
            let mut outgoing = locked(lane);
            match outgoing.pump(&self.channel) {
                Ok(Pumped::Well) => {}
                Ok(Pumped::Lost(id, error)) => {
                    // Under the lock: nobody sends what is there in its place before.
                    self.lose(id, &error);
                    continue;
                }
                // Nobody takes it any more; what waits holds descriptors.
                Ok(Pumped::AgainLater) if self.board.is_over() => outgoing.forget(),
                Ok(Pumped::AgainLater) => {
                    drop(outgoing);
                    self.look_again();
                }
                Err(Garbage) => {
                    drop(outgoing);
                    self.refuse();
                }
            }
            return;
        }
    }

    /// That call will not be made.
    fn lose(&self, id: u64, error: &io::Error) {
        let why = TaskError::Codec(format!("its argument was lost: {error}"));
        if let Some(wakers) = self.board.give_up(id, why) {
            self.nudge.nudge();
            wakers.wake_elsewhere();
        }
    }

    /// The reaper comes back in a while, once however often this is called until then.
    pub(super) fn look_again(&self) {
        let Some(me) = self.me.upgrade() else { return };
        locked(&self.again).get_or_insert_with(|| {
            let at = Instant::now() + AGAIN;
            Reaper::get().set_timer(self.id, None, Some(at), &me);
            at
        });
    }
}
