//! The inside of a worker: what runs, what is kept, and what was cancelled. The same in a process and on a thread.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde::Serialize;

use super::remote;
use super::wire::{self, Lane};
use crate::sys::locked;
use crate::task::cancelled::{self, Token};
use crate::task::outcome::{self, Encoded, Outcome};

/// What a worker holds; a `Mutex<T>` of what was given.
pub(super) type Held = Arc<dyn Any + Send + Sync>;

#[derive(Default)]
pub(super) struct Host {
    /// Leaf lock.
    objects: Mutex<HashMap<u64, Held>>,
    /// Leaf lock.
    running: Mutex<Running>,
    fewer: Condvar,
}

#[derive(Default)]
struct Running {
    tokens: HashMap<u64, Token>,
    /// Of those in order: the last that began. Their numbers rise.
    begun: u64,
    /// Those in order that shall not begin.
    skipped: HashSet<u64>,
    asides: usize,
    /// How many ever ran aside.
    asides_begun: u64,
    /// Nothing begins any more.
    is_stopped: bool,
}

/// What an entry of a worker's function answers by.
pub(super) struct Call {
    host: Arc<Host>,
    id: u64,
    answer: Option<Result<Encoded, Outcome>>,
}

impl Call {
    pub(super) fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// Calls what gives a value.
    pub(super) fn answer<R: Serialize>(&mut self, call: impl FnOnce() -> Result<R, String>) {
        let id = self.id;
        let head = |outcome: &Outcome| head(id, outcome);
        self.answer = Some(outcome::answer(head, call));
    }

    /// Calls what gives something to be held.
    pub(super) fn hold<T: Send + 'static>(&mut self, call: impl FnOnce() -> Result<T, String>) {
        let (host, id) = (Arc::clone(&self.host), self.id);
        self.answer(|| {
            let object: Held = Arc::new(Mutex::new(call()?));
            locked(&host.objects).insert(id, object);
            Ok(())
        });
    }
}

/// What an entry of a worker's function does with what it answers by. Its exit code, which nobody reads.
pub(super) fn answering(call: &mut dyn Any, answer: impl FnOnce(&mut Call)) -> i32 {
    let call = call.downcast_mut::<Call>();
    i32::from(call.map(answer).is_none())
}

/// The beginning of an answer.
pub(super) fn head(id: u64, outcome: &Outcome) -> Vec<u8> {
    // (`Outcome` is not cloned: what is encoded is a struct of two fields, one after the other.)
    [wire::encode(&id), wire::encode(outcome)].concat()
}

impl Host {
    /// Runs a task, by what calls its entry; gives the bytes of an [`Answer`](super::wire::Answer), or a file to come with one.
    pub(super) fn run(
        self: &Arc<Self>,
        begun: Option<Begun>,
        enter: impl FnOnce(&mut dyn Any) -> Option<i32>,
    ) -> Result<Encoded, Outcome> {
        let Begun { id, ref token, .. } = begun.ok_or(Outcome::Skipped)?;
        let mut call = Call { host: Arc::clone(self), id, answer: None };
        remote::within(self, || cancelled::with(token, || enter(&mut call)));
        call.answer.unwrap_or_else(|| Err(Outcome::Codec { why: "there is no such function".to_owned() }))
    }

    /// A task begins, and can be cancelled from now on; `None`: it was before.
    pub(super) fn begin(self: &Arc<Self>, id: u64, lane: Lane) -> Option<Begun> {
        let mut running = locked(&self.running);
        if lane == Lane::Ordered {
            running.begun = id;
            if running.skipped.remove(&id) {
                return None;
            }
        }
        if running.is_stopped {
            return None;
        }
        let token = Token::new(AtomicBool::new(false));
        running.tokens.insert(id, Arc::clone(&token));
        Some(Begun { host: Arc::clone(self), id, token })
    }

    /// `Request::Cancel`. What is to run aside has begun when this comes, or has ended.
    pub(super) fn cancel(&self, id: u64, lane: Lane) {
        let mut running = locked(&self.running);
        if let Some(token) = running.tokens.get(&id) {
            token.store(true, Ordering::Relaxed);
        } else if lane == Lane::Ordered && id > running.begun {
            running.skipped.insert(id);
        }
    }

    /// All that run are cancelled, and nothing begins any more.
    pub(super) fn stop(&self) {
        let mut running = locked(&self.running);
        running.is_stopped = true;
        running.tokens.values().for_each(|token| token.store(true, Ordering::Relaxed));
    }

    pub(super) fn object(&self, id: u64) -> Option<Held> {
        locked(&self.objects).get(&id).cloned()
    }

    pub(super) fn drop_object(&self, id: u64) {
        // Its drop is the user's code: not under the lock, and it may panic.
        let object = locked(&self.objects).remove(&id);
        crate::panics::guarded(|| drop(object), || ());
    }

    pub(super) fn drop_all(&self) {
        let objects = std::mem::take(&mut *locked(&self.objects));
        objects.into_values().for_each(|object| crate::panics::guarded(|| drop(object), || ()));
    }

    /// One more thread runs tasks aside, until the guard is dropped.
    pub(super) fn aside(self: &Arc<Self>) -> Aside {
        let mut running = locked(&self.running);
        running.asides += 1;
        running.asides_begun += 1;
        drop(running);
        Aside(Arc::clone(self))
    }

    /// Until so many have run aside.
    pub(super) fn wait_for_asides(&self, sent: u64) {
        let mut running = locked(&self.running);
        while running.asides > 0 || running.asides_begun < sent {
            running = self.fewer.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A task that runs, or is about to.
pub(super) struct Begun {
    host: Arc<Host>,
    id: u64,
    token: Token,
}

impl Drop for Begun {
    fn drop(&mut self) {
        locked(&self.host.running).tokens.remove(&self.id);
    }
}

pub(super) struct Aside(Arc<Host>);

impl Drop for Aside {
    fn drop(&mut self) {
        locked(&self.0.running).asides -= 1;
        self.0.fewer.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::worker::wire::Answer;

    #[test]
    fn a_head_is_the_beginning_of_an_answer() {
        let bytes = head(300, &Outcome::Codec { why: "x".into() });
        let (answer, rest) = wire::decode::<Answer>(&bytes).unwrap();
        assert_eq!((answer.id, rest), (300, 0));
        assert!(matches!(answer.outcome, Outcome::Codec { why } if why == "x"));
    }

    #[test]
    fn what_was_cancelled_before_it_began_does_not_begin() {
        let host = Arc::new(Host::default());
        host.cancel(2, Lane::Ordered);
        let run = |id| {
            host.run(host.begin(id, Lane::Ordered), |call| {
                call.downcast_mut::<Call>()?.answer(|| Ok(cancelled::cancelled()));
                Some(0)
            })
        };
        assert!(run(1).is_ok());
        assert!(matches!(run(2), Err(Outcome::Skipped)));
        host.cancel(2, Lane::Ordered);
        host.cancel(9, Lane::Aside);
        assert!(host.running.lock().unwrap().skipped.is_empty(), "of one that has ended nothing stays");
        assert!(run(3).is_ok());
    }
}
