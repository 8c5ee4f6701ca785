//! Trying whether a run can be reached.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::gate::{Attempts, Gate, Probe};
use super::handle::Process;
use super::run::{Channel, key};
use super::state::Event;
use super::turn::Turn;
use crate::callbacks::Callbacks;
use crate::reaper::{Reaper, Token, Watcher};
use crate::sys;
use crate::sys::event::Interest;

/// Longer than the kernel waits before it asks a second time (`TCP_TIMEOUT_INIT`, 1 s): after that it is tried anew, as the kernel's pauses grow.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// One that is not answered yet.
pub(super) struct Connection {
    /// Its index.
    address: usize,
    fd: OwnedFd,
    token: Token,
    since: Instant,
}

impl Connection {
    pub(super) fn close(self) {
        Reaper::get().unwatch(self.token, self.fd.as_fd());
    }
}

impl Turn<'_> {
    /// It is time to try again whether it can be reached.
    pub(super) fn try_gate(&mut self) {
        let Core { run, checking, .. } = &mut **self.core;
        let Some(run) = run else { return };
        run.try_at = None;
        run.resume_gate();
        let overdue = |pending: &Connection| self.now - pending.since > ANSWER_WITHIN;
        run.connecting.extract_if(.., |pending| overdue(pending)).for_each(Connection::close);
        let Gate::Try { probe, .. } = &run.gate else { return self.go_on_hearing() };
        match probe {
            Probe::Tcp(_) => {
                let attempts = probe.connect(|index| run.connecting.iter().any(|pending| pending.address == index));
                self.connecting(attempts);
            }
            // One that does not come back holds one thread, however many runs there are.
            Probe::Unix(_) | Probe::File { .. } | Probe::Check(_) if *checking => {
                run.try_at = run.gate.next_try(self.now)
            }
            Probe::Unix(_) | Probe::File { .. } | Probe::Check(_) => {
                *checking = true;
                let (probe, inner, generation) = (probe.clone(), Arc::clone(self.inner), run.generation);
                let is_own = !matches!(probe, Probe::Check(_));
                let ask = move || {
                    // One that panics has not said yes; it is asked again.
                    let mut passes = false;
                    inner.guarded("readiness", || passes = probe.passes(&Process::lend(&inner)));
                    inner.turn(|turn| turn.tried(generation, passes));
                };
                if is_own { Callbacks::get().run_own(ask) } else { Callbacks::get().run(ask) }
            }
        }
    }

    fn connecting(&mut self, attempts: Attempts) {
        let Some(run) = &mut self.core.run else { return };
        let Attempts::Pending(attempts) = attempts else { return self.feed(Event::Ready) };
        for (address, fd) in attempts {
            let watcher = Arc::clone(self.inner) as Arc<dyn Watcher>;
            let key = key(run.generation, Channel::Connect);
            if let Ok(token) = Reaper::get().watch(fd.as_fd(), Interest::WRITE, watcher, key) {
                run.connecting.push(Connection { address, fd, token, since: self.now });
            }
        }
        run.try_at = run.gate.next_try(self.now);
    }

    /// Of the connections that are pending some have been accepted or refused. A refusal of one address says nothing of the others.
    pub(super) fn connected(&mut self) {
        let Some(run) = &mut self.core.run else { return };
        let pending = std::mem::take(&mut run.connecting);
        let (answered, pending): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|pending| sys::event::is_writable_within(pending.fd.as_fd(), 0));
        run.connecting = pending;
        let mut accepted = false;
        for connection in answered {
            accepted |= sys::socket::connected(connection.fd.as_fd()).is_ok();
            connection.close();
        }
        if accepted {
            run.stop_connecting();
            self.feed(Event::Ready);
        }
    }

    fn tried(&mut self, generation: u64, passes: bool) {
        let now = self.now;
        self.core.checking = false;
        match &mut self.core.run {
            Some(run) if run.generation == generation && run.ended.is_none() => {
                if passes {
                    self.feed(Event::Ready);
                } else {
                    run.try_at = run.gate.next_try(now);
                }
            }
            Some(_) | None => {}
        }
    }
}
