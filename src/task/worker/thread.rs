//! A worker that is a thread of this program: the same as in a process, without the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::board::{Board, Pending};
use super::home::Home;
use super::host::{Begun, Host};
use super::remote;
use super::slot::Slot;
use super::wire::{self, Answer, Lane};
use crate::callbacks::Callbacks;
use crate::error::Result as Started;
use crate::forkserver;
use crate::reaper::Reaper;
use crate::sys;
use crate::sys::image::Entry;
use crate::sys::locked;
use crate::task::error::TaskError;
use crate::task::handle::Ended;
use crate::task::outcome::{Encoded, Outcome, Value, lost_argument};
use crate::task::owner::Owner;

pub(super) struct Thread {
    id: u64,
    name: String,
    inside: Arc<Inside>,
    /// Taken when it is closed.
    queue: Mutex<Option<Sender<Order>>>,
    next_id: AtomicU64,
    owner: Owner,
}

struct Inside {
    board: Board,
    host: Arc<Host>,
    has_ended: Mutex<bool>,
    ends: Condvar,
}

enum Order {
    /// (An argument without a descriptor: many of them may wait.)
    Call {
        id: u64,
        entry: Entry,
        argument: Result<Value, Outcome>,
    },
    Drop {
        object: u64,
    },
}

impl Thread {
    pub(super) fn start(name: &str) -> Started<Arc<Thread>> {
        let failed = |error| forkserver::not_started(name, error);
        // For the wakers of those who wait.
        Callbacks::get().ensure().map_err(failed)?;
        let (queue, orders) = channel();
        let inside = Arc::new(Inside {
            board: Board::default(),
            host: Arc::default(),
            has_ended: Mutex::new(false),
            ends: Condvar::new(),
        });
        let worker = Arc::clone(&inside);
        let thread =
            sys::process::thread("pkit-worker").spawn(move || remote::within(&worker.host, || worker.live(orders)));
        thread.map_err(failed)?;
        let (id, next_id) = (Reaper::get().new_id(), AtomicU64::new(1));
        Ok(Arc::new(Thread {
            id,
            name: name.to_owned(),
            inside,
            queue: Mutex::new(Some(queue)),
            next_id,
            owner: Owner::new(),
        }))
    }

    /// False: it was closed.
    fn send(&self, order: Order) -> bool {
        let queue = locked(&self.queue);
        queue.as_ref().is_some_and(|queue| queue.send(order).is_ok())
    }
}

impl Inside {
    fn live(&self, orders: Receiver<Order>) {
        for order in orders {
            match order {
                Order::Call { id, entry, argument } => {
                    self.run(id, self.host.begin(id, Lane::Ordered), entry, argument);
                }
                Order::Drop { object } => self.host.drop_object(object),
            }
        }
        self.host.wait_for_asides(0);
        self.host.drop_all();
        self.board.end(&TaskError::Cancelled).wake_elsewhere();
        *locked(&self.has_ended) = true;
        self.ends.notify_all();
    }

    fn run(&self, id: u64, begun: Option<Begun>, entry: Entry, argument: Result<Value, Outcome>) {
        let mut kept = None;
        let answer = argument.and_then(|argument| {
            let argument = kept.insert(argument);
            self.host.run(begun, |call| Some(entry(argument.argument(), call)))
        });
        if let Some(wakers) = self.board.finish(id, told(answer)) {
            // Who is called next is not to wait for them.
            wakers.wake_elsewhere();
        }
        // Nobody waits while a large one is given back.
        drop(kept);
    }
}

fn told(answer: Result<Encoded, Outcome>) -> Ended {
    let unread = || TaskError::Codec("its value cannot be read".to_owned());
    match answer {
        Ok(Encoded::Here(message)) => {
            let (_, rest) = wire::decode::<Answer>(&message).ok_or_else(unread)?;
            Ok(Value::behind(message, rest))
        }
        Ok(Encoded::Parcel(parcel)) => Outcome::ValueInFile.told(Vec::new(), 0, || Value::of(parcel)),
        Err(outcome) => outcome.told(Vec::new(), 0, || Value::unpack(None)),
    }
}

impl Home for Thread {
    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn host(&self) -> Option<&Arc<Host>> {
        Some(&self.inside.host)
    }

    fn call(&self, lane: Lane, entry: Entry, argument: Encoded, pending: Pending) -> u64 {
        let argument = match argument {
            Encoded::Here(bytes) => {
                let length = bytes.len();
                Ok(Value::behind(bytes, length))
            }
            Encoded::Parcel(parcel) => Value::of(parcel).map_err(|error| lost_argument(&error)),
        };
        if let Err(error) = self.owner.check(|| self.name.clone(), "call a function of") {
            // (Nobody has it yet.)
            pending.slot.fill(Err(error)).wake();
            return 0;
        }
        let queue = locked(&self.queue);
        // Under the lock of the queue: in it they rise.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Err(ended) = self.inside.board.add(id, pending) {
            drop(queue);
            drop(ended);
            return id;
        }
        let guard = match (lane, queue.as_ref()) {
            (Lane::Ordered, Some(queue)) => return queue.send(Order::Call { id, entry, argument }).map_or(id, |()| id),
            // Under the lock of the queue: who closes waits for it.
            (Lane::Aside, Some(_)) => Some(self.inside.host.aside()),
            (_, None) => None,
        };
        // What ends here may be the last that has an object, which is told by the queue.
        drop(queue);
        let Some(guard) = guard else {
            // (Nobody waits yet.)
            let _ = self.inside.board.finish(id, Err(TaskError::Cancelled));
            return id;
        };
        let (inside, begun) = (Arc::clone(&self.inside), self.inside.host.begin(id, Lane::Aside));
        let thread = sys::process::thread("pkit-task").spawn(move || {
            inside.run(id, begun, entry, argument);
            drop(guard);
        });
        if let Err(error) = thread {
            let error = forkserver::not_started(&self.name, error);
            let _ = self.inside.board.finish(id, Err(TaskError::Start(error)));
        }
        id
    }

    fn cancel(&self, id: u64, lane: Lane) {
        if let Some(wakers) = self.inside.board.give_up(id, TaskError::Cancelled) {
            self.inside.host.cancel(id, lane);
            wakers.wake_elsewhere();
        }
    }

    fn drop_object(&self, id: u64) {
        if !self.owner.is_foreign() {
            self.send(Order::Drop { object: id });
        }
    }

    fn wait(&self, slot: &Slot, until: Option<Instant>) {
        slot.wait(until);
    }

    fn over(&self) -> Option<TaskError> {
        if self.owner.is_foreign() { Some(TaskError::Cancelled) } else { self.inside.board.over() }
    }

    fn calls(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed) - 1
    }

    fn close(&self) {
        if !self.owner.is_foreign() {
            locked(&self.queue).take();
        }
    }

    fn stop(&self) {
        if self.owner.is_foreign() {
            return;
        }
        let wakers = self.inside.board.end(&TaskError::Cancelled);
        self.inside.host.stop();
        self.close();
        wakers.wake_elsewhere();
    }

    fn join(&self) {
        if self.owner.is_foreign() {
            return;
        }
        let mut has_ended = locked(&self.inside.has_ended);
        while !*has_ended {
            has_ended = self.inside.ends.wait(has_ended).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
