//! Finding out what became of a leader.
//!
//! The pidfd says *that* it ended, `waitid` on that pidfd says how. Where the group can be signalled by pidfd it is
//! reaped at once; on older kernels it stays a zombie until the run is over, so that nobody gets its number meanwhile.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::containment::ContainmentLevel;
use super::core::{Core, Inner, let_go};
use super::monitor::Guard;
use super::procfs;
use super::run::{Ended, Relook, Run};
use super::state::Event;
use super::turn::Turn;
use crate::policy::Restart;
use crate::reaper::Reaper;
use crate::sys;
use crate::sys::event::Interest;
use crate::sys::pidfd::{Pidfd, features};
use crate::sys::wait::{Change, Look};

/// The kernel files the status of a child that someone else reaped a moment after the thief's wait returned.
const FILED_WITHIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(100);
const STOPS_IN_A_ROW: usize = 8;
/// A look reads all of `/proc`.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

impl Turn<'_> {
    /// Looks at a leader that is lent, and has the reaper watch it again if it lives.
    pub(super) fn take_leader_back(&mut self) {
        let Some(run) = self.core.run.as_mut().filter(|run| run.is_lent) else { return };
        run.is_lent = false;
        self.see_end();
        if let Some(run) = self.core.run.as_mut().filter(|run| run.ended.is_none())
            && run.watch_leader(self.inner).is_err()
        {
            run.look_again(self.now, None);
        }
    }

    /// A stop, of whatever kind. What had ended by then was not stopped, whether that was told yet or not, nor is it started again.
    pub(super) fn request(&mut self, stop: Event) {
        if stop == Event::Last {
            self.feed(stop);
            return self.see_end();
        }
        self.core.machine.restart_no_more();
        self.see_end();
        self.feed(stop);
    }

    /// Before something is decided that depends on whether it lives.
    pub(super) fn see_end(&mut self) {
        if self.core.run.as_ref().is_some_and(|run| sys::event::is_readable(run.leader.pidfd.as_fd())) {
            self.look_at_leader();
        }
    }

    pub(super) fn look_at_leader(&mut self) {
        let now = self.now;
        let Some(run) = &mut self.core.run else { return };
        if run.ended.is_some() {
            return;
        }
        let keep = run.must_stay_zombie();
        let ended = match sys::wait::wait(run.leader.pidfd.as_fd(), Look::Exit { keep }) {
            Ok(Some(waited)) => {
                run.leader.reaped = !keep;
                Some(Ended::of(waited))
            }
            // A traced child: its tracer sees the end first (ptrace(2)).
            Ok(None) => {
                run.look_again(now, None);
                None
            }
            // ECHILD: somebody else's wait, or SIGCHLD set to SIG_IGN, took it.
            Err(_) => {
                run.leader.reaped = true;
                run.stolen(now)
            }
        };
        if let Some(ended) = ended {
            self.hear_last_words();
            let Some(run) = &mut self.core.run else { return };
            run.relook = None;
            run.unwatch_leader();
            (run.ended, run.saw_end) = (Some(ended), Some(now));
            self.close_gate();
            self.feed(Event::LeaderExited(ended.reason));
        }
    }

    /// Perhaps it was stopped, or goes on.
    pub(super) fn look_for_stops(&mut self) {
        // Who stops and goes on faster than we look does not hold us for ever.
        for _ in 0..STOPS_IN_A_ROW {
            let Some(run) = self.core.run.as_ref().filter(|run| run.ended.is_none()) else { return };
            match sys::wait::wait(run.leader.pidfd.as_fd(), Look::Stops) {
                Ok(Some(waited)) => match waited.change {
                    Change::Stopped(_) => self.feed(Event::Paused),
                    Change::Continued => self.feed(Event::Continued),
                    Change::Exited(_) | Change::Killed { .. } | Change::Trapped => return,
                },
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// SIGCHLD: an orphan of the run may have ended that came to this program. Nobody else waits for it.
    pub(super) fn look_for_orphans(&mut self) {
        let now = self.now;
        if let Some(run) = self.core.run.as_mut().filter(|run| run.orphans_at.is_none())
            && sys::process::adopts_orphans()
            // The usual exit is one of a leader, which was reaped before.
            && sys::wait::is_any_zombie()
        {
            run.orphans_at = Some(run.orphans_taken.map_or(now, |last| now.max(last + BETWEEN_LOOKS)));
        }
    }

    pub(super) fn take_orphans(&mut self) {
        let now = self.now;
        let Some(run) = &mut self.core.run else { return };
        (run.orphans_at, run.orphans_taken) = (None, Some(now));
        let orphans = run.contained.orphans(&run.leader);
        let (inner, generation) = (Arc::clone(self.inner), run.generation);
        procfs::survey(Box::new(move |all| {
            // Whose own parent lives comes with a SIGCHLD of its own.
            if all.as_ref().ok().and_then(|all| orphans.take(all)).is_none() {
                inner.turn(|turn| {
                    if turn.core.run.as_ref().is_some_and(|run| run.generation == generation) {
                        turn.look_for_orphans();
                    }
                });
            }
            let_go(inner);
        }));
    }
}

impl Run {
    fn must_stay_zombie(&self) -> bool {
        self.contained.level() != ContainmentLevel::Leader && !features().group_signal
    }

    fn stolen(&mut self, now: Instant) -> Option<Ended> {
        if !features().exit_info {
            return Some(Ended::lost());
        }
        match self.leader.pidfd.exit_status() {
            Ok(Some(status)) => Some(Ended::of_change(sys::wait::from_status(status))),
            Ok(None) | Err(_) => {
                let since = self.relook.and_then(|relook| relook.stolen).unwrap_or(now);
                if now.saturating_duration_since(since) > FILED_WITHIN {
                    return Some(Ended::lost());
                }
                self.look_again(now, Some(since));
                None
            }
        }
    }

    /// The pidfd stays ready: without this the reaper would spin.
    fn look_again(&mut self, now: Instant, stolen: Option<Instant>) {
        if self.relook.is_none() {
            self.set_leader_interest(Interest::NONE);
        }
        let pause = self.relook.map_or(FIRST_PAUSE, |relook| (relook.pause * 2).min(LAST_PAUSE));
        self.relook = Some(Relook { at: now + pause, pause, stolen });
    }

    /// Takes the zombie that was left for older kernels.
    pub(super) fn reap(&mut self) {
        if !self.leader.reaped && self.ended.is_some() {
            // ECHILD: somebody else took it meanwhile; what it said is known.
            let _ = sys::wait::wait(self.leader.pidfd.as_fd(), Look::Exit { keep: false });
            self.leader.reaped = true;
        }
    }
}

impl Inner {
    /// Lends the leader to the caller, who looks after it in the reaper's stead: one thread is woken by the exit where it would be
    /// two, one after the other. `None` if it ended, or more than joins depends on its end.
    ///
    /// A thread may be slow to run. So whoever else takes the lock finds the leader looked at, and watched by the reaper again:
    /// see [`Inner::lock`].
    pub(super) fn borrow_leader(&self, core: &mut Guard<'_, Core>) -> Option<Arc<Pidfd>> {
        let is_quiet = core.overseen.is_none()
            && self.config.restart() == Restart::never()
            && !self.needs_callbacks()
            && core.timer.is_none();
        if !is_quiet || !core.subscribers.is_empty() || core.has_waiters() {
            return None;
        }
        let run = core.run.as_mut().filter(|run| run.ended.is_none())?;
        run.is_lent = run.unwatch_leader();
        run.is_lent.then(|| Arc::clone(&run.leader.pidfd))
    }

    /// Somebody asks for its state: a stop of the moment is in it, whether SIGCHLD is heard or not.
    pub(super) fn look_for_stops(self: &Arc<Self>) {
        if !self.is_foreign() {
            self.turn(|turn| turn.look_for_stops());
        }
    }

    /// Somebody waits for changes of its state: from now on stops are told when they happen.
    pub(super) fn watch_for_stops(self: &Arc<Self>) {
        if self.is_foreign() {
            return;
        }
        self.hear_sigchld("stops");
        self.look_for_stops();
    }

    /// A run began: what it leaves may come to this program, if that is a subreaper or PID 1.
    pub(super) fn hear_of_orphans(&self) {
        if sys::process::adopts_orphans() {
            self.hear_sigchld("ends of orphans");
        }
    }

    fn hear_sigchld(&self, what: &str) {
        if let Err(error) = Reaper::get().hear_sigchld() {
            log::error!("{what} of `{}` will not be heard of: cannot listen to SIGCHLD: {error}", self.name);
        }
    }
}
