//! Hearing a run say that it is ready, and what else it says.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::containment::Membership;
use super::core::Inner;
use super::events::EventKind;
use super::gate::Gate;
use super::run::{Main, Run};
use super::state::Event;
use super::turn::Turn;
use crate::callbacks::Callbacks;
use crate::notify::{self, Message};
use crate::sys;
use crate::sys::pidfd::Pidfd;
use crate::sys::socket::{Datagram, Received};

/// Longer than anything `sd_notify(3)` defines.
const LONGEST_MESSAGE: usize = 8 * 1024;
/// How long one child is listened to at a time, and how long it waits then: who sends faster than we read would else hold
/// the reaper, and the lock, for as long as it likes.
const LISTENING: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_millis(2);
/// When to judge again what could not be judged.
const LATER: Duration = Duration::from_millis(20);
/// As `LISTENING`, for what it said before its end. No queue of the kernel takes longer to read.
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
        let last = at_most == LAST_LISTENING;
        while began.elapsed() < at_most {
            let Some(run) = &self.core.run else { return };
            let Gate::Notify(channel) = &run.gate else { return };
            if !last && (!matches!(run.hearing, Hearing::Open) || run.closing.is_behind()) {
                break;
            }
            match sys::socket::receive_without_blocking(channel.socket.as_fd(), &mut bytes) {
                Ok(Some(Received::Datagram(datagram))) => {
                    let said = Said::of(&datagram, &bytes);
                    run.closing.close(datagram.passed);
                    self.hear(said);
                }
                Ok(Some(Received::Blocks(passed))) => {
                    run.closing.close(passed);
                    if !last {
                        self.receive_aside();
                    }
                    return;
                }
                Ok(None) | Err(_) => return,
            }
        }
        if let Some(run) = self.core.run.as_mut().filter(|run| matches!(run.hearing, Hearing::Open)) {
            run.pause_gate(Some(self.now + PAUSE));
        }
    }

    /// What would block is received on a callback thread.
    fn receive_aside(&mut self) {
        let Some(run) = &mut self.core.run else { return };
        let Gate::Notify(channel) = &run.gate else { return };
        let (socket, closing) = (Arc::clone(&channel.socket), Arc::clone(&run.closing));
        let (inner, generation) = (Arc::clone(self.inner), run.generation);
        run.hearing = Hearing::Aside;
        run.pause_gate(None);
        Callbacks::get().run(move || {
            let mut bytes = [0; LONGEST_MESSAGE];
            let datagram = sys::socket::receive(socket.as_fd(), &mut bytes);
            let said = datagram.ok().flatten().map(|datagram| {
                let said = Said::of(&datagram, &bytes);
                closing.close(datagram.passed);
                said
            });
            inner.turn(|turn| {
                if turn.resume_hearing(generation)
                    && let Some(said) = said
                {
                    turn.hear(said);
                }
            });
        });
    }

    /// False: that run is over, or its leader has ended.
    fn resume_hearing(&mut self, generation: u64) -> bool {
        let Some(run) = self.core.run.as_mut().filter(|run| run.generation == generation && run.ended.is_none()) else {
            return false;
        };
        run.hearing = Hearing::Open;
        run.resume_gate();
        true
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
        if run.ended.is_some() {
            // It was among its last words: nobody waits until that is found out.
            return;
        }
        run.hearing = Hearing::Aside;
        run.pause_gate(None);
        let (inner, generation) = (Arc::clone(self.inner), run.generation);
        Callbacks::get().run(move || {
            let judged = judge.judge();
            inner.turn(|turn| {
                if turn.resume_hearing(generation) {
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
            match message {
                Message::Stopping | Message::WatchdogTrigger | Message::MainPid(_)
                    if !matches!(sender, Sender::Main) => {}
                Message::MainPid(_) => {
                    if let (Some(run), Some(main)) = (&mut self.core.run, main.take()) {
                        run.main = Some(main);
                        self.changed = true;
                    }
                }
                message => self.notified(message),
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

    fn notified(&mut self, message: Message) {
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
            Message::MainPid(_) => {}
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

impl Run {
    /// Whether it may speak for the run.
    fn is_main(&self, pid: u32) -> bool {
        self.main_pid() == Some(pid) || (pid == self.pid() && self.ended.is_none())
    }

    fn membership(&self, pid: u32) -> io::Result<Membership> {
        if self.is_main(pid) { Ok(Membership::Known(true)) } else { self.contained.owns(&self.leader, pid) }
    }

    fn judge(&self, said: &Said) -> io::Result<Judge> {
        let sender = said.sender.map_or(Ok(Membership::Known(false)), |pid| self.membership(pid))?;
        let main = match said.main_pid() {
            // It may only name what is part of the run: the pid is shown to users, who may signal it. Opened first and judged
            // then: once it is open its number stays its own.
            Some(pid) => match Pidfd::open(pid) {
                Ok(pidfd) => Some((Main { pid, pidfd }, self.membership(pid)?)),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        Ok(Judge { speaks: said.sender.is_some_and(|pid| self.is_main(pid)), sender, main })
    }
}

/// What becomes of the next notification.
pub(super) enum Hearing {
    Open,
    /// It waits: of one it is being found out on a callback thread what it is.
    Aside,
    /// It waits: this one has to be judged again.
    Again(Said),
}

/// A notification.
pub(super) struct Said {
    sender: Option<u32>,
    messages: Vec<Message>,
}

impl Said {
    fn of(datagram: &Datagram, bytes: &[u8]) -> Said {
        let said = if datagram.truncated { &[] } else { &bytes[..datagram.len] };
        Said { sender: datagram.pid, messages: notify::parse(said) }
    }

    /// Of several the last counts.
    fn main_pid(&self) -> Option<u32> {
        self.messages.iter().rev().find_map(|message| match message {
            Message::MainPid(pid) => Some(*pid),
            _ => None,
        })
    }
}

/// Finds out who said something, and whether whom it named is of the run.
struct Judge {
    /// It may speak for the run.
    speaks: bool,
    sender: Membership,
    main: Option<(Main, Membership)>,
}

struct Judged {
    sender: Sender,
    main: Option<Main>,
}

/// Who sent a notification.
enum Sender {
    Main,
    Member,
    Stranger,
}

impl Judge {
    fn is_at_once(&self) -> bool {
        self.sender.is_known() && self.main.as_ref().is_none_or(|(_, membership)| membership.is_known())
    }

    fn judge(self) -> io::Result<Judged> {
        let sender = match self.sender.find_out()? {
            _ if self.speaks => Sender::Main,
            true => Sender::Member,
            false => Sender::Stranger,
        };
        let main = match self.main {
            Some((main, membership)) => membership.find_out()?.then_some(main),
            None => None,
        };
        Ok(Judged { sender, main })
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
