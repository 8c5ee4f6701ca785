//! What can be done now towards what is to be.

use super::protocol::{Action, Notice};
use super::{Child, Doing, Phase, Plan};

impl Plan {
    /// Whether it is to run, now or as soon as it can.
    fn is_wanted(&self, child: &Child) -> bool {
        self.is_on() && !child.is_leaving && !child.is_finished
    }

    /// Does what can be done now towards what is to be.
    pub(super) fn settle(&mut self, out: &mut Vec<Action>) {
        self.stop_those_due(out);
        self.start_those_due(out);
        self.move_on(out);
    }

    /// Whether it is to be down first, whatever comes then.
    fn goes(&self, child: &Child) -> bool {
        !self.is_wanted(child) || child.group.is_some()
    }

    fn stop_those_due(&mut self, out: &mut Vec<Action>) {
        // Who is needed by one that is still up and goes as well, whoever is between them. (Those who stay are told by nobody that it is
        // away for a moment.)
        let mut is_needed = vec![false; self.children.len()];
        for place in (0..self.children.len()).rev() {
            let Some(child) = self.child(place) else { continue };
            let is_due = match child.doing {
                Doing::Starting | Doing::Ready => self.goes(child),
                // One that is to be started again keeps its turn.
                Doing::Held => !self.is_wanted(child),
                Doing::Down | Doing::Stopping => false,
            };
            let goes = self.goes(child);
            let Some(child) = &mut self.children[place] else { continue };
            if is_due && !is_needed[place] {
                child.doing = Doing::Stopping;
                out.push(Action::Stop(place));
            }
            if is_needed[place] || (goes && !child.is_down()) {
                child.needs.iter().for_each(|need| is_needed[*need] = true);
            }
        }
    }

    fn start_those_due(&mut self, out: &mut Vec<Action>) {
        let mut groups_up: Vec<u64> =
            self.all().filter(|(_, child)| !child.is_down()).filter_map(|(_, child)| child.group).collect();
        groups_up.dedup();
        // Who has all that he needs, and those all that they need, and is there himself.
        let mut is_there = vec![true; self.children.len()];
        for place in 0..self.children.len() {
            let Some(child) = self.child(place) else { continue };
            let has_all = child.needs.iter().all(|need| is_there[*need]);
            let group_is_down = child.group.is_none_or(|group| !groups_up.contains(&group));
            let is_due = child.is_down() && self.is_wanted(child) && has_all && group_is_down;
            let Some(child) = &mut self.children[place] else { continue };
            is_there[place] = has_all && child.is_there();
            if is_due {
                child.group = None;
                let is_held = std::mem::replace(&mut child.doing, Doing::Starting) == Doing::Held;
                out.push(if is_held { Action::Permit(place) } else { Action::Launch(place) });
            }
        }
    }

    /// What has come to its end, is told.
    fn move_on(&mut self, out: &mut Vec<Action>) {
        for place in 0..self.children.len() {
            if self.child(place).is_some_and(|child| child.is_leaving && child.doing == Doing::Down) {
                self.children[place] = None;
                out.push(Action::Tell(Notice::Removed(place)));
            }
        }
        match self.phase {
            Phase::Starting if self.all().all(|(_, child)| child.is_there()) => {
                self.phase = Phase::Up;
                out.push(Action::Tell(Notice::Up));
            }
            Phase::Stopping if self.all().all(|(_, child)| child.doing == Doing::Down) => {
                self.phase = Phase::Resting;
                out.push(Action::Tell(Notice::Down));
            }
            Phase::Resting | Phase::Starting | Phase::Up | Phase::Stopping => {}
        }
    }
}
