//! Doing what the plan wants, and hearing what became of it.

use std::sync::Arc;
use std::time::SystemTime;

use super::account::event;
use super::core::{Core, Inner};
use super::strategy::{Action, Failure as Why, Intensity, Notice, Place};
use crate::callbacks::Callbacks;
use crate::failure::{Cause, Failure, What};
use crate::process::{Event, EventKind, Overseer, Status, Tiding, monitor};

impl Inner {
    /// Does something with the plan, and then all that follows from it, unless somebody does that already.
    pub(super) fn turn<R>(self: &Arc<Self>, act: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.core.lock();
        let result = act(&mut core);
        let is_free = !std::mem::replace(&mut core.busy, true);
        drop(core);
        if is_free {
            self.work();
        }
        result
    }

    fn work(self: &Arc<Self>) {
        loop {
            let mut core = self.core.lock();
            if let Some(action) = core.actions.pop_front() {
                drop(core);
                self.perform(action);
            } else if let Some(place) = core.looks.pop_front() {
                drop(core);
                self.look(place);
            } else {
                core.busy = false;
                return;
            }
        }
    }

    /// Does something with a child, with no lock held.
    fn with_child<R>(&self, place: Place, act: impl FnOnce(&crate::process::Process) -> R) -> Option<R> {
        let process = self.core.lock().member(place)?.process.clone();
        let result = act(&process);
        process.give_back();
        Some(result)
    }

    fn look(self: &Arc<Self>, place: Place) {
        let tidings = self.with_child(place, |process| process.take_tidings()).unwrap_or_default();
        let mut core = self.core.lock();
        for tiding in tidings {
            let (was_asked, is_starting) = (core.plan.is_stopping(place), core.plan.is_starting(place));
            let Some(member) = core.member_mut(place) else { break };
            match tiding {
                // (Not that of a run which is stopped.)
                Tiding::Ready => member.readies += u64::from(is_starting),
                Tiding::Held | Tiding::Rests | Tiding::Failed => member.falls += u64::from(!was_asked),
            }
            core.feed(event(tiding, place));
        }
        let is_watched = core.watchers > 0;
        self.core.release(core, is_watched, false);
    }

    fn perform(self: &Arc<Self>, action: Action) {
        match action {
            Action::Launch(place) => {
                let mut core = self.core.lock();
                let anew = core.member_mut(place).is_some_and(|member| std::mem::take(&mut member.anew));
                drop(core);
                self.with_child(place, |process| process.launch(anew));
            }
            Action::Permit(place) => _ = self.with_child(place, |process| process.permit()),
            Action::Stop(place) => _ = self.with_child(place, |process| process.ask_to_end(false)),
            Action::Kill(place) => _ = self.with_child(place, |process| process.ask_to_end(true)),
            Action::Tell(notice) => self.tell(notice),
        }
    }

    fn tell(self: &Arc<Self>, notice: Notice) {
        match notice {
            Notice::Up => {
                // Before anybody goes on who waits for it.
                self.emit(EventKind::Ready);
                let mut core = self.core.lock();
                core.ups = core.starts;
                self.core.release(core, true, true);
            }
            Notice::Failing(why) => {
                let failure = self.failure(why);
                let mut core = self.core.lock();
                core.failure = failure.clone();
                drop(core);
                if let Some(failure) = failure {
                    let name = Arc::clone(&self.name);
                    let told = failure.clone();
                    Callbacks::get().run(move || log::error!("`{name}` is stopped: {told}"));
                    self.emit(EventKind::SupervisorFailed(failure));
                }
            }
            Notice::Removed(place) => {
                let mut core = self.core.lock();
                let member = core.members.get_mut(place).and_then(Option::take);
                self.core.release(core, true, false);
                if let Some(member) = member {
                    member.process.set_free();
                    member.process.give_back();
                }
            }
            Notice::Down => {
                self.emit(EventKind::AllStopped);
                let mut core = self.core.lock();
                core.is_resting = true;
                let itself = core.itself.take();
                self.core.release(core, true, true);
                // (Who is at work has another.)
                drop(itself);
            }
        }
    }

    fn failure(&self, why: Why) -> Option<Failure> {
        let (Why::NotStarted(place) | Why::Child(place) | Why::TooMany(place)) = why;
        let status = self.with_child(place, |process| process.status())?;
        let what = match why {
            Why::NotStarted(_) => What::NotStarted,
            Why::Child(_) => What::GaveUp(status.gave_up),
            Why::TooMany(_) => {
                let Intensity { restarts, within } = self.intensity?;
                What::TooMany { restarts, within }
            }
        };
        Some(Failure::new(Arc::clone(&status.name), what, cause(status)))
    }

    /// Tells those who subscribed of something that is not a child's.
    pub(super) fn emit(&self, kind: EventKind) {
        let mut core = self.core.lock();
        core.subscribers.retain(|queue| queue.strong_count() > 0);
        let queues: Vec<_> = core.subscribers.iter().filter_map(std::sync::Weak::upgrade).collect();
        drop(core);
        let event = Event { at: SystemTime::now(), process: Arc::clone(&self.name), pid: None, kind };
        queues.iter().filter_map(|queue| queue.push(event.clone())).for_each(monitor::wake);
    }
}

/// How a child ended last, or why it could not be started since.
pub(super) fn cause(status: Status) -> Option<Cause> {
    let of_exit = |exit| Cause::Exit(exit);
    status.error.map(Cause::NotCreated).or_else(|| status.exit.map(of_exit))
}

impl Overseer for Inner {
    fn look_at(self: Arc<Self>, place: Place) {
        self.turn(|core| core.looks.push_back(place));
        // What the user's closures captured may be dropped with the last of it.
        if let Some(inner) = Arc::into_inner(self) {
            Callbacks::get().run(move || drop(inner));
        }
    }
}
