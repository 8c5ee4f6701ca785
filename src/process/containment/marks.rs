//! Which orphans that this program has adopted belong to a run, by the cookies in their environment.
//!
//! To read an environment waits while its process changes its memory, for ever if a file system that does not answer holds
//! that up. So it is done on a callback thread and waited for so long; a process whose environment cannot be read belongs to
//! nobody until it can.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::callbacks::Callbacks;
use crate::process::procfs::{self, Entry, Snapshot};
use crate::sys;
use crate::sys::locked;

/// Who has this variable belongs to the runs whose cookies are its value.
pub(super) const VARIABLE: &str = "PKIT_TREE";
const SEPARATOR: u8 = b':';

/// Drawn by each program: one that executes another keeps its pid, its start time and its children.
pub(super) fn image() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    static IMAGE: sys::PerProcess<u64> = sys::PerProcess::new();
    *IMAGE.get_or_init(|| RandomState::new().hash_one(sys::process::pid()))
}

/// The value for the children of a run. Where this program is part of a run itself they are too, whoever sees them.
pub(super) fn with_outer(cookie: &str) -> io::Result<String> {
    let outer = sys::process::environment()?.into_iter().find(|(name, _)| name == VARIABLE);
    Ok(match outer.and_then(|(_, value)| value.into_string().ok()) {
        Some(outer) => format!("{outer}{}{cookie}", char::from(SEPARATOR)),
        None => cookie.to_owned(),
    })
}

/// Far longer than one takes when nothing is wrong.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// A process: its pid, and when it was started.
type Id = (u32, u64);

/// Some thread waits for the environment of these, and nobody else does.
fn stuck() -> MutexGuard<'static, BTreeSet<Id>> {
    /// Leaf lock.
    static STUCK: sys::PerProcess<Mutex<BTreeSet<Id>>> = sys::PerProcess::new();
    locked(STUCK.get_or_init(Mutex::default))
}

/// Whether it was executed with this cookie in its environment.
///
/// # Errors
/// It cannot be told now, for want of descriptors or memory.
pub(super) fn is_marked(entry: &Entry, cookie: &str) -> io::Result<bool> {
    Ok(values([entry].into_iter())?.values().any(|value| is_among(value, cookie)))
}

/// Which of the children of this program were executed with this cookie in their environment, by pid. The environments are read
/// once, whoever asks.
///
/// # Errors
/// As [`is_marked`].
pub(super) fn marked(all: &Snapshot, cookie: &str) -> io::Result<BTreeSet<u32>> {
    let values = match all.variables.get() {
        Some(values) => values,
        None => {
            let own = sys::process::pid();
            let values = values(all.entries.iter().filter(|entry| entry.parent == own && !entry.zombie))?;
            all.variables.get_or_init(|| values)
        }
    };
    Ok(values.iter().filter(|(_, value)| is_among(value, cookie)).map(|(pid, _)| *pid).collect())
}

fn values<'a>(entries: impl Iterator<Item = &'a Entry>) -> io::Result<BTreeMap<u32, Vec<u8>>> {
    let mut left: Vec<Id> = entries.map(|entry| (entry.pid, entry.started)).collect();
    left.retain(|id| !stuck().contains(id));
    let mut all = BTreeMap::new();
    while !left.is_empty() {
        let reading = Arc::new(Reading { ids: left.clone(), state: Mutex::default(), finished: Condvar::new() });
        let reader = Arc::clone(&reading);
        Callbacks::get().run_own(move || reader.read());
        let (values, hangs) = reading.wait()?;
        all.extend(left.iter().map(|id| id.0).zip(values));
        match hangs {
            Some(at) => drop(left.drain(..=at)),
            None => left.clear(),
        }
    }
    Ok(all)
}

fn is_among(value: &[u8], cookie: &str) -> bool {
    value.split(|byte| *byte == SEPARATOR).any(|other| other == cookie.as_bytes())
}

/// The value of the variable; empty without it.
fn value_of(id: Id) -> io::Result<Vec<u8>> {
    Ok(procfs::variable(id.0, VARIABLE)?.unwrap_or_default())
}

/// The reading of some environments, one after the other.
struct Reading {
    ids: Vec<Id>,
    /// Leaf lock.
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Default)]
struct State {
    /// Since when the next is being read.
    since: Option<Instant>,
    values: Vec<Vec<u8>>,
    error: Option<io::Error>,
    is_finished: bool,
    /// Nobody waits any more.
    is_given_up: bool,
}

impl Reading {
    fn read(&self) {
        for id in &self.ids {
            locked(&self.state).since = Some(Instant::now());
            let value = value_of(*id);
            let mut state = locked(&self.state);
            if state.is_given_up {
                stuck().remove(id);
                return;
            }
            match value {
                Ok(value) => state.values.push(value),
                Err(error) => {
                    state.error = Some(error);
                    break;
                }
            }
        }
        locked(&self.state).is_finished = true;
        self.finished.notify_all();
    }

    /// The values so far, and which one is not to be had.
    fn wait(&self) -> io::Result<(Vec<Vec<u8>>, Option<usize>)> {
        let began = Instant::now();
        let mut state = locked(&self.state);
        while !state.is_finished {
            let left = READ_WITHIN.saturating_sub(state.since.unwrap_or(began).elapsed());
            if left.is_zero() {
                state.is_given_up = true;
                if state.since.is_none() {
                    // There is no thread for it.
                    drop(state);
                    let values = self.ids.iter().map(|id| value_of(*id)).collect::<io::Result<_>>();
                    return Ok((values?, None));
                }
                let values = std::mem::take(&mut state.values);
                // None: all were read, and their reader has not said so yet.
                let at = (values.len() < self.ids.len()).then_some(values.len());
                stuck().extend(at.map(|at| self.ids[at]));
                return Ok((values, at));
            }
            state = self.finished.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok((std::mem::take(&mut state.values), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_given_up_on_is_looked_at_again_when_it_was_read() {
        let own = procfs::entry(sys::process::pid()).unwrap();
        let id = (own.pid, own.started);
        // Given up on before the thread came to it: that one before took nearly as long as may be, say.
        let reading = Reading { ids: vec![id], state: Mutex::default(), finished: Condvar::new() };
        locked(&reading.state).is_given_up = true;
        stuck().insert(id);
        reading.read();
        assert!(!stuck().contains(&id));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let own = procfs::entry(sys::process::pid()).unwrap();
        assert!(!is_marked(&own, "1-2-3").unwrap());
        assert!(is_among(b"1-2-3:4-5-6", "4-5-6") && is_among(b"4-5-6", "4-5-6"));
        assert!(!is_among(b"1-2-3:4-5-67", "4-5-6") && !is_among(b"", "4-5-6"));
    }
}
