//! Deadlines, and the agreement between who sets one and the thread that sleeps until it.
//!
//! The sleeper says under the lock until when it will sleep; who sets an earlier deadline learns
//! under the same lock that it has to ring. So either the sleeper saw the new deadline, or the bell is
//! rung after it announced its sleep, and the bell is a level, which a sleep that begins later still
//! sees. `tests/models` proves that with loom over every interleaving.
//!
//! Deadlines are really removed, not forgotten: an idle program must not be woken by a deadline that
//! stopped mattering. One that is removed while the sleeper waits for it costs one empty wake-up.

use std::collections::BTreeMap;
use std::time::Instant;

use super::sync::Mutex;

#[derive(Debug)]
pub(crate) struct Timers<T> {
    /// Leaf lock: nothing else is taken while it is held.
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    due: BTreeMap<(Instant, u64), T>,
    sleep: Sleep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    Until(Option<Instant>),
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Timers<T> {
        Timers { state: Mutex::new(State { due: BTreeMap::new(), sleep: Sleep::Awake }) }
    }

    /// Moves the deadline of `owner` from `old` to `new`. True: the sleeper has to be woken.
    #[must_use]
    pub(crate) fn set(&self, owner: u64, old: Option<Instant>, new: Option<(Instant, T)>) -> bool {
        let mut state = self.lock();
        if let Some(old) = old {
            state.due.remove(&(old, owner));
        }
        let Some((at, value)) = new else { return false };
        state.due.insert((at, owner), value);
        match state.sleep {
            Sleep::Until(until) if until.is_none_or(|until| at < until) => {
                // One ring is enough, however many deadlines come before the sleeper is up.
                state.sleep = Sleep::Awake;
                true
            }
            Sleep::Until(_) | Sleep::Awake => false,
        }
    }

    /// Announces a sleep; it may last until the time returned.
    pub(crate) fn fall_asleep(&self) -> Option<Instant> {
        let mut state = self.lock();
        let until = state.due.keys().next().map(|&(at, _)| at);
        state.sleep = Sleep::Until(until);
        until
    }

    /// Ends the sleep and takes what is due.
    pub(crate) fn wake_up(&self, now: Instant) -> Vec<T> {
        let mut state = self.lock();
        state.sleep = Sleep::Awake;
        let mut due = Vec::new();
        while let Some(entry) = state.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            due.push(entry.remove());
        }
        due
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = State<T>> + '_ {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
