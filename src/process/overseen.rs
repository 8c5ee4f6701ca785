//! Processes whose restarts somebody else has a say in: a supervisor.
//!
//! The policy of such a process decides as ever; but what it would start again is held until that is permitted, and only who oversees it starts it.
//! He is told *that* there is something to know, by whichever thread did it and with no lock held, and takes it when he is ready to: so what
//! several threads do to a process comes to him in order.

use std::sync::{Arc, Weak};

use super::core::{Inner, let_go};
use super::handle::Process;
use super::state::{Event, Standing};
use super::turn::Turn;
use crate::error::{Error, Kind, Result};
use crate::policy::Restart;

/// Who oversees processes, each by a number of his choice.
pub(crate) trait Overseer: Send + Sync {
    /// There is something to be taken of that one. It may come from the reaper: it does not block.
    fn look_at(self: Arc<Self>, place: usize);
}

/// Where a process came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tiding {
    Ready,
    /// Its policy would start it again.
    Held,
    /// It does not run any more.
    Rests,
    /// The same, for its policy gave up.
    Failed,
}

/// In the core of a process.
pub(super) struct Overseen {
    by: Weak<dyn Overseer>,
    place: usize,
    /// What he has not taken yet.
    tidings: Vec<Tiding>,
}

impl Overseen {
    /// Who is to be told, after the lock is released.
    pub(super) fn to_tell(&self) -> Option<(Arc<dyn Overseer>, usize)> {
        if self.tidings.is_empty() { None } else { Some((self.by.upgrade()?, self.place)) }
    }
}

impl Turn<'_> {
    /// It stood like `before` until now.
    pub(super) fn note_standing(&mut self, before: Standing) {
        let now = self.core.machine.standing();
        let Some(overseen) = self.core.overseen.as_mut().filter(|_| now != before) else { return };
        let tiding = match now {
            Standing::Going => return,
            Standing::Ready => Tiding::Ready,
            Standing::Held => Tiding::Held,
            Standing::Resting => Tiding::Rests,
            Standing::Failed => Tiding::Failed,
        };
        overseen.tidings.push(tiding);
    }
}

impl Process {
    /// From now on only `by` starts it, who knows it by `place`, and `default` holds where it has no policy.
    pub(crate) fn put_under(&self, by: Weak<dyn Overseer>, place: usize, default: Restart) -> Result<()> {
        const OPERATION: &str = "supervise";
        self.inner.check_owner(OPERATION)?;
        self.inner.turn(|turn| {
            let refuse = |kind| Err(Error::new(self.inner.who(turn.core.pid()), OPERATION, kind));
            if turn.core.overseen.is_some() {
                return refuse(Kind::Overseen);
            }
            if !turn.core.machine.is_settled() {
                return refuse(Kind::Running);
            }
            turn.core.machine.oversee(true, self.inner.config.restart.clone().unwrap_or(default));
            turn.core.overseen = Some(Overseen { by, place, tidings: Vec::new() });
            Ok(())
        })
    }

    /// It belongs to itself again: while it rests.
    pub(crate) fn set_free(&self) {
        self.inner.turn(|turn| {
            turn.core.machine.oversee(false, self.inner.config.restart());
            turn.core.overseen = None;
        });
    }

    /// What has become of it since this was called last.
    pub(crate) fn take_tidings(&self) -> Vec<Tiding> {
        self.inner.lock().overseen.as_mut().map(|overseen| std::mem::take(&mut overseen.tidings)).unwrap_or_default()
    }

    /// Starts it, on another thread. If it cannot be created, its policy is asked. `anew`: that remembers nothing of earlier runs.
    pub(crate) fn launch(&self, anew: bool) {
        self.inner.turn(|turn| {
            if anew {
                turn.core.machine.forget();
            }
            turn.feed(Event::Launch);
        });
    }

    /// It ends, by its ladder or at once. Unlike those by hand it never blocks.
    pub(crate) fn ask_to_end(&self, kill: bool) {
        self.inner.turn(|turn| turn.request(if kill { Event::Kill } else { Event::Stop }));
    }

    /// Its policy never starts it again.
    pub(crate) fn is_temporary(&self) -> bool {
        self.inner.config.restart.as_ref().is_some_and(|restart| *restart == Restart::never())
    }

    /// Whether this thread is in one of its callbacks.
    pub(crate) fn is_calling_here(&self) -> bool {
        self.inner.is_within_callback()
    }

    /// Drops the handle, which may be the last: on the thread where what the user wrote may be dropped.
    pub(crate) fn give_back(self) {
        let inner = Arc::clone(&self.inner);
        drop(self);
        let_go(inner);
    }

    /// What its policy wants may be done, when it is due.
    pub(crate) fn permit(&self) {
        self.inner.turn(|turn| turn.feed(Event::Permit));
    }
}

impl Inner {
    /// By hand it is neither started nor restarted while somebody oversees it.
    pub(super) fn check_not_overseen(self: &Arc<Self>, operation: &'static str) -> Result<()> {
        let core = self.lock();
        match core.overseen {
            Some(_) => Err(Error::new(self.who(core.pid()), operation, Kind::Overseen)),
            None => Ok(()),
        }
    }
}
