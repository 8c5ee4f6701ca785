//! The live resources of one run, given back together when it is over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::closing::{self, Closing};
use super::containment::{Contained, Leader};
use super::core::{Inner, Streams};
use super::gate::Gate;
use super::launch::Launched;
use super::left::{LastSeen, Left};
use super::notification::Hearing;
use super::trying::Connection;
use crate::exit::{ExitReason, Usage};
use crate::reaper::{Reaper, Token, Watcher};
use crate::signal::Signal;
use crate::sys;
use crate::sys::event::Interest;
use crate::sys::pidfd::Pidfd;
use crate::sys::wait::{Change, Waited};

/// A registration with the reaper is tagged with the run and the channel it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Pidfd,
    Stdout,
    Stderr,
    Gate,
    Connect,
    Main,
}

const CHANNELS: [Channel; 6] =
    [Channel::Pidfd, Channel::Stdout, Channel::Stderr, Channel::Gate, Channel::Connect, Channel::Main];
const CHANNEL_BITS: u32 = 3;

pub(super) fn key(generation: u64, channel: Channel) -> u64 {
    (generation << CHANNEL_BITS) | channel as u64
}

pub(super) fn split(key: u64) -> Option<(u64, Channel)> {
    let channel = (key & ((1 << CHANNEL_BITS) - 1)) as usize;
    Some((key >> CHANNEL_BITS, *CHANNELS.get(channel)?))
}

pub(super) struct Run {
    pub(super) generation: u64,
    pub(super) started: SystemTime,
    pub(super) began: Instant,
    /// So long it took after that until it was known to live.
    pub(super) creation: Duration,
    pub(super) leader: Leader,
    pidfd_token: Option<Token>,
    /// A thread in a join looks after the leader in the reaper's stead.
    pub(super) is_lent: bool,
    /// How the leader ended, once it has.
    pub(super) ended: Option<Ended>,
    /// When that was seen.
    pub(super) saw_end: Option<Instant>,
    pub(super) pipes: [Option<Pipe>; 2],
    pub(super) gate: Gate,
    gate_token: Option<Token>,
    pub(super) connecting: Vec<Connection>,
    /// When the gate is tried next.
    pub(super) try_at: Option<Instant>,
    /// When orphans of it are looked for next, and when they were last.
    pub(super) orphans_at: Option<Instant>,
    pub(super) orphans_taken: Option<Instant>,
    /// A signal that waits until it is noted who belongs to the run, and for how long.
    pub(super) owed: Option<(Signal, Instant)>,
    pub(super) contained: Contained,
    /// What it named by `MAINPID=`.
    pub(super) main: Option<Main>,
    main_token: Option<Token>,
    /// What came with its notifications.
    pub(super) closing: Closing,
    /// A stranger has sent to its notify socket.
    pub(super) had_strangers: bool,
    pub(super) hearing: Hearing,
    /// SIGKILL was sent to all of it.
    pub(super) killed: bool,
    /// How often it was asked whether anything is left.
    pub(super) looks: u32,
    pub(super) relook: Option<Relook>,
    /// The user's ends of piped streams, on their way to where they are handed out.
    pub(super) streams: Streams,
}

/// A process of the run that speaks for it.
pub(super) struct Main {
    pub(super) pid: u32,
    pub(super) pidfd: Arc<Pidfd>,
}

/// What the kernel said of the leader's end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) reason: ExitReason,
    pub(super) core_dumped: bool,
    pub(super) usage: Usage,
}

/// One captured stream.
pub(super) struct Pipe {
    pub(super) fd: OwnedFd,
    token: Option<Token>,
    /// Nothing is read because a consumer has yet to make room.
    pub(super) paused: bool,
}

/// The pidfd said something happened and the wait saw nothing: ask again later instead of spinning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Relook {
    pub(super) at: Instant,
    pub(super) pause: Duration,
    /// Since when it is known that someone else took the status.
    pub(super) stolen: Option<Instant>,
}

impl Run {
    pub(super) fn new(generation: u64, launched: Launched) -> Run {
        let [stdout, stderr] = launched.piped;
        let streams = Streams {
            stdin: launched.stdin.map(Into::into),
            stdout: stdout.map(Into::into),
            stderr: stderr.map(Into::into),
        };
        Run {
            generation,
            started: launched.started,
            began: launched.began,
            creation: Duration::ZERO,
            leader: Leader {
                pid: launched.child.pid,
                pidfd: Arc::new(launched.child.pidfd),
                started: launched.child_started,
                reaped: false,
            },
            pidfd_token: None,
            is_lent: false,
            ended: None,
            saw_end: None,
            pipes: launched.captured.map(|fd| fd.map(|fd| Pipe { fd, token: None, paused: false })),
            gate: launched.gate,
            gate_token: None,
            connecting: Vec::new(),
            try_at: None,
            orphans_at: None,
            orphans_taken: None,
            owed: None,
            contained: launched.contained,
            main: None,
            main_token: None,
            closing: Closing::default(),
            had_strangers: false,
            hearing: Hearing::Open,
            killed: false,
            looks: 0,
            relook: None,
            streams,
        }
    }

    /// Has the reaper tell `inner` of everything that happens to it, but of a leader that `has_ended`. What was registered before a
    /// failure goes with the run.
    pub(super) fn register(&mut self, inner: &Arc<Inner>, has_ended: bool) -> io::Result<()> {
        let generation = self.generation;
        let watch = |fd: BorrowedFd<'_>, channel| {
            let watcher = Arc::clone(inner) as Arc<dyn Watcher>;
            Reaper::get().watch(fd, Interest::READ, watcher, key(generation, channel)).map(Some)
        };
        if !has_ended {
            self.watch_leader(inner)?;
        }
        for (pipe, channel) in self.pipes.iter_mut().zip([Channel::Stdout, Channel::Stderr]) {
            if let Some(pipe) = pipe {
                pipe.token = watch(pipe.fd.as_fd(), channel)?;
            }
        }
        if let Some(fd) = self.gate.watched() {
            self.gate_token = watch(fd, Channel::Gate)?;
        }
        Ok(())
    }

    /// Undoes a creation: nobody has heard of this process yet.
    pub(super) fn abolish(self) {
        let _ = self.contained.kill(&self.leader);
        let _ = self.leader.pidfd.signal(Signal::KILL.as_raw());
        sys::spawn::reap(&self.leader.pidfd);
    }

    /// When `Inner::due` has something to do for it; the earliest of all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let (relook, owed) = (self.relook.map(|relook| relook.at), self.owed.map(|(_, at)| at));
        [relook, owed, self.try_at, self.orphans_at].into_iter().flatten().min()
    }

    /// No notification waits to be judged, or to be received elsewhere.
    pub(super) fn is_all_heard(&self) -> bool {
        matches!(self.hearing, Hearing::Open)
    }

    pub(super) fn pid(&self) -> u32 {
        self.leader.pid
    }

    /// What is left of it is left alone; but not its zombies.
    pub(super) fn leave(&mut self) {
        let leader = self.leader.clone();
        let contained = std::mem::replace(&mut self.contained, Contained::Leader);
        Left { leader, contained, seen: LastSeen::default() }.keep();
    }

    pub(super) fn watch_leader(&mut self, inner: &Arc<Inner>) -> io::Result<()> {
        let (watcher, key) = (Arc::clone(inner) as Arc<dyn Watcher>, key(self.generation, Channel::Pidfd));
        let interest = if self.relook.is_some() { Interest::NONE } else { Interest::READ };
        self.pidfd_token = Some(Reaper::get().watch(self.leader.pidfd.as_fd(), interest, watcher, key)?);
        Ok(())
    }

    /// Ends the reaper's watch over the leader: its pidfd is ready for ever, or someone else watches it. False: there
    /// was none.
    pub(super) fn unwatch_leader(&mut self) -> bool {
        let Some(token) = self.pidfd_token.take() else { return false };
        Reaper::get().unwatch(token, self.leader.pidfd.as_fd());
        true
    }

    pub(super) fn set_leader_interest(&self, interest: Interest) {
        if let Some(token) = self.pidfd_token {
            Reaper::get().rewatch(token, self.leader.pidfd.as_fd(), interest);
        }
    }

    pub(super) fn set_pipe_paused(&mut self, index: usize, paused: bool) {
        if let Some(pipe) = &mut self.pipes[index]
            && pipe.paused != paused
            && let Some(token) = pipe.token
        {
            let interest = if paused { Interest::NONE } else { Interest::READ };
            Reaper::get().rewatch(token, pipe.fd.as_fd(), interest);
            pipe.paused = paused;
        }
    }

    pub(super) fn close_pipe(&mut self, index: usize) {
        if let Some(Pipe { fd, token: Some(token), .. }) = self.pipes[index].take() {
            Reaper::get().unwatch(token, fd.as_fd());
        }
    }

    pub(super) fn stop_connecting(&mut self) {
        std::mem::take(&mut self.connecting).into_iter().for_each(Connection::close);
    }

    /// It speaks for the run from now on.
    pub(super) fn set_main(&mut self, inner: &Arc<Inner>, main: Main) {
        self.unwatch_main();
        let (watcher, key) = (Arc::clone(inner) as Arc<dyn Watcher>, key(self.generation, Channel::Main));
        // (Without it its end is seen by who looks, and told to nobody.)
        self.main_token = Reaper::get().watch(main.pidfd.as_fd(), Interest::READ, watcher, key).ok();
        self.main = Some(main);
    }

    pub(super) fn unwatch_main(&mut self) {
        if let (Some(token), Some(main)) = (self.main_token.take(), &self.main) {
            Reaper::get().unwatch(token, main.pidfd.as_fd());
        }
    }

    /// While it lives: its number may be anyone's after that.
    pub(super) fn main_pid(&self) -> Option<u32> {
        self.main.as_ref().filter(|main| !sys::event::is_readable(main.pidfd.as_fd())).map(|main| main.pid)
    }

    /// Nobody listens to it until then, or until it is resumed.
    pub(super) fn pause_gate(&mut self, until: Option<Instant>) {
        self.set_gate_interest(Interest::NONE);
        self.try_at = until;
    }

    pub(super) fn resume_gate(&mut self) {
        self.set_gate_interest(Interest::READ);
    }

    fn set_gate_interest(&self, interest: Interest) {
        if let (Some(token), Some(fd)) = (self.gate_token, self.gate.watched()) {
            Reaper::get().rewatch(token, fd, interest);
        }
    }

    /// Nothing more is expected of the gate. (The notify socket stays: it has more to say than readiness.)
    pub(super) fn close_gate(&mut self) {
        match &self.gate {
            Gate::Notify(_) => {}
            Gate::Open | Gate::Fd { .. } | Gate::Line(_) | Gate::Try { .. } => {
                self.try_at = None;
                self.stop_connecting();
                self.drop_gate();
            }
        }
    }

    fn drop_gate(&mut self) {
        if let (Some(token), Some(fd)) = (self.gate_token.take(), self.gate.watched()) {
            Reaper::get().unwatch(token, fd);
        }
        if let Gate::Notify(notify) = std::mem::replace(&mut self.gate, Gate::Open) {
            closing::close(notify.socket);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.unwatch_leader();
        self.unwatch_main();
        self.close_pipe(0);
        self.close_pipe(1);
        self.stop_connecting();
        self.drop_gate();
    }
}

impl Ended {
    pub(super) fn of(waited: Waited) -> Ended {
        let usage = Usage { user: waited.usage.user, system: waited.usage.system, max_rss: waited.usage.max_rss };
        Ended { usage, ..Ended::of_change(waited.change) }
    }

    /// From a status alone: what it used is not known.
    pub(super) fn of_change(change: Change) -> Ended {
        let (reason, core_dumped) = match change {
            Change::Exited(code) => (ExitReason::Exited(code), false),
            Change::Killed { signal, core } => {
                (Signal::from_raw(signal).map_or(ExitReason::Lost, ExitReason::Signaled), core)
            }
            Change::Stopped(_) | Change::Trapped | Change::Continued => (ExitReason::Lost, false),
        };
        Ended { reason, core_dumped, usage: Usage::default() }
    }

    pub(super) fn lost() -> Ended {
        Ended { reason: ExitReason::Lost, core_dumped: false, usage: Usage::default() }
    }
}
