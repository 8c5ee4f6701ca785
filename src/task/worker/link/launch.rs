//! When a worker's process begins: at once, or when the one has ended that it replaces.
//!
//! Until then it takes calls all the same: they wait in its rings. So it has no process that could end before its turn, or be late to be ready.

use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use super::Link;
use crate::error::Result as Started;
use crate::forkserver;
use crate::reaper::{Reaper, Watcher};
use crate::sys::event::Interest;
use crate::sys::locked;
use crate::task::background;
use crate::task::error::TaskError;

#[derive(Default)]
pub(super) struct Launch {
    /// Leaf lock.
    stage: Mutex<Stage>,
    decided: Condvar,
    /// Its readiness, by who built the worker.
    awaited: OnceLock<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Waiting,
    Beginning,
    /// It has begun, or never will: it was stopped before.
    Decided,
}

impl Launch {
    /// False: it was somewhere else.
    fn pass(&self, from: Stage, to: Stage) -> bool {
        let mut stage = locked(&self.stage);
        let passes = *stage == from;
        if passes {
            *stage = to;
            self.decided.notify_all();
        }
        passes
    }

    /// It never begins. False: too late.
    pub(super) fn forgo(&self) -> bool {
        self.pass(Stage::Waiting, Stage::Decided)
    }

    fn is_decided(&self) -> bool {
        *locked(&self.stage) == Stage::Decided
    }

    /// Waits until it has begun, or never will.
    pub(super) fn until_decided(&self) {
        let stage = self.decided.wait_while(locked(&self.stage), |stage| *stage != Stage::Decided);
        drop(stage.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Link {
    /// Starts the process, unless it was stopped before. If it cannot be started, all calls end with that.
    pub(in crate::task::worker) fn launch(self: &Arc<Self>) -> Started<()> {
        if !self.launch.pass(Stage::Waiting, Stage::Beginning) {
            return Ok(());
        }
        let begun = self.begin();
        if let Err(error) = &begun {
            let wakers = self.board.end(&TaskError::Start(error.clone()));
            self.nudge.nudge();
            self.unwatch();
            self.lanes.iter().for_each(|lane| locked(lane).forget());
            wakers.wake_elsewhere();
        }
        self.launch.pass(Stage::Beginning, Stage::Decided);
        begun
    }

    fn begin(self: &Arc<Self>) -> Started<()> {
        let watcher = Arc::clone(self) as Arc<dyn Watcher>;
        let watched = Reaper::get().watch(self.channel.as_fd(), Interest::READ, watcher, 0);
        let watched = watched.map_err(|error| forkserver::not_started(self.process.name(), error))?;
        *locked(&self.watched) = Some((watched, Interest::READ));
        // Not until it is ready: what says that may be the setup.
        let awaited = self.process.begin_start()?;
        self.launch.awaited.get_or_init(|| awaited);
        let ended = Arc::clone(self);
        // (On a thread that may wait: for who reads the answers. Not after `on_exit`, which may want what waits for this.)
        background::own_at_end(self.process.run_ends(), move |exit| ended.ended(exit));
        if self.board.is_over() {
            // Who stopped it meanwhile may have found no process.
            let _ = self.process.terminate(false);
        }
        Ok(())
    }

    /// Waits until its process is ready, or has ended before it was. It was launched.
    pub(in crate::task::worker) fn until_ready(&self) -> Started<()> {
        self.launch.awaited.get().map_or(Ok(()), |awaited| self.process.end_start(*awaited).map(drop))
    }

    /// It has something to do, or has not ended yet.
    pub(in crate::task::worker) fn is_there(&self) -> bool {
        !self.board.is_over() || !self.launch.is_decided() || self.process.is_alive()
    }

    /// It begins when that one has ended: true, that is now, and whoever asks is to launch it.
    pub(in crate::task::worker) fn follow(self: &Arc<Self>, before: &Link) -> bool {
        *locked(&before.successor) = Some(Arc::clone(self));
        // (Its process may not have ended yet where it was stopped, and then nobody waits for what it does.)
        before.board.is_over() && locked(&before.successor).take().is_some()
    }

    /// What waits for the end of this begins; so does, where that one never will, what waits for it.
    pub(super) fn let_successor_go(&self) {
        let mut next = locked(&self.successor).take();
        while let Some(link) = next {
            // Those who called it are told if it fails.
            let _ = link.launch();
            next = if link.board.is_over() { locked(&link.successor).take() } else { None };
        }
    }
}
