//! Which runs the orphans belong to that this program has adopted, by the cookies in their environment.
//!
//! To read an environment waits while its process changes its memory, for ever if a file system that does not answer holds
//! that up. So it is read once for each process, on a callback thread, and waited for so long; whose is not known then
//! belongs to nobody until it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::callbacks::Callbacks;
use crate::process::procfs::{self, Entry, Snapshot};
use crate::sys;

/// Who has this variable among its own belongs to the runs whose cookies are its value.
pub(super) const VARIABLE: &str = "PKIT_TREE";
pub(super) const SEPARATOR: u8 = b':';

/// Far longer than it takes when nothing is wrong.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// A process: its pid, and when it was started.
type Id = (u32, u64);

enum Mark {
    /// Since then.
    Reading(Instant),
    /// The value of the variable; empty without it.
    Read(Vec<u8>),
    /// It could not be read, and may be tried again.
    Failed(i32),
}

#[derive(Default)]
struct Marks {
    /// Leaf lock.
    known: Mutex<BTreeMap<Id, Mark>>,
    read: Condvar,
}

impl Marks {
    fn get() -> &'static Marks {
        static MARKS: sys::PerProcess<Marks> = sys::PerProcess::new();
        MARKS.get_or_init(Marks::default)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Mark>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&'static self, id: Id) {
        Callbacks::get().run(move || {
            let mark = match procfs::variable(id.0, VARIABLE) {
                Ok(value) => Mark::Read(value.unwrap_or_default()),
                Err(error) => Mark::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
            };
            self.lock().insert(id, mark);
            self.read.notify_all();
        });
    }
}

/// Whether it was executed with this cookie in its environment.
///
/// # Errors
/// It cannot be read now, for want of descriptors or memory.
pub(super) fn has(entry: &Entry, cookie: &str) -> io::Result<bool> {
    let (marks, id) = (Marks::get(), (entry.pid, entry.started));
    let mut known = marks.lock();
    let mut asked = false;
    loop {
        let since = match known.get(&id) {
            Some(Mark::Read(value)) => return Ok(is_among(value, cookie)),
            Some(Mark::Failed(errno)) if asked => return Err(io::Error::from_raw_os_error(*errno)),
            Some(Mark::Reading(since)) => *since,
            // It has no environment any more.
            None | Some(Mark::Failed(_)) if entry.zombie => return Ok(false),
            None | Some(Mark::Failed(_)) => {
                let now = Instant::now();
                known.insert(id, Mark::Reading(now));
                marks.begin(id);
                now
            }
        };
        asked = true;
        let left = READ_WITHIN.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        known = marks.read.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn is_among(value: &[u8], cookie: &str) -> bool {
    value.split(|byte| *byte == SEPARATOR).any(|other| other == cookie.as_bytes())
}

/// Forgets those that are gone.
pub(super) fn keep(all: &Snapshot) {
    let mut known = Marks::get().lock();
    if !known.is_empty() {
        let there: BTreeSet<Id> = all.entries.iter().map(|entry| (entry.pid, entry.started)).collect();
        known.retain(|id, _| there.contains(id));
    }
}
