//! Hearing a run say that it is ready, and what else it says.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::events::EventKind;
use super::gate::Gate;
use super::notification::{Hearing, Judge, Judged, LONGEST_MESSAGE, Next, Said, Sender};
use super::reading::LAST_READS;
use super::run::{Main, Run};
use super::state::Event;
use super::turn::Turn;
use crate::callbacks::Callbacks;
use crate::notify::Message;
use crate::sys;

/// How long one child is listened to at a time, and how long it waits then: who sends faster than we read would else hold
/// the reaper, and the lock, for as long as it likes.
const LISTENING: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_millis(2);
/// When to judge again what could not be judged.
const LATER: Duration = Duration::from_millis(20);
/// So many messages that it sent before its end are heard: more than the kernel queues (`max_dgram_qlen`, unix(7)), and few
/// enough for one that somebody goes on sending to. No time is measured: this thread may not have been running.
const LAST_MESSAGES: usize = 1024;

impl Turn<'_> {
    pub(super) fn read_gate(&mut self) {
        let Some(run) = &self.core.run else { return };
        match &run.gate {
            Gate::Notify(_) => {
                let began = Instant::now();
                self.read_notifications(|| began.elapsed() < LISTENING);
            }
            Gate::Fd { .. } => _ = self.read_newline(),
            Gate::Open | Gate::Line(_) | Gate::Try { .. } => {}
        }
    }

    /// All that has been said by now, however much that is.
    pub(super) fn read_gate_to_the_end(&mut self) {
        let Some(run) = &self.core.run else { return };
        match &run.gate {
            Gate::Notify(_) => {
                let mut messages = 0..LAST_MESSAGES;
                self.read_notifications(|| messages.next().is_some());
            }
            Gate::Fd { .. } => self.read_newlines(),
            Gate::Line(_) => self.read_lines(),
            Gate::Open | Gate::Try { .. } => {}
        }
    }

    /// However slow the consumers are.
    fn read_lines(&mut self) {
        self.make_room();
        self.read_to_the_end();
    }

    fn read_newlines(&mut self) {
        let _ = (0..LAST_READS).take_while(|_| self.read_newline()).count();
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
            Gate::Notify(_) => self.read_last_notifications(),
            Gate::Fd { .. } | Gate::Line(_) | Gate::Open | Gate::Try { .. } => self.read_gate_to_the_end(),
        }
    }

    fn read_notifications(&mut self, mut goes_on: impl FnMut() -> bool) {
        while goes_on() {
            let Some(run) = &mut self.core.run else { return };
            if !run.is_all_heard() {
                return;
            }
            if run.closing.is_behind() {
                return run.pause_gate(Some(self.now + LATER));
            }
            match run.receive() {
                Some(Next::Said(said)) => self.hear(said),
                Some(Next::Blocks) => return self.receive_aside(),
                None => return,
            }
        }
        if let Some(run) = self.core.run.as_mut().filter(|run| run.is_all_heard()) {
            run.pause_gate(Some(self.now + PAUSE));
        }
    }

    /// What it said before its end is in a queue that the kernel bounds, or waits here. Nobody finds out any more what cannot be
    /// seen at once.
    fn read_last_notifications(&mut self) {
        let Some(run) = &mut self.core.run else { return };
        match std::mem::replace(&mut run.hearing, Hearing::Open) {
            Hearing::Judging(said) | Hearing::Again(said) => self.hear_at_the_end(said),
            // Another thread has the socket.
            Hearing::Receiving => return,
            Hearing::Open => {}
        }
        for _ in 0..LAST_MESSAGES {
            let next = self.core.run.as_ref().and_then(Run::receive);
            let Some(Next::Said(said)) = next else { return };
            self.hear_at_the_end(said);
        }
    }

    fn hear_at_the_end(&mut self, said: Said) {
        let Some(run) = &self.core.run else { return };
        let judged = run.judge(&said).ok().filter(Judge::is_at_once).and_then(|judge| judge.judge().ok());
        let judged = judged.or_else(|| Some(Judged { sender: run.sender_at_once(&said)?, main: None }));
        if let Some(judged) = judged {
            self.heard(said, judged);
        }
    }

    /// What would block is received on a callback thread.
    fn receive_aside(&mut self) {
        let Some(run) = &mut self.core.run else { return };
        let Gate::Notify(channel) = &run.gate else { return };
        let (socket, closing) = (Arc::clone(&channel.socket), run.closing.clone());
        let (inner, generation) = (Arc::clone(self.inner), run.generation);
        run.hearing = Hearing::Receiving;
        run.pause_gate(None);
        Callbacks::get().run_own(move || {
            let mut bytes = [0; LONGEST_MESSAGE];
            let datagram = sys::socket::receive(socket.as_fd(), &mut bytes);
            let said = datagram.ok().flatten().map(|datagram| {
                let said = Said::of(&datagram, &bytes);
                closing.close(datagram.passed);
                said
            });
            inner.turn(|turn| {
                let is_awaited = turn.resume_hearing(generation).is_some();
                if let Some(said) = said.filter(|_| is_awaited) {
                    turn.hear(said);
                }
            });
        });
    }

    /// What was waited for; `None` if that run is over, or its leader has ended.
    fn resume_hearing(&mut self, generation: u64) -> Option<Hearing> {
        let run = self.core.run.as_mut().filter(|run| run.generation == generation && run.ended.is_none())?;
        run.resume_gate();
        Some(std::mem::replace(&mut run.hearing, Hearing::Open))
    }

    /// Does what was said, as soon as it is known who said it and of whom.
    fn hear(&mut self, said: Said) {
        let Some(run) = &mut self.core.run else { return };
        let judge = match run.judge(&said) {
            Ok(judge) if judge.is_at_once() => match judge.judge() {
                Ok(judged) => return self.heard(said, judged),
                Err(_) => return self.hear_again(said),
            },
            Ok(judge) => judge,
            Err(_) => return self.hear_again(said),
        };
        run.hearing = Hearing::Judging(said);
        run.pause_gate(None);
        let (inner, generation) = (Arc::clone(self.inner), run.generation);
        Callbacks::get().run_own(move || {
            let judged = judge.judge();
            inner.turn(|turn| {
                if let Some(Hearing::Judging(said)) = turn.resume_hearing(generation) {
                    match judged {
                        Ok(judged) => turn.heard(said, judged),
                        Err(_) => turn.hear_again(said),
                    }
                }
            });
        });
    }

    /// What could not be judged before is judged again.
    pub(super) fn go_on_hearing(&mut self) {
        let Some(run) = &mut self.core.run else { return };
        if let Hearing::Again(_) = run.hearing
            && let Hearing::Again(said) = std::mem::replace(&mut run.hearing, Hearing::Open)
        {
            self.hear(said);
        }
    }

    /// It cannot be told now who said it, for want of descriptors or memory: later.
    fn hear_again(&mut self, said: Said) {
        if let Some(run) = &mut self.core.run {
            run.hearing = Hearing::Again(said);
            run.pause_gate(Some(self.now + LATER));
        }
    }

    /// The leader and what it named as its main process may say everything. Others of the run say what helps it, a shell's
    /// `systemd-notify` above all; but who is the main process, that they stop, or are broken, is not said of the run.
    fn heard(&mut self, said: Said, judged: Judged) {
        let Judged { sender, mut main } = judged;
        if matches!(sender, Sender::Stranger) {
            return self.ignored_stranger(said.sender);
        }
        for message in said.messages {
            let is_of_main = matches!(message, Message::Stopping | Message::WatchdogTrigger | Message::MainPid(_));
            if !is_of_main || matches!(sender, Sender::Main) {
                self.notified(message, &mut main);
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

    /// `main` is the process that a `MAINPID=` among the messages names.
    fn notified(&mut self, message: Message, main: &mut Option<Main>) {
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
            Message::MainPid(_) => {
                if let (Some(run), Some(main)) = (&mut self.core.run, main.take()) {
                    run.set_main(self.inner, main);
                    self.changed = true;
                }
            }
        }
    }

    /// The process that it named by `MAINPID=`.
    pub(super) fn main_ended(&mut self) {
        // (It may have named another one since.)
        if let Some(run) = self.core.run.as_mut().filter(|run| run.main_pid().is_none()) {
            run.unwatch_main();
            self.changed = true;
        }
    }

    /// A line of output that `Ready::line` may be waiting for.
    pub(super) fn look_for_ready_line(&mut self) {
        let Some(run) = &self.core.run else { return };
        let Gate::Line(text) = &run.gate else { return };
        let text = Arc::clone(text);
        while let Some(line) = self.core.output.next_for_gate() {
            if line.text().contains(&*text) {
                return self.feed(Event::Ready);
            }
        }
        self.resume_reading();
    }
}
