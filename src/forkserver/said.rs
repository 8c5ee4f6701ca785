//! What is heard of one start.

use std::io;

use super::order::{self, Answer};
use crate::sys;
use crate::sys::channel::{Channel, Message};
use crate::sys::pidfd::Pidfd;
use crate::sys::spawn::{Child, Failure};

/// What server and child have said of a start.
#[derive(Default)]
pub(super) struct Said {
    pub(super) child: Option<Child>,
    /// Its number, which it told itself.
    pid: Option<u32>,
    pub(super) is_settled: bool,
    pub(super) failure: Option<Failure>,
}

impl Said {
    /// There is nothing more to come that matters.
    pub(super) fn is_all(&self) -> bool {
        self.child.is_some() && (self.is_settled || self.failure.is_some())
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.child.is_none() && self.failure.is_none()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.child.as_ref().is_some_and(|child| child.pidfd.has_ended())
    }

    /// The server was killed before it could tell, or there was no place for the pidfd. It is our child: so the number is its own until we
    /// take its status.
    pub(super) fn find(&mut self) -> io::Result<()> {
        if let (None, Some(pid)) = (&self.child, self.pid) {
            let pidfd = Pidfd::open(pid).inspect_err(|error| sys::fork::abandon(pid, error))?;
            self.child = Some(Child { pid, pidfd });
        }
        Ok(())
    }

    /// What is there by now, until it is all.
    pub(super) fn hear(&mut self, answers: &Channel) -> io::Result<()> {
        while !self.is_all()
            && let Some(message) = answers.receive_at_once()?
        {
            self.add(message)?;
        }
        Ok(())
    }

    fn add(&mut self, mut message: Message) -> io::Result<()> {
        let answer = order::decode(&message)?;
        match answer {
            Answer::Settled => self.is_settled = true,
            Answer::Copied { pid } => {
                self.pid = Some(pid);
                if let Some(pidfd) = message.descriptors.pop() {
                    self.child = Some(Child { pid, pidfd: Pidfd::from(pidfd) });
                }
            }
            Answer::Failed { step, errno } => {
                let error = io::Error::from_raw_os_error(errno);
                self.failure = Some(Failure::at(step, error));
            }
            Answer::Done | Answer::Ready { .. } | Answer::Refused { .. } => {}
        }
        Ok(())
    }
}
