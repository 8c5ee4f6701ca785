//! A task that has a process of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use super::elsewhere::Elsewhere;
use super::error::TaskError;
use super::handle::{Ended, Work};
use super::outcome;
use crate::error::Result as Started;
use crate::exit::Exit;
use crate::process::{Exited, Process};
use crate::sys::channel::Channel;

pub(super) struct Single {
    process: Process,
    exited: Exited,
    channel: Elsewhere<Channel>,
    is_cancelled: AtomicBool,
}

impl Single {
    pub(super) fn new(process: Process, channel: Channel) -> Single {
        let channel = Elsewhere::new(channel);
        Single { exited: process.exited(), process, channel, is_cancelled: AtomicBool::new(false) }
    }

    /// What came out of it, now that its process has ended.
    fn outcome(&self, end: Started<Exit>) -> Ended {
        match outcome::heard(&self.channel) {
            Some(outcome) => outcome,
            None if self.is_cancelled.load(Ordering::Relaxed) => Err(TaskError::Cancelled),
            None => Err(TaskError::Crashed(end?)),
        }
    }
}

impl Future for Single {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        Pin::new(&mut self.exited).poll(context).map(|end| self.outcome(end))
    }
}

impl Work for Single {
    fn wait(&self, until: Option<Instant>) -> Option<Ended> {
        let end = match until {
            None => self.process.join(),
            Some(until) => self.process.join_timeout(until.saturating_duration_since(Instant::now())).transpose()?,
        };
        Some(self.outcome(end))
    }

    fn is_done(&self) -> bool {
        !self.process.is_alive()
    }

    fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        // It may have ended.
        let _ = self.process.terminate(false);
    }

    fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    fn name(&self) -> String {
        self.process.name().to_owned()
    }
}
