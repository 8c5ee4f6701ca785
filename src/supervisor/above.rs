//! A supervisor as a child of another one.
//!
//! It is overseen as a process is ([`crate::process`], `overseen`): whether it is started again after a failure its own policy decides, and that is held
//! until it is permitted; what has become of it, whoever oversees it takes in order.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::core::{Core, Inner};
use super::strategy::Event;
use crate::error::{Kind, Result};
use crate::policy::{GiveUp, History, Outcome, Verdict};
use crate::process::{Overseer, Tiding, random};
use crate::reaper::{Reaper, Watcher};

/// In the core of a supervisor that is a child.
pub(super) struct Above {
    by: Weak<Inner>,
    place: usize,
    /// What he has not taken yet.
    tidings: Vec<Tiding>,
    history: History,
    /// Since when all of its children are ready.
    ready: Option<Instant>,
    /// It was asked to end, and does not come back.
    was_asked: bool,
    next: Next,
    pub(super) gave_up: Option<GiveUp>,
}

/// Its next start by its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    None,
    /// Due then, once that is permitted.
    Held(Instant),
    Due(Instant),
}

impl Above {
    pub(super) fn is_waiting(&self) -> bool {
        self.next != Next::None
    }
}

impl Inner {
    /// From now on only `by` starts it, who knows it by `place`.
    pub(super) fn put_under(self: &Arc<Self>, by: &Arc<Inner>, place: usize) -> Result<()> {
        const OPERATION: &str = "supervise";
        self.check_owner(OPERATION)?;
        if by.is_below(self) {
            let problem = format!("`{}` would be below itself", self.name);
            return Err(self.error(OPERATION, Kind::Invalid(problem)));
        }
        let mut core = self.core.lock();
        if core.above.is_some() {
            return Err(self.error(OPERATION, Kind::Overseen));
        }
        if !core.is_resting {
            return Err(self.error(OPERATION, Kind::Running));
        }
        core.above = Some(Above {
            by: Arc::downgrade(by),
            place,
            tidings: Vec::new(),
            history: History::default(),
            ready: None,
            was_asked: false,
            next: Next::None,
            gave_up: None,
        });
        Ok(())
    }

    /// Whether that one is above it, or is the same.
    fn is_below(self: &Arc<Self>, other: &Arc<Inner>) -> bool {
        let mut next = Some(Arc::clone(self));
        while let Some(inner) = next {
            if Arc::ptr_eq(&inner, other) {
                return true;
            }
            next = inner.core.lock().above.as_ref().and_then(|above| above.by.upgrade());
        }
        false
    }

    /// It belongs to itself again: while it rests.
    pub(super) fn set_free(&self) {
        self.core.lock().above = None;
    }

    /// What has become of it since this was called last.
    pub(super) fn take_tidings(&self) -> Vec<Tiding> {
        self.core.lock().above.as_mut().map(|above| std::mem::take(&mut above.tidings)).unwrap_or_default()
    }

    /// Starts it. `anew`: its policy remembers nothing.
    pub(super) fn launch(self: &Arc<Self>, anew: bool) {
        self.turn(|core| {
            if let Some(above) = &mut core.above {
                (above.was_asked, above.next, above.gave_up) = (false, Next::None, None);
                if anew {
                    above.history = History::default();
                }
            }
            core.begin(self);
        });
    }

    /// What its policy wants may be done, when it is due.
    pub(super) fn permit(self: &Arc<Self>) {
        let now = Instant::now();
        let later = self.turn(|core| {
            let above = core.above.as_mut()?;
            let Next::Held(at) = above.next else { return None };
            if at <= now {
                above.next = Next::None;
                core.begin(self);
                return None;
            }
            above.next = Next::Due(at);
            Some(at)
        });
        if later.is_some() {
            Reaper::get().set_timer(self.id, None, later, self);
        }
    }

    /// It ends, in order or at once, and does not come back.
    pub(super) fn ask_to_end(self: &Arc<Self>, kill: bool) {
        let next = self.turn(|core| {
            let above = core.above.as_mut()?;
            above.was_asked = true;
            let next = std::mem::replace(&mut above.next, Next::None);
            if next == Next::None {
                core.feed(if kill { Event::Kill } else { Event::Stop });
            } else {
                above.tidings.push(Tiding::Rests);
            }
            Some(next)
        });
        if let Some(Next::Due(at)) = next {
            Reaper::get().set_timer(self.id, Some(at), None, self);
        }
        self.tell_above();
    }

    /// With no lock held: whoever oversees it may look at once.
    pub(super) fn tell_above(&self) {
        let core = self.core.lock();
        let above = core.above.as_ref().filter(|above| !above.tidings.is_empty());
        let told = above.and_then(|above| Some((above.by.upgrade()?, above.place)));
        drop(core);
        if let Some((by, place)) = told {
            by.look_at(place);
        }
    }
}

impl Core {
    /// All of its children are ready.
    pub(super) fn note_up(&mut self) {
        if let Some(above) = &mut self.above {
            above.ready = Some(Instant::now());
            above.tidings.push(Tiding::Ready);
        }
    }

    /// None of its children runs any more.
    pub(super) fn note_down(&mut self, inner: &Inner) {
        let has_failed = self.failure.is_some();
        let Some(above) = &mut self.above else { return };
        let now = Instant::now();
        let stable = above.ready.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if !has_failed || above.was_asked {
            return above.tidings.push(Tiding::Rests);
        }
        let verdict = inner.restart.decide(&mut above.history, &Outcome::Fault { stable }, now, random());
        above.tidings.push(match verdict {
            Verdict::Done => Tiding::Rests,
            Verdict::Again { at } => {
                above.next = Next::Held(at);
                Tiding::Held
            }
            Verdict::GiveUp(why) => {
                above.gave_up = Some(why);
                Tiding::Failed
            }
        });
    }
}

impl Watcher for Inner {
    fn ready(self: Arc<Self>, _key: u64) {}

    fn due(self: Arc<Self>, now: Instant) {
        self.turn(|core| {
            if let Some(above) = &mut core.above
                && let Next::Due(at) = above.next
                && at <= now
            {
                above.next = Next::None;
                core.begin(&self);
            }
        });
        self.let_go();
    }

    fn look(self: Arc<Self>) {}
}
