//! Doing what the plan wants, and hearing what became of it.

use std::sync::Arc;
use std::time::SystemTime;

use super::account::event;
use super::core::{Core, Inner};
use super::kin::Kin;
use super::strategy::{Action, Failure as Why, Intensity, Notice, Place};
use crate::callbacks::Callbacks;
use crate::failure::{Failure, What};
use crate::process::{Event, EventKind, Overseer, Tiding, monitor};

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
    fn with_child<R>(&self, place: Place, act: impl FnOnce(&Kin) -> R) -> Option<R> {
        let kin = self.core.lock().member(place)?.kin.clone();
        let result = act(&kin);
        kin.give_back();
        Some(result)
    }

    fn look(self: &Arc<Self>, place: Place) {
        let tidings = self.with_child(place, Kin::take_tidings).unwrap_or_default();
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
                self.with_child(place, |kin| kin.launch(anew));
            }
            Action::Permit(place) => _ = self.with_child(place, Kin::permit),
            Action::Stop(place) => _ = self.with_child(place, |kin| kin.ask_to_end(false)),
            Action::Kill(place) => _ = self.with_child(place, |kin| kin.ask_to_end(true)),
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
                core.note_up();
                self.core.release(core, true, true);
                self.tell_above();
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
                // Who waits until it is gone may have plans for it.
                self.with_child(place, Kin::set_free);
                let mut core = self.core.lock();
                let member = core.members.get_mut(place).and_then(Option::take);
                self.core.release(core, true, false);
                if let Some(member) = member {
                    member.kin.give_back();
                }
            }
            Notice::Down => {
                self.emit(EventKind::AllStopped);
                let mut core = self.core.lock();
                core.is_resting = true;
                core.note_down(self);
                let itself = core.itself.take();
                self.core.release(core, true, true);
                // (Who is at work has another.)
                drop(itself);
                self.tell_above();
            }
        }
    }

    fn failure(&self, why: Why) -> Option<Failure> {
        let (Why::NotStarted(place) | Why::Child(place) | Why::TooMany(place)) = why;
        let (name, (cause, gave_up)) = self.with_child(place, |kin| (Arc::<str>::from(kin.name()), kin.cause()))?;
        let what = match why {
            Why::NotStarted(_) => What::NotStarted,
            Why::Child(_) => What::GaveUp(gave_up),
            Why::TooMany(_) => {
                let Intensity { restarts, within } = self.intensity?;
                What::TooMany { restarts, within }
            }
        };
        Some(Failure::new(name, what, cause))
    }

    /// Tells those who subscribed of something that is not a child's.
    pub(super) fn emit(&self, kind: EventKind) {
        let queues = self.core.lock().queues();
        let event = Event { at: SystemTime::now(), process: Arc::clone(&self.name), pid: None, kind };
        queues.iter().filter_map(|queue| queue.push(event.clone())).for_each(monitor::wake);
    }
}

impl Overseer for Inner {
    fn look_at(self: Arc<Self>, place: Place) {
        self.turn(|core| core.looks.push_back(place));
        self.let_go();
    }
}
