//! Slots: how many may do something at once.
//!
//! They know nothing of processes. A [`Pool`](crate::Pool) takes one for each that it runs, and so may whatever else
//! shall count: a build in this thread, a download.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::semaphore::{Semaphore, Ticket};
use crate::error::{Error, Kind, Result, Who};
use crate::sys;
use crate::sys::locked;

/// A number of slots: so many may hold one at once, whoever comes after them waits.
///
/// It is a handle: clones are the same slots. They are given to those who wait in the order in which they came.
///
/// # After a fork
///
/// A process that `fork` copied from this one has slots of its own: all are free there, named ones too, and a [`Slot`]
/// that was copied along counts for nothing.
///
/// # Example
///
/// ```
/// use pkit::Slots;
///
/// let slots = Slots::new(2);
/// let first = slots.take();
/// let second = slots.take();
/// assert!(slots.try_take().is_none());
/// drop(first);
/// assert_eq!((slots.free(), slots.size()), (1, 2));
/// # drop(second);
/// ```
///
/// By a name they are the same anywhere in the program:
///
/// ```
/// use pkit::Slots;
///
/// fn compile() -> pkit::Result<()> {
///     let _slot = Slots::named("compilers", 4)?.take(); // given back when this returns, or panics
///     Ok(())
/// }
/// # compile()?;
/// assert_eq!(Slots::named("compilers", 4)?.free(), 4);
/// assert!(Slots::named("compilers", 8).is_err_and(|error| error.is_invalid()));
/// # Ok::<(), pkit::Error>(())
/// ```
#[derive(Clone)]
pub struct Slots {
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    name: Option<Arc<str>>,
    size: usize,
    own: Counted,
}

/// The slots as one program sees them, who is not its fork.
#[derive(Clone)]
struct Counted {
    semaphore: Arc<Semaphore>,
    incarnation: u32,
}

/// Of this program, not of a fork.
static KNOWN: sys::PerProcess<Mutex<Known>> = sys::PerProcess::new();

/// Kept for as long as the program lives. Leaf lock.
#[derive(Default)]
struct Known {
    named: HashMap<Arc<str>, Slots>,
    /// The slots that were made in the program of which this is a fork, by their number, if they were used here.
    inherited: HashMap<u64, Counted>,
}

impl Slots {
    /// So many slots, all free.
    ///
    /// # Panics
    ///
    /// If `size` is 0: nobody could ever take one.
    pub fn new(size: usize) -> Slots {
        assert!(size > 0, "no slots: nobody could ever take one");
        Slots::make(None, size)
    }

    fn make(name: Option<Arc<str>>, size: usize) -> Slots {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Slots { shared: Arc::new(Shared { id, name, size, own: Counted::new(size) }) }
    }

    /// The slots of that name, which are the same wherever in the program they are asked for. Who asks first makes
    /// them. They are kept for as long as the program lives.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`]: there are slots of that name, and of another size; the text says both. Or `size` is 0.
    pub fn named(name: &str, size: usize) -> Result<Slots> {
        let name: Arc<str> = name.into();
        let refuse = |problem| {
            let who = Who { name: Arc::clone(&name), pid: None };
            Err(Error::new(who, "share the slots", Kind::Invalid(problem)))
        };
        if size == 0 {
            return refuse("there have to be some, not 0".to_owned());
        }
        let slots = known().named(&name, size);
        if slots.size() != size {
            return refuse(format!("there are {}, not {size}", slots.size()));
        }
        Ok(slots)
    }

    /// Takes a slot; blocks until one is free and all who came before have theirs.
    pub fn take(&self) -> Slot {
        self.line_up().wait(None).expect("without a limit there is no time-out")
    }

    /// Takes a slot if one is free now.
    pub fn try_take(&self) -> Option<Slot> {
        self.take_timeout(Duration::ZERO)
    }

    /// Takes a slot; `None` when there was none for us within the limit.
    pub fn take_timeout(&self, limit: Duration) -> Option<Slot> {
        self.line_up().wait(Instant::now().checked_add(limit))
    }

    /// How many are free at this moment.
    pub fn free(&self) -> usize {
        self.counted().semaphore.free()
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.shared.size
    }

    /// Stands in line.
    pub(super) fn line_up(&self) -> Place {
        let counted = self.counted();
        Place { ticket: counted.semaphore.line_up(), counted }
    }

    fn counted(&self) -> Counted {
        let Shared { id, name, size, own } = &*self.shared;
        if own.is_ours() {
            return own.clone();
        }
        // The lock of its semaphore may be held by a thread that is not here, and slots taken by such.
        let mut known = known();
        if let Some(name) = name {
            let here = known.named(name, *size);
            // Unless this fork has made other slots of that name.
            if here.size() == *size {
                return here.shared.own.clone();
            }
        }
        known.inherited.entry(*id).or_insert_with(|| Counted::new(*size)).clone()
    }
}

impl Known {
    /// Those of that name, whatever their size.
    fn named(&mut self, name: &Arc<str>, size: usize) -> Slots {
        let slots = self.named.entry(Arc::clone(name));
        slots.or_insert_with(|| Slots::make(Some(Arc::clone(name)), size)).clone()
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("size", &self.size()).field("free", &self.free()).finish()
    }
}

impl Counted {
    fn new(size: usize) -> Counted {
        Counted { semaphore: Arc::new(Semaphore::new(size)), incarnation: sys::process::incarnation() }
    }

    fn is_ours(&self) -> bool {
        self.incarnation == sys::process::incarnation()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_ours() {
            // In a fork it may be as a thread left it that is not there: it is not dropped.
            std::mem::forget(Arc::clone(&self.semaphore));
        }
    }
}

fn known() -> MutexGuard<'static, Known> {
    locked(KNOWN.get_or_init(Mutex::default))
}

/// Somebody's in the line. He has to wait, or what he is given is lost.
#[derive(Clone)]
pub(super) struct Place {
    counted: Counted,
    ticket: Arc<Ticket>,
}

impl Place {
    pub(super) fn wait(self, until: Option<Instant>) -> Option<Slot> {
        // Made only then: one that is dropped is given back.
        self.counted.semaphore.wait(&self.ticket, until).then(|| Slot { counted: self.counted.clone() })
    }

    /// His wait ends, without a slot if he has none yet.
    pub(super) fn give_up(&self) {
        self.counted.semaphore.send_away(&self.ticket);
    }

    pub(super) fn is(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.ticket, &other.ticket)
    }
}

/// A slot that is taken; from [`Slots::take`].
///
/// It may be kept anywhere and given to another thread.
///
/// # Drop
///
/// Dropped, by a panic too, it is given back, to the first of those who wait. Forgotten
/// ([`std::mem::forget`]) it stays taken.
#[must_use = "dropped, it is given back"]
pub struct Slot {
    counted: Counted,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.counted.is_ours() {
            self.counted.semaphore.give_back();
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}
