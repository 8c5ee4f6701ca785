//! What a supervisor does next: a pure state machine over its children.
//!
//! Events come in, actions come out; nothing here starts, waits or looks at a clock. What is to be is derived anew after each event, from what each
//! child is doing and whether it is wanted ([`Plan::settle`]): who is not wanted, or is to be replaced, is stopped once nobody who needs it is up; who is
//! wanted is started once all that it needs are ready. So order, at the start, at the stop and at a group's restart, is one rule and not three.
//!
//! Whether a child is started again is not decided here: that is its policy's ([`crate::policy`]). A child that its policy would start again is
//! *held*, and a supervisor only permits it, after it has counted it and has done to the others what its strategy says.

use std::time::Instant;

mod protocol;
mod settling;
#[cfg(test)]
mod tests;

use crate::policy::History;
use crate::process::state::State;
pub use protocol::Strategy;
pub(super) use protocol::{Action, Event, Failure, Intensity, Notice, Place, Traits};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Nothing runs, nothing is due.
    Down,
    /// Nothing runs; its policy would start it again.
    Held,
    Starting,
    Ready,
    Stopping,
}

#[derive(Debug, Clone)]
struct Child {
    needs: Vec<Place>,
    traits: Traits,
    doing: Doing,
    /// It has ended, and that is that, until all are started anew.
    is_finished: bool,
    /// The group with which it is to be down, and started again.
    group: Option<u64>,
    is_leaving: bool,
    /// It has never been ready since it was added, or all were started.
    is_new: bool,
    /// It came when the others had been started.
    is_added: bool,
    /// It is optional, and did not become ready: who needs it does without.
    is_excused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Resting,
    /// Until all are ready for the first time.
    Starting,
    Up,
    Stopping,
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    strategy: Strategy,
    /// `None`: any number of restarts.
    intensity: Option<Intensity>,
    /// When children were started again, within the window.
    recent: History,
    /// How many groups there were.
    groups: u64,
    phase: Phase,
    /// In the order in which they were added; `None`: removed.
    children: Vec<Option<Child>>,
}

impl Child {
    fn is_down(&self) -> bool {
        matches!(self.doing, Doing::Down | Doing::Held)
    }

    /// Whoever needs it may be started.
    fn is_there(&self) -> bool {
        self.doing == Doing::Ready || self.is_excused || (self.is_finished && self.doing == Doing::Down)
    }
}

impl Plan {
    pub(super) fn new(strategy: Strategy, intensity: Option<Intensity>) -> Plan {
        Plan { strategy, intensity, recent: History::default(), groups: 0, phase: Phase::Resting, children: Vec::new() }
    }

    /// One more, which is started when the others are, or, where they are up, by the next event. What it needs is there already.
    pub(super) fn add(&mut self, needs: Vec<Place>, traits: Traits) -> Place {
        // (What was removed meanwhile is nothing to wait for.)
        let needs = needs.into_iter().filter(|need| self.child(*need).is_some()).collect();
        let is_added = self.phase != Phase::Resting;
        self.children.push(Some(Child {
            needs,
            traits,
            doing: Doing::Down,
            is_finished: false,
            group: None,
            is_leaving: false,
            is_new: true,
            is_added,
            is_excused: false,
        }));
        self.children.len() - 1
    }

    fn child(&self, place: Place) -> Option<&Child> {
        self.children.get(place)?.as_ref()
    }

    fn child_mut(&mut self, place: Place) -> Option<&mut Child> {
        self.children.get_mut(place)?.as_mut()
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = (Place, &Child)> {
        self.children.iter().enumerate().filter_map(|(place, child)| Some((place, child.as_ref()?)))
    }

    /// What the strategy restarts together with it.
    fn others(&self, place: Place) -> Vec<Place> {
        match self.strategy {
            Strategy::OneForOne => Vec::new(),
            Strategy::OneForAll => self.all().map(|(other, _)| other).filter(|other| *other != place).collect(),
            Strategy::RestForOne => {
                let mut in_rest = vec![false; self.children.len()];
                in_rest[place] = true;
                // (Who needs something was added after it.)
                for (other, child) in self.all() {
                    in_rest[other] |= child.needs.iter().any(|need| in_rest[*need]);
                }
                self.all().map(|(other, _)| other).filter(|other| *other != place && in_rest[*other]).collect()
            }
        }
    }

    pub(super) fn step(&mut self, event: Event, now: Instant, out: &mut Vec<Action>) {
        match event {
            Event::Start => self.start(),
            Event::Added => {}
            Event::Stop => self.end(),
            Event::Kill => self.kill(out),
            Event::Ready(place) => {
                if let Some(child) = self.child_mut(place).filter(|child| child.doing == Doing::Starting) {
                    (child.doing, child.is_new) = (Doing::Ready, false);
                }
            }
            Event::Held(place) => self.held(place, now, out),
            Event::Ended(place) => self.ended(place, out),
            Event::Failed(place) => self.failed(place, out),
            Event::Restart(place) => self.restart(place, out),
            Event::Remove(place) => {
                if let Some(child) = self.child_mut(place) {
                    child.is_leaving = true;
                }
            }
        }
        self.settle(out);
    }

    fn start(&mut self) {
        if self.phase != Phase::Resting {
            return;
        }
        self.phase = Phase::Starting;
        self.recent = History::default();
        for child in self.children.iter_mut().flatten() {
            (child.is_finished, child.is_new, child.group) = (false, true, None);
            (child.is_added, child.is_excused) = (false, false);
        }
    }

    fn restart(&mut self, place: Place, out: &mut Vec<Action>) {
        if !self.is_on() {
            return;
        }
        self.cycle(&[place]);
        if let Some(child) = self.child_mut(place) {
            child.is_finished = false;
            if child.doing == Doing::Held {
                // It is started now, and not when its policy would.
                child.doing = Doing::Stopping;
                out.push(Action::Stop(place));
            }
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// It is not to be there any more.
    pub(super) fn is_leaving(&self, place: Place) -> bool {
        self.child(place).is_none_or(|child| child.is_leaving)
    }

    pub(super) fn is_starting(&self, place: Place) -> bool {
        self.child(place).is_some_and(|child| child.doing == Doing::Starting)
    }

    /// It was asked to end, and has not.
    pub(super) fn is_stopping(&self, place: Place) -> bool {
        self.child(place).is_some_and(|child| child.doing == Doing::Stopping)
    }

    /// Those that nobody needs: who needs them needs all.
    pub(super) fn last(&self) -> Vec<Place> {
        self.all().map(|(place, _)| place).filter(|place| self.dependent_of(*place).is_none()).collect()
    }

    /// Somebody who needs it.
    pub(super) fn dependent_of(&self, place: Place) -> Option<Place> {
        self.all().find(|(_, child)| child.needs.contains(&place) && !child.is_leaving).map(|(other, _)| other)
    }

    /// Those that start or stop, or would be started.
    pub(super) fn under_way(&self) -> impl Iterator<Item = Place> {
        let is_under_way = |child: &Child| matches!(child.doing, Doing::Held | Doing::Starting | Doing::Stopping);
        self.all().filter(move |(_, child)| is_under_way(child)).map(|(place, _)| place)
    }

    /// Its children are to be up.
    pub(super) fn is_on(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Up)
    }

    fn end(&mut self) {
        if self.phase != Phase::Resting {
            self.phase = Phase::Stopping;
        }
    }

    fn kill(&mut self, out: &mut Vec<Action>) {
        self.end();
        for (place, child) in self.children.iter_mut().enumerate() {
            if let Some(child) = child.as_mut().filter(|child| !child.is_down()) {
                child.doing = Doing::Stopping;
                out.push(Action::Kill(place));
            }
        }
    }

    fn fail(&mut self, failure: Failure, out: &mut Vec<Action>) {
        // The first reason holds; and who was asked to stop does not fail.
        if self.is_on() {
            out.push(Action::Tell(Notice::Failing(failure)));
            self.phase = Phase::Stopping;
        }
    }

    /// One that has not been ready yet will not be: that is for whoever started it. False: it was ready before.
    fn reject(&mut self, place: Place, out: &mut Vec<Action>) -> bool {
        let phase = self.phase;
        let Some(child) = self.child_mut(place).filter(|child| child.is_new) else { return false };
        match phase {
            Phase::Starting | Phase::Up if child.is_added => child.is_leaving = true,
            _ if child.traits.is_optional => {
                child.is_excused = true;
                return false;
            }
            Phase::Starting => self.fail(Failure::NotStarted(place), out),
            Phase::Up | Phase::Resting | Phase::Stopping => {}
        }
        true
    }

    fn held(&mut self, place: Place, now: Instant, out: &mut Vec<Action>) {
        // (One that is stopped is not held long: its end is still to be told.)
        let goes = |child: &&mut Child| matches!(child.doing, Doing::Starting | Doing::Ready);
        let Some(child) = self.child_mut(place).filter(goes) else { return };
        child.doing = Doing::Held;
        let is_optional = child.traits.is_optional;
        if self.reject(place, out) || !self.is_on() {
            return;
        }
        if is_optional {
            return self.cycle(&[place]);
        }
        if let Some(Intensity { restarts, within }) = self.intensity
            && !self.recent.admit(now, restarts, within)
        {
            return self.fail(Failure::TooMany(place), out);
        }
        let others = self.others(place);
        for other in &others {
            if let Some(child) = self.child_mut(*other) {
                child.is_finished = child.traits.is_temporary;
            }
        }
        self.cycle(&[&others[..], &[place]].concat());
    }

    /// They are all to be down before one of them is started again, together with the groups that they are in already.
    fn cycle(&mut self, places: &[Place]) {
        self.groups += 1;
        let joined: Vec<u64> = places.iter().filter_map(|place| self.child(*place)?.group).collect();
        let group = Some(self.groups);
        for (place, child) in self.children.iter_mut().enumerate() {
            if let Some(child) = child
                && (places.contains(&place) || child.group.is_some_and(|group| joined.contains(&group)))
            {
                child.group = group;
            }
        }
    }

    fn ended(&mut self, place: Place, out: &mut Vec<Action>) {
        let Some(child) = self.child_mut(place).filter(|child| child.doing != Doing::Down) else { return };
        let was_asked = std::mem::replace(&mut child.doing, Doing::Down) == Doing::Stopping;
        if !was_asked {
            child.is_finished = true;
            self.reject(place, out);
        }
    }

    fn failed(&mut self, place: Place, out: &mut Vec<Action>) {
        let Some(child) = self.child_mut(place).filter(|child| child.doing != Doing::Down) else { return };
        let was_asked = std::mem::replace(&mut child.doing, Doing::Down) == Doing::Stopping;
        let is_optional = child.traits.is_optional;
        if was_asked || self.reject(place, out) {
            return;
        }
        if !is_optional {
            self.fail(Failure::Child(place), out);
        } else if let Some(child) = self.child_mut(place) {
            child.is_finished = true;
        }
    }
}

impl Phase {
    pub(super) fn shown(self) -> State {
        match self {
            Phase::Resting => State::Idle,
            Phase::Starting => State::Starting,
            Phase::Up => State::Ready,
            Phase::Stopping => State::Stopping,
        }
    }
}
