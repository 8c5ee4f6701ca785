//! Children that come, go and are restarted while the others run.

use std::sync::Arc;

use super::builder::Child;
use super::core::{Core, Inner};
use super::handle::Patience;
use super::kin::Kin;
use super::strategy::{Event, Place};
use crate::error::{Kind, Result};
use crate::failure::{Failure, What};
use crate::wait::Wait;

impl Inner {
    /// `after`: all that are there.
    pub(super) fn add_running(self: &Arc<Self>, child: &Child, after: Option<Vec<String>>, wait: Wait) -> Result<()> {
        const OPERATION: &str = "add a child to";
        self.check_owner(OPERATION)?;
        let patience = Patience::from(wait);
        self.check_callback(OPERATION, patience)?;
        let needs = |core: &Core| match &after {
            None => Ok(core.plan.last()),
            Some(names) => {
                let find = |name: &String| {
                    let stays = core.place_of(name).filter(|place| !core.plan.is_leaving(*place));
                    stays.ok_or_else(|| self.error(OPERATION, Kind::NoChild(name.clone())))
                };
                names.iter().map(find).collect()
            }
        };
        let place = self.add(child, needs)?;
        // What is removed again can still be asked how it ended.
        let (kin, runs) = self.turn(|core| {
            core.feed(Event::Added);
            (core.member(place).map(|member| member.kin.clone()), core.plan.is_on())
        });
        if let Some(kin) = kin.filter(|_| runs) {
            self.until_up(OPERATION, place, &kin, 0, u64::MAX, patience)?;
        }
        Ok(())
    }

    pub(super) fn remove(self: &Arc<Self>, name: &str, wait: Wait) -> Result<()> {
        const OPERATION: &str = "remove a child of";
        self.check_owner(OPERATION)?;
        let patience = Patience::from(wait);
        self.check_callback(OPERATION, patience)?;
        let place = self.turn(|core| {
            let place = core.place_of(name).ok_or_else(|| self.error(OPERATION, Kind::NoChild(name.to_owned())))?;
            if let Some(other) = core.plan.dependent_of(place).and_then(|other| core.member(other)) {
                let problem = format!("`{}` comes after `{name}`: remove that first", other.kin.name());
                return Err(self.error(OPERATION, Kind::Invalid(problem)));
            }
            core.feed(Event::Remove(place));
            Ok(place)
        })?;
        self.wait(OPERATION, "it is not gone", patience, |core| core.member(place).is_none().then_some(())).map(drop)
    }

    pub(super) fn restart(self: &Arc<Self>, name: &str, wait: Wait) -> Result<()> {
        const OPERATION: &str = "restart a child of";
        self.check_owner(OPERATION)?;
        let patience = Patience::from(wait);
        self.check_callback(OPERATION, patience)?;
        let (place, kin, readies, falls) = self.turn(|core| {
            let place = core.place_of(name).ok_or_else(|| self.error(OPERATION, Kind::NoChild(name.to_owned())))?;
            if !core.plan.is_on() {
                return Err(self.error(OPERATION, Kind::NotRunning));
            }
            let Some(member) = core.member_mut(place) else { return Err(self.error(OPERATION, Kind::NotRunning)) };
            member.anew = true;
            let before = (place, member.kin.clone(), member.readies, member.falls);
            core.feed(Event::Restart(place));
            Ok(before)
        })?;
        self.until_up(OPERATION, place, &kin, readies, falls, patience)
    }

    /// From now on who waits hears of single children. The number of the start.
    fn watch(&self) -> u64 {
        let mut core = self.core.lock();
        core.watchers += 1;
        core.starts
    }

    /// Waits until it was ready once more than `readies`, or fell once more than `falls`.
    fn until_up(
        &self,
        operation: &'static str,
        place: Place,
        kin: &Kin,
        readies: u64,
        falls: u64,
        patience: Patience,
    ) -> Result<()> {
        let start = self.watch();
        let is_up = self.wait(operation, "not ready", patience, |core| match core.member(place) {
            _ if core.starts > start || core.is_resting => Some(Err(true)),
            Some(member) if member.readies > readies => Some(Ok(())),
            Some(member) if member.falls > falls => Some(Err(false)),
            None => Some(Err(false)),
            Some(_) => None,
        });
        self.core.lock().watchers -= 1;
        let is_up = is_up?;
        match is_up {
            None | Some(Ok(())) => Ok(()),
            Some(Err(true)) => Err(self.error(operation, Kind::Stopped)),
            Some(Err(false)) => {
                let failure = Failure::new(kin.name().into(), What::NotStarted, kin.cause().0);
                Err(self.error(operation, Kind::Failed(failure)))
            }
        }
    }
}
