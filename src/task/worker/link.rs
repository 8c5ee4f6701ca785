//! A worker that is a process, from outside.
//!
//! Who waits for an answer reads the ring of answers itself, and so all that others wait for; who cannot, because another one does,
//! sleeps. When nobody reads it, the worker tells the reaper. So an answer costs no thread of its own and, while somebody waits for it,
//! none but his.

mod calls;
mod launch;
mod sending;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::board::Board;
use super::inbox::{Inbox, Left};
use super::inside;
use super::outgoing::Outgoing;
use super::slot::Wakers;
use super::wire::{self, ANSWERS, Answer, LANES, Signal};
use crate::error::Result as Started;
use crate::exit::Exit;
use crate::forkserver::{self, Function, Packed};
use crate::process::{Builder, Process};
use crate::reaper::{Reaper, Token, Watcher};
use crate::sys;
use crate::sys::blob;
use crate::sys::channel::Channel;
use crate::sys::event::Interest;
use crate::sys::locked;
use crate::sys::ring::{Garbage, Nudge, Reader, Shared, Writer};
use crate::task::elsewhere::Elsewhere;
use crate::task::error::TaskError;
use crate::task::outcome::{Outcome, Value};
use launch::Launch;

/// So many answers are read in a row by who has something else to look at: the reaper has others to serve, who waits has a limit.
const MOST_ANSWERS: usize = 1_000;
/// Between the close of a process's descriptors and its end, in the kernel.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Link {
    id: u64,
    me: Weak<Link>,
    process: Process,
    launch: Launch,
    /// Before the board, and the channel.
    lanes: [Mutex<Outgoing>; 2],
    channel: Elsewhere<Channel>,
    board: Board,
    /// By who reads the answers, for as long as he waits.
    answers: Mutex<Reader>,
    nudge: Nudge,
    /// Somebody wanted to read them while somebody else did.
    is_wanted: AtomicBool,
    inbox: Elsewhere<Inbox>,
    /// With the reaper, and for what. Leaf lock.
    watched: Mutex<Option<(Token, Interest)>>,
    /// When the reaper comes back to send what could not be sent. Before the reaper's timers.
    again: Mutex<Option<Instant>>,
    next_id: AtomicU64,
    /// The first call is the setup: without it there are no others.
    has_setup: bool,
    /// It is ended then: its end of the channel is closed.
    deaf_until: Mutex<Option<Instant>>,
    /// The process has ended, or is to.
    is_ending: AtomicBool,
    /// Of this program: a fork of it may not touch the rings.
    incarnation: u32,
    /// What begins when this has ended.
    successor: Mutex<Option<Arc<Link>>>,
}

/// The number of the first call.
const FIRST: u64 = 1;

/// What the target of a worker's process is; each run gets a channel of its own.
pub(super) fn target() -> Function {
    Function::new("worker", inside::live, Ok(Packed::default()))
}

impl Link {
    /// A worker's process, which takes calls and is not started yet.
    pub(super) fn new(name: &str, options: &Builder, has_setup: bool) -> Started<Arc<Link>> {
        let failed = |error| forkserver::not_started(name, error);
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let (shared, rings) = Shared::new().map_err(failed)?;
        channel.send(&Signal::Look.bytes(), &[rings.as_raw_fd()]).map_err(failed)?;
        let process = options.clone().target(target().with_channel(theirs).into_target()).build()?;
        let shared = Arc::new(shared);
        let answers = Reader::new(&shared, ANSWERS);
        let lanes = LANES.map(|lane| Mutex::new(Outgoing::new(lane, Writer::new(&shared, lane as usize))));
        let link = Arc::new_cyclic(|me| Link {
            me: me.clone(),
            id: Reaper::get().new_id(),
            lanes,
            channel: Elsewhere::new(channel),
            board: Board::default(),
            nudge: answers.nudge(),
            answers: Mutex::new(answers),
            inbox: Elsewhere::new(Inbox::default()),
            is_wanted: AtomicBool::new(false),
            watched: Mutex::default(),
            again: Mutex::default(),
            next_id: AtomicU64::new(FIRST),
            has_setup,
            deaf_until: Mutex::default(),
            is_ending: AtomicBool::new(false),
            incarnation: sys::process::incarnation(),
            successor: Mutex::default(),
            process,
            launch: Launch::default(),
        });
        link.leave(locked(&link.answers), &mut Wakers::default());
        Ok(link)
    }

    /// The reaper comes back, whatever it is about to do.
    fn look_at_once(&self) {
        if let Some(me) = self.me.upgrade() {
            Reaper::get().set_timer(self.id, None, Some(Instant::now()), &me);
        }
    }

    /// It said what nobody says who is right in his mind: nobody listens to it any more. That needs no lock which somebody has who waits.
    fn refuse(&self) {
        let why = "the worker wrote what cannot be read, and was stopped".to_owned();
        let wakers = self.board.end(&TaskError::Codec(why));
        self.nudge.nudge();
        self.unwatch();
        // It may have ended.
        let _ = self.process.kill(false);
        wakers.wake_elsewhere();
    }

    /// Reads what is there, at most so many answers. True: all.
    fn read(&self, answers: &mut Reader, most: usize, wakers: &mut Wakers) -> bool {
        let came = self.inbox.came();
        for _ in 0..most {
            let read = match answers.read() {
                Ok(None) if !self.inbox.has_untold(came) => return true,
                Ok(Some((message, wake))) => {
                    Signal::tell(&self.channel, wake);
                    self.answered(message, wakers)
                }
                Ok(None) | Err(Garbage) => None,
            };
            if read.is_none() {
                self.refuse();
                return true;
            }
        }
        false
    }

    /// It has ended: what it had answered, it has. What it left behind may write on, and is not listened to.
    fn read_last(&self) -> Wakers {
        let (mut answers, mut wakers) = (locked(&self.answers), Wakers::default());
        let end = answers.written();
        while !self.board.is_over() && !answers.has_read(end) && !self.read(&mut answers, 1, &mut wakers) {}
        wakers
    }

    fn answered(&self, message: Vec<u8>, wakers: &mut Wakers) -> Option<()> {
        let (Answer { id, outcome }, rest) = wire::decode(&message)?;
        if matches!(outcome, Outcome::Taken) {
            // Else it could say that without end.
            if !self.lanes.iter().any(|lane| locked(lane).has_sent_file(id)) {
                return None;
            }
        } else {
            let mut is_whole = true;
            let told = outcome.told(message, rest, || {
                let file = self.take_file().map_err(|Garbage| io::Error::from(io::ErrorKind::InvalidData));
                // One that no worker sends is as good as none.
                file.and_then(Value::unpack).inspect_err(|error| is_whole = !blob::is_refusal(error))
            });
            if !is_whole {
                return None;
            }
            let failed = told.as_ref().err().filter(|_| self.has_setup && id == FIRST).cloned();
            match self.board.finish(id, told) {
                Some(waker) => wakers.add(waker),
                // Of one that was stopped nobody waits for what it still says.
                None if self.board.is_over() => {}
                None => return None,
            }
            if let Some(error) = failed {
                wakers.add(self.board.end(&error));
                let _ = self.process.terminate(false);
            }
        }
        for lane in &self.lanes {
            let waits = locked(lane).taken(id);
            if waits {
                self.pump(lane);
            }
        }
        Some(())
    }

    fn take_file(&self) -> Result<Option<Vec<OwnedFd>>, Garbage> {
        let file = self.inbox.take(&self.channel);
        // There is room for another one.
        self.watch_for(Interest::READ);
        file
    }

    /// Reads the answers if nobody else does; who does is told that there is more.
    fn try_read(&self) -> Option<MutexGuard<'_, Reader>> {
        if let Ok(answers) = self.answers.try_lock() {
            return Some(answers);
        }
        self.is_wanted.store(true, Ordering::SeqCst);
        // He may have let go before he could see that.
        self.answers.try_lock().ok()
    }

    /// Nobody reads the answers any more: from now on the worker tells the reaper. (Who has others to serve reads what has come meanwhile, if
    /// that is not too much; then the reaper comes back.)
    fn leave<'a>(&'a self, mut answers: MutexGuard<'a, Reader>, wakers: &mut Wakers) {
        loop {
            while !self.board.is_over() && !answers.go_away() {
                answers.come_back();
                if !self.read(&mut answers, MOST_ANSWERS, wakers) {
                    // Else the reaper finds somebody who reads, and goes away again.
                    drop(answers);
                    return self.look_at_once();
                }
            }
            drop(answers);
            // Whoever was told of answers meanwhile could not read them.
            if !self.is_wanted.swap(false, Ordering::SeqCst) {
                return;
            }
            let Ok(again) = self.answers.try_lock() else { return };
            answers = again;
            answers.come_back();
        }
    }

    fn watch_for(&self, interest: Interest) {
        if let Some((token, before)) = &mut *locked(&self.watched)
            && std::mem::replace(before, interest) != interest
        {
            Reaper::get().rewatch(*token, self.channel.as_fd(), interest);
        }
    }

    fn unwatch(&self) {
        if let Some((token, _)) = locked(&self.watched).take() {
            Reaper::get().unwatch(token, self.channel.as_fd());
        }
    }

    /// Nobody has the other end any more. How it ended, its process tells: at once, or it goes on with what its function did to it, and then all
    /// who wait would wait for ever.
    fn end_if_deaf(self: &Arc<Self>) {
        self.unwatch();
        let until = *locked(&self.deaf_until).get_or_insert_with(|| Instant::now() + FAREWELL);
        if Instant::now() < until {
            Reaper::get().set_timer(self.id, None, Some(until), self);
        } else {
            // It may have ended.
            let _ = self.process.kill(false);
        }
    }

    fn ended(&self, exit: Exit) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.nudge.nudge();
        self.unwatch();
        let mut wakers = self.read_last();
        wakers.add(self.board.end(&TaskError::Crashed(exit)));
        self.lanes.iter().for_each(|lane| locked(lane).forget());
        self.let_successor_go();
        wakers.wake_elsewhere();
    }

    fn is_foreign(&self) -> bool {
        self.incarnation != sys::process::incarnation()
    }
}

impl Watcher for Link {
    fn ready(self: Arc<Self>, _key: u64) {
        if self.board.is_over() {
            // Nobody waits for what it says, and it may say much.
            return self.unwatch();
        }
        self.watch_for(Interest::READ);
        let Ok(left) = self.inbox.receive(&self.channel) else { return self.refuse() };
        if self.channel.is_finished().is_ok_and(|is_finished| is_finished) {
            self.end_if_deaf();
        }
        self.lanes.iter().for_each(|lane| self.pump(lane));
        let mut wakers = Wakers::default();
        if let Some(mut answers) = self.try_read() {
            answers.come_back();
            if self.read(&mut answers, MOST_ANSWERS, &mut wakers) {
                self.leave(answers, &mut wakers);
            } else {
                drop(answers);
                self.look_at_once();
            }
        } else if left == Left::Files {
            // We would be told of them all the time. He takes them, or finds that there are no answers for them.
            self.watch_for(Interest::NONE);
            self.nudge.nudge();
            self.look_again();
        }
        wakers.wake_elsewhere();
    }

    fn due(self: Arc<Self>, now: Instant) {
        // Before it is tried: who cannot send after that is to find none.
        locked(&self.again).take_if(|at| *at <= now);
        self.ready(0);
    }

    fn look(self: Arc<Self>) {}
}
