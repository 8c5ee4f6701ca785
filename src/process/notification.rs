//! A notification, and whether it counts: who sent it, and of whom it speaks.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::containment::Membership;
use super::gate::Gate;
use super::run::{Main, Run};
use crate::notify::{self, Message};
use crate::sys;
use crate::sys::pidfd::Pidfd;
use crate::sys::socket::{Datagram, Received};

/// Longer than anything `sd_notify(3)` defines.
pub(super) const LONGEST_MESSAGE: usize = 8 * 1024;

impl Run {
    /// Whether it may speak for the run.
    fn is_main(&self, pid: u32) -> bool {
        self.main_pid() == Some(pid) || (pid == self.pid() && self.ended.is_none())
    }

    fn membership(&self, pid: u32) -> io::Result<Membership> {
        if self.is_main(pid) { Ok(Membership::Known(true)) } else { self.contained.owns(&self.leader, pid) }
    }

    /// The next notification; `None`: nothing now.
    pub(super) fn receive(&self) -> Option<Next> {
        let Gate::Notify(channel) = &self.gate else { return None };
        let mut bytes = [0; LONGEST_MESSAGE];
        match sys::socket::receive_without_blocking(channel.socket.as_fd(), &mut bytes).ok()?? {
            Received::Datagram(datagram) => {
                let said = Said::of(&datagram, &bytes);
                self.closing.close(datagram.passed);
                Some(Next::Said(said))
            }
            Received::Blocks(passed) => {
                self.closing.close(passed);
                Some(Next::Blocks)
            }
        }
    }

    /// One of the run, if that is seen at once.
    pub(super) fn sender_at_once(&self, said: &Said) -> Option<Sender> {
        let pid = said.sender?;
        if self.is_main(pid) {
            return Some(Sender::Main);
        }
        matches!(self.membership(pid), Ok(Membership::Known(true))).then_some(Sender::Member)
    }

    pub(super) fn judge(&self, said: &Said) -> io::Result<Judge> {
        let sender = said.sender.map_or(Ok(Membership::Known(false)), |pid| self.membership(pid))?;
        let speaks = said.sender.is_some_and(|pid| self.is_main(pid));
        let main = match said.main_pid().filter(|_| speaks) {
            // It may only name what is part of the run: the pid is shown to users, who may signal it.
            Some(pid) if pid == self.pid() => {
                let pidfd = Arc::clone(&self.leader.pidfd);
                Some((Main { pid, pidfd }, Membership::Known(true)))
            }
            // Opened first and judged then: once it is open its number stays its own.
            Some(pid) => match Pidfd::open(pid) {
                Ok(pidfd) => Some((Main { pid, pidfd: Arc::new(pidfd) }, self.membership(pid)?)),
                Err(error) if is_shortage(&error) => return Err(error),
                // Nobody has that id, or a thread: there is no such process.
                Err(_) => None,
            },
            None => None,
        };
        Ok(Judge { speaks, sender, main })
    }
}

/// It may be had later.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// What becomes of the next notification.
pub(super) enum Hearing {
    Open,
    /// It waits: a callback thread receives the one before it.
    Receiving,
    /// It waits: of this one a callback thread finds out whose it is.
    Judging(Said),
    /// It waits: this one has to be judged again.
    Again(Said),
}

/// What a look into the socket finds.
pub(super) enum Next {
    Said(Said),
    /// It would block to receive it.
    Blocks,
}

/// A notification.
pub(super) struct Said {
    pub(super) sender: Option<u32>,
    pub(super) messages: Vec<Message>,
}

impl Said {
    pub(super) fn of(datagram: &Datagram, bytes: &[u8]) -> Said {
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
pub(super) struct Judge {
    /// It may speak for the run.
    speaks: bool,
    sender: Membership,
    main: Option<(Main, Membership)>,
}

pub(super) struct Judged {
    pub(super) sender: Sender,
    pub(super) main: Option<Main>,
}

/// Who sent a notification.
pub(super) enum Sender {
    Main,
    Member,
    Stranger,
}

impl Judge {
    pub(super) fn is_at_once(&self) -> bool {
        self.sender.is_known() && self.main.as_ref().is_none_or(|(_, membership)| membership.is_known())
    }

    pub(super) fn judge(self) -> io::Result<Judged> {
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
