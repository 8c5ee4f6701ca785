//! When a process came to rest, for those who wait for that.
//!
//! It rests when it would not run again by itself. That is settled once its end was told to who wanted to hear of it, which may be later than somebody starts
//! it again. Who waits is noted here with where he began, and gets the first rest that was settled since: no later run changes that.

use crate::exit::Exit;

#[derive(Default)]
pub(super) struct Rests {
    /// The last generation that was settled.
    settled: u64,
    /// Those that rest and whose end is still to be told, with the last exit by then.
    untold: Vec<(u64, Option<Exit>)>,
    /// Those who wait.
    joins: Vec<Join>,
}

struct Join {
    id: u64,
    since: u64,
    /// The last exit at that rest; there may have been no run.
    end: Option<Option<Exit>>,
}

impl Rests {
    /// It came to rest in or after generation `since`, and that was told.
    pub(super) fn is_settled(&self, since: u64) -> bool {
        self.settled >= since
    }

    /// It rests after run number `generation`, with that last exit.
    pub(super) fn note(&mut self, generation: u64, exit: Option<&Exit>, is_told: bool) {
        if is_told {
            self.settle(generation, exit);
        } else if self.untold.last().is_none_or(|(last, _)| *last < generation) {
            self.untold.push((generation, exit.cloned()));
        }
    }

    /// The ends of those runs were told for which that says so.
    pub(super) fn tell(&mut self, is_told: impl Fn(u64) -> bool) {
        let told = self.untold.iter().take_while(|(generation, _)| is_told(*generation)).count();
        let told: Vec<_> = self.untold.drain(..told).collect();
        told.iter().for_each(|(generation, exit)| self.settle(*generation, exit.as_ref()));
        if self.untold.is_empty() {
            self.untold = Vec::new();
        }
    }

    fn settle(&mut self, generation: u64, exit: Option<&Exit>) {
        self.settled = self.settled.max(generation);
        for join in self.joins.iter_mut().filter(|join| join.since <= generation) {
            join.end.get_or_insert_with(|| exit.cloned());
        }
    }

    /// Number `id` waits since generation `since`; `exit` is the last one.
    pub(super) fn begin_join(&mut self, id: u64, since: u64, exit: Option<&Exit>) {
        let end = self.is_settled(since).then(|| exit.cloned());
        self.joins.push(Join { id, since, end });
    }

    /// Somebody waits for run number `generation`, or one after it, to be the last.
    pub(super) fn is_joined(&self, generation: u64) -> bool {
        self.joins.iter().any(|join| join.since == generation)
    }

    /// What the join number `id` returns, once it does.
    pub(super) fn end_of(&self, id: u64) -> Option<&Option<Exit>> {
        self.joins.iter().find(|join| join.id == id)?.end.as_ref()
    }

    pub(super) fn end_join(&mut self, id: u64) {
        self.joins.retain(|join| join.id != id);
        if self.joins.is_empty() {
            // An idle process keeps no room for those who do not wait.
            self.joins = Vec::new();
        }
    }
}
