//! Hearing a run say that it is ready, and what else it says.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::containment::Membership;
use super::core::Inner;
use super::events::EventKind;
use super::gate::{Gate, Probe};
use super::handle::Process;
use super::run::{Channel, Main, Run, key};
use super::state::Event;
use super::turn::Turn;
use crate::callbacks::Callbacks;
use crate::notify::{self, Message};
use crate::reaper::{Reaper, Watcher};
use crate::sys;
use crate::sys::event::Interest;
use crate::sys::pidfd::Pidfd;
use crate::sys::socket::Connecting;

/// Longer than anything `sd_notify(3)` defines.
const LONGEST_MESSAGE: usize = 8 * 1024;
/// How long one child is listened to at a time, and how long it waits then: who sends faster than we read would else hold
/// the reaper, and the lock, for as long as it likes.
const LISTENING: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_millis(2);
/// The same for what it said before its end. No queue of the kernel takes longer to read.
const LAST_LISTENING: Duration = Duration::from_millis(20);
impl Turn<'_> {
    pub(super) fn read_gate(&mut self) {
        let Some(run) = &self.core.run else { return };
        match &run.gate {
            Gate::Notify(_) => self.read_notifications(LISTENING),
            Gate::Fd { .. } => _ = self.read_newline(),
            Gate::Open | Gate::Line(_) | Gate::Try { .. } => {}
        }
    }

    /// Whether there may be more of it.
    fn read_newline(&mut self) -> bool {
        let Some(run) = &mut self.core.run else { return false };
        let Gate::Fd { read, .. } = &run.gate else { return false };
        let mut bytes = [0; 256];
        match sys::fd::read(read.as_fd(), &mut bytes) {
            Ok(read) if bytes[..read].contains(&b'\n') => self.feed(Event::Ready),
            // Closed without a word: it will never say so, and the limit of `ready_within` ends it.
            Ok(0) => run.close_gate(),
            Ok(_) => return true,
            Err(_) => {}
        }
        false
    }

    /// What it said before it ended counts, though its end may be seen first: to be ready above all.
    pub(super) fn hear_last_words(&mut self) {
        let Some(run) = &self.core.run else { return };
        match &run.gate {
            Gate::Notify(_) => self.read_notifications(LAST_LISTENING),
            Gate::Fd { .. } => {
                let began = Instant::now();
                while self.read_newline() && began.elapsed() < LAST_LISTENING {}
            }
            Gate::Line(_) => {
                self.read_output(0);
                self.read_output(1);
            }
            Gate::Open | Gate::Try { .. } => {}
        }
    }

    fn read_notifications(&mut self, at_most: Duration) {
        let mut bytes = [0; LONGEST_MESSAGE];
        let began = Instant::now();
        while began.elapsed() < at_most {
            let Some(run) = &self.core.run else { return };
            // What it said before its end is in a queue that the kernel bounds.
            if at_most < LAST_LISTENING && (run.judging || run.closing.is_behind()) {
                break;
            }
            let Gate::Notify(channel) = &run.gate else { return };
            let Ok(Some(datagram)) = sys::socket::receive(channel.socket.as_fd(), &mut bytes) else { return };
            let said = if datagram.truncated { &[] } else { &bytes[..datagram.len] };
            run.closing.close(datagram.passed);
            self.hear(Said { sender: datagram.pid, messages: notify::parse(said) });
        }
        if let Some(run) = self.core.run.as_mut().filter(|run| !run.judging) {
            run.pause_gate(Some(self.now + PAUSE));
        }
    }

    /// Does what was said, as soon as it is known who said it and of whom.
    fn hear(&mut self, said: Said) {
        let Some(run) = &mut self.core.run else { return };
        let unknown = said.pids().filter_map(|pid| match run.membership(pid) {
            Membership::Unknown(judge) => Some((pid, judge)),
            Membership::Yes | Membership::No => None,
        });
        let unknown: Vec<_> = unknown.collect();
        if unknown.is_empty() {
            return self.heard(said, BTreeMap::new());
        }
        if std::mem::replace(&mut run.judging, true) {
            // It has ended, or this would not have been read: nobody waits for an answer.
            return;
        }
        run.pause_gate(None);
        let (inner, generation) = (Arc::clone(self.inner), run.generation);
        Callbacks::get().run(move || {
            // Opened first and judged then: once it is open its number stays its own.
            let open = |pid| Pidfd::open(pid).ok();
            let found = unknown.into_iter().filter_map(|(pid, judge)| Some((pid, open(pid).filter(|_| judge())?)));
            let found = found.collect();
            inner.turn(|turn| turn.judged(generation, said, found));
        });
    }

    fn judged(&mut self, generation: u64, said: Said, members: BTreeMap<u32, Pidfd>) {
        if let Some(run) = self.core.run.as_mut().filter(|run| run.generation == generation && run.ended.is_none()) {
            run.judging = false;
            run.resume_gate();
            self.heard(said, members);
        }
    }

    /// `members`: of those of whom it is not seen at once. The leader and what it named as its main process may say
    /// everything. Others of the run say what helps it, a shell's `systemd-notify` above all; but who is the main process,
    /// that they stop, or are broken, is not said of the run.
    fn heard(&mut self, said: Said, mut members: BTreeMap<u32, Pidfd>) {
        let Some(run) = &self.core.run else { return };
        let main = said.sender.is_some_and(|pid| run.is_main(pid));
        if !main && !said.sender.is_some_and(|pid| members.contains_key(&pid) || run.is_member(pid)) {
            return self.ignored_stranger(said.sender);
        }
        for message in said.messages {
            match message {
                Message::Stopping | Message::WatchdogTrigger | Message::MainPid(_) if !main => {}
                message => self.notified(message, &mut members),
            }
        }
    }

    /// Told once for each run: a stranger may send as often as it likes.
    fn ignored_stranger(&mut self, sender: Option<u32>) {
        let Some(run) = &mut self.core.run else { return };
        if !std::mem::replace(&mut run.had_strangers, true) {
            let name = Arc::clone(&self.inner.name);
            let sender = sender.map_or("of another pid namespace".to_owned(), |pid| format!("pid {pid}"));
            Callbacks::get().run(move || log::warn!("ignored notifications for `{name}` from a stranger ({sender})"));
        }
    }

    fn notified(&mut self, message: Message, members: &mut BTreeMap<u32, Pidfd>) {
        match message {
            Message::Ready => self.feed(Event::Ready),
            Message::Stopping => self.feed(Event::AnnouncedStop),
            Message::Watchdog => self.feed(Event::Watchdog),
            Message::WatchdogTrigger => self.feed(Event::WatchdogFailed),
            Message::Status(text) => {
                self.emit(EventKind::Text(text.clone()));
                self.core.text = Some(text);
                self.changed = true;
            }
            Message::MainPid(pid) => {
                // It may only name what is part of the run: the pid is shown to users, who may signal it.
                let Some(run) = &mut self.core.run else { return };
                let seen = || Pidfd::open(pid).ok().filter(|_| run.is_member(pid));
                if let Some(pidfd) = members.remove(&pid).or_else(seen) {
                    run.main = Some(Main { pid, pidfd });
                    self.changed = true;
                }
            }
        }
    }

    /// A line of output that `Ready::line` may be waiting for.
    pub(super) fn look_for_ready_line(&mut self) {
        let Some(run) = &self.core.run else { return };
        let Gate::Line(text) = &run.gate else { return };
        let text = Arc::clone(text);
        while let Some(line) = self.core.output.next_for_gate() {
            if line.text().contains(&*text) {
                self.core.output.close_gate();
                self.feed(Event::Ready);
                break;
            }
        }
        self.resume_reading();
    }

    /// It is time to try again whether it can be reached.
    pub(super) fn try_gate(&mut self) {
        let Some(run) = &mut self.core.run else { return };
        run.try_at = None;
        run.resume_gate();
        run.stop_connecting();
        let Gate::Try { probe, .. } = &run.gate else { return };
        match probe {
            Probe::Tcp(_) | Probe::Unix(_) => {
                let connecting = probe.connect();
                self.connecting(connecting);
            }
            Probe::File { .. } | Probe::Check(_) => {
                let (probe, inner, generation) = (probe.clone(), Arc::clone(self.inner), run.generation);
                Callbacks::get().run(move || {
                    // One that panics has not said yes; it is asked again.
                    let mut passes = false;
                    inner.guarded("readiness", || passes = probe.passes(&Process::lend(&inner)));
                    inner.turn(|turn| turn.tried(generation, passes));
                });
            }
        }
    }

    fn connecting(&mut self, connecting: Option<Connecting>) {
        let Some(run) = &mut self.core.run else { return };
        match connecting {
            Some(Connecting::Done) => self.feed(Event::Ready),
            Some(Connecting::Pending(fd)) => {
                let watcher = Arc::clone(self.inner) as Arc<dyn Watcher>;
                let key = key(run.generation, Channel::Connect);
                if let Ok(token) = Reaper::get().watch(fd.as_fd(), Interest::WRITE, watcher, key) {
                    run.connecting = Some((fd, token));
                }
                // An answer that does not come in time is no answer: then it is tried anew.
                run.try_at = run.gate.next_try(self.now);
            }
            None => run.try_at = run.gate.next_try(self.now),
        }
    }

    /// A connection that was pending has been accepted or refused.
    pub(super) fn connected(&mut self) {
        let Some(run) = &mut self.core.run else { return };
        let Some((fd, _)) = &run.connecting else { return };
        let accepted = sys::socket::connected(fd.as_fd()).is_ok();
        run.stop_connecting();
        if accepted {
            self.feed(Event::Ready);
        }
    }

    fn tried(&mut self, generation: u64, passes: bool) {
        let now = self.now;
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

impl Run {
    /// Whether it may speak for the run.
    fn is_main(&self, pid: u32) -> bool {
        self.main_pid() == Some(pid) || (pid == self.pid() && self.ended.is_none())
    }

    fn membership(&self, pid: u32) -> Membership {
        if self.is_main(pid) { Membership::Yes } else { self.contained.owns(&self.leader, pid) }
    }

    fn is_member(&self, pid: u32) -> bool {
        matches!(self.membership(pid), Membership::Yes)
    }
}

/// A notification.
struct Said {
    sender: Option<u32>,
    messages: Vec<Message>,
}

impl Said {
    /// Who has to be of the run. (Of several `MAINPID=` the last counts.)
    fn pids(&self) -> impl Iterator<Item = u32> {
        let main = self.messages.iter().rev().find_map(|message| match message {
            Message::MainPid(pid) => Some(*pid),
            _ => None,
        });
        self.sender.into_iter().chain(main)
    }
}

impl Inner {
    /// Whether anything of this process runs on callback threads.
    pub(super) fn needs_callbacks(&self) -> bool {
        let calls = &self.config.calls;
        calls.on_start.is_some()
            || calls.on_ready.is_some()
            || calls.on_exit.is_some()
            || self.config.captures_any()
            || matches!(self.config.child.containment, super::containment::Containment::Tree)
            || matches!(
                self.config.ready.kind,
                super::readiness::Kind::File(_) | super::readiness::Kind::Check(_) | super::readiness::Kind::Notify
            )
            || !sys::pidfd::features().group_signal
    }
}
