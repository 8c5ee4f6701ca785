//! What is asked of a worker's process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{FIRST, Link, MOST_ANSWERS};
use crate::forkserver;
use crate::sys::image::Entry;
use crate::sys::locked;
use crate::sys::spin::Spin;
use crate::task::error::TaskError;
use crate::task::outcome::Encoded;
use crate::task::worker::WAKING;
use crate::task::worker::board::Pending;
use crate::task::worker::home::Home;
use crate::task::worker::host::Host;
use crate::task::worker::slot::{Slot, Wakers};
use crate::task::worker::wire::{self, Lane, Request};

impl Home for Link {
    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> String {
        self.process.name().to_owned()
    }

    fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    fn host(&self) -> Option<&Arc<Host>> {
        None
    }

    fn call(&self, lane: Lane, entry: Entry, argument: Encoded, pending: Pending) -> u64 {
        let place = if self.is_foreign() {
            Err(io::Error::other("the worker belongs to the process of which this one is a fork"))
        } else {
            forkserver::place_of(entry)
        };
        let entry = match place {
            Ok(entry) => entry,
            Err(error) => {
                let error = forkserver::not_started(self.process.name(), error);
                // (Nobody has it yet.)
                pending.slot.fill(Err(TaskError::Start(error))).wake();
                return 0;
            }
        };
        let lane = &self.lanes[lane as usize];
        let mut outgoing = locked(lane);
        // Under the lock of the lane: in each they rise.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Err(ended) = self.board.add(id, pending) {
            drop(outgoing);
            drop(ended);
            return id;
        }
        let head = |in_file| wire::encode(&Request::Call { id, entry, in_file });
        match argument {
            Encoded::Here(argument) => outgoing.add_call(id, [head(false), argument].concat(), None),
            Encoded::Parcel(parcel) => outgoing.add_call(id, head(true), Some(parcel)),
        }
        drop(outgoing);
        self.pump(lane);
        id
    }

    fn cancel(&self, id: u64, lane: Lane) {
        if self.is_foreign() {
            return;
        }
        let Some(wakers) = self.board.give_up(id, TaskError::Cancelled) else { return };
        self.nudge.nudge();
        if !locked(&self.lanes[lane as usize]).withdraw(id) {
            let aside = &self.lanes[Lane::Aside as usize];
            locked(aside).add_first(&Request::Cancel { id, lane });
            self.pump(aside);
        }
        wakers.wake_elsewhere();
    }

    fn drop_object(&self, id: u64) {
        if !self.is_foreign() && !self.board.is_over() {
            self.send(Lane::Ordered, &Request::Drop { object: id });
        }
    }

    fn wait(&self, slot: &Slot, until: Option<Instant>) {
        let is_late = || until.is_some_and(|until| Instant::now() >= until);
        while !slot.is_done() && !is_late() {
            let Some(mut answers) = self.try_read() else {
                slot.wait(until);
                continue;
            };
            answers.come_back();
            let is_due = || slot.is_done() || self.is_ending.load(Ordering::SeqCst);
            let (mut spin, mut wakers) = (Spin::new(WAKING), Wakers::default());
            loop {
                let is_all = self.read(&mut answers, MOST_ANSWERS, &mut wakers);
                // Others are not to wait for what we wait for.
                if is_due() || is_late() || !wakers.is_empty() {
                    break;
                }
                if is_all && !spin.goes_on() {
                    answers.wait_for_message_or(until, is_due);
                }
            }
            self.leave(answers, &mut wakers);
            // Whose they are waits for something else; here there is a limit, and perhaps a lock that they want.
            wakers.wake_elsewhere();
            if self.is_ending.load(Ordering::SeqCst) {
                // Who knows how it ended fills it.
                slot.wait(until);
            }
        }
    }

    fn over(&self) -> Option<TaskError> {
        if self.is_foreign() {
            return Some(TaskError::Cancelled);
        }
        let over = self.board.over();
        if over.is_none() && self.process.is_calling() {
            // Who is told of its end by `on_exit` may be so before us.
            self.ended(self.process.first_end()?);
            return self.board.over();
        }
        over
    }

    fn calls(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed) - FIRST
    }

    fn close(&self) {
        if !self.is_foreign() {
            let asides = locked(&self.lanes[Lane::Aside as usize]).calls;
            self.send(Lane::Ordered, &Request::Close { asides });
        }
    }

    fn stop(&self) {
        if !self.is_foreign() {
            let wakers = self.board.end(&TaskError::Cancelled);
            self.nudge.nudge();
            if self.launch.forgo() {
                self.lanes.iter().for_each(|lane| locked(lane).forget());
            } else {
                // It may have ended.
                let _ = self.process.terminate(false);
            }
            wakers.wake_elsewhere();
        }
    }

    fn join(&self) {
        if self.is_foreign() {
            return;
        }
        self.launch.until_decided();
        if let Ok(exit) = self.process.join() {
            // All of its calls have ended for who comes back from this. (Who is told of the end may be so only later.)
            self.ended(exit);
        }
    }
}
