//! A worker that is a process, from outside.
//!
//! Who waits for an answer reads the ring of answers itself, and so all that others wait for; who cannot, because another one does,
//! sleeps. When nobody reads it, the worker tells the reaper. So an answer costs no thread of its own and, while somebody waits for it,
//! none but his.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::board::{Board, Pending};
use super::home::{AtEnd, Home};
use super::inside::{self, MOST_SIGNAL};
use super::outgoing::{Letter, Outgoing};
use super::slot::Slot;
use super::wire::{self, ANSWERS, Answer, LANES, Lane, Request, Signal};
use crate::error::Result as Started;
use crate::exit::Exit;
use crate::forkserver::{self, Function};
use crate::process::{Builder, Process};
use crate::reaper::{Reaper, Token, Watcher};
use crate::sys;
use crate::sys::channel::Channel;
use crate::sys::event::Interest;
use crate::sys::image::Entry;
use crate::sys::ring::{Garbage, Nudge, Reader, Shared, Wake, Writer};
use crate::task::error::TaskError;
use crate::task::outcome::Encoded;
use crate::task::spin::Spin;

/// So many messages of the channel are read in a row, whatever a worker sends.
const MOST_AT_ONCE: usize = 64;

pub(super) struct Link {
    id: u64,
    process: Process,
    /// Before the board, and the channel.
    lanes: [Mutex<Outgoing>; 2],
    channel: Channel,
    board: Board,
    /// By who reads the answers, for as long as he waits.
    answers: Mutex<Reader>,
    nudge: Nudge,
    /// Those that came by the channel, for answers to come. Leaf lock.
    files: Mutex<VecDeque<OwnedFd>>,
    /// Leaf lock.
    token: Mutex<Option<Token>>,
    next_id: AtomicU64,
    calls: AtomicU64,
    /// The process has ended, or is to.
    is_ending: AtomicBool,
    /// Of this program: a fork of it may not touch the rings.
    incarnation: u32,
    /// What begins when this has ended. Leaf lock.
    successor: Mutex<Option<Arc<Link>>>,
}

/// What the target of a worker's process is; each run gets a channel of its own.
pub(super) fn target() -> Function {
    Function::new("worker", inside::live, Ok(Vec::new()))
}

impl Link {
    /// Starts a worker's process.
    pub(super) fn start(options: &Builder) -> Started<Arc<Link>> {
        let failed = |error| forkserver::not_started("worker", error);
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let (shared, rings) = Shared::new().map_err(failed)?;
        channel.send(&Signal::Look.bytes(), &[rings.as_raw_fd()]).map_err(failed)?;
        let process = options.clone().target(target().with_channel(theirs).into_target()).build()?;
        process.start(true)?;
        let shared = Arc::new(shared);
        let answers = Reader::new(&shared, ANSWERS);
        let lanes = LANES.map(|lane| Mutex::new(Outgoing::new(lane, Writer::new(&shared, lane as usize))));
        let link = Arc::new(Link {
            id: Reaper::get().new_id(),
            lanes,
            channel,
            board: Board::default(),
            nudge: answers.nudge(),
            answers: Mutex::new(answers),
            files: Mutex::default(),
            token: Mutex::default(),
            next_id: AtomicU64::new(1),
            calls: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
            incarnation: sys::process::incarnation(),
            successor: Mutex::default(),
            process,
        });
        let watcher = Arc::clone(&link) as Arc<dyn Watcher>;
        let token = Reaper::get().watch(link.channel.as_fd(), Interest::READ, watcher, 0).map_err(failed)?;
        *lock(&link.token) = Some(token);
        link.leave(lock(&link.answers));
        let ended = Arc::clone(&link);
        AtEnd::watch(link.process.exited(), move |end| ended.ended(end));
        Ok(link)
    }

    /// Its calls begin when that one has ended.
    pub(super) fn follow(self: &Arc<Self>, before: &Link) {
        for lane in &self.lanes {
            lock(lane).is_held = true;
        }
        *lock(&before.successor) = Some(Arc::clone(self));
        if before.is_over() {
            before.let_successor_go();
        }
    }

    fn let_successor_go(&self) {
        let successor = lock(&self.successor).take();
        if let Some(successor) = successor {
            for lane in &successor.lanes {
                lock(lane).is_held = false;
                successor.pump(lane);
            }
        }
    }

    fn pump(&self, lane: &Mutex<Outgoing>) {
        let pumped = lock(lane).pump(&self.channel);
        if pumped.is_err() {
            self.garbage();
        }
    }

    fn send(&self, lane: Lane, request: &Request) {
        let letter = Letter { message: wire::encode(request), file: None };
        let lane = &self.lanes[lane as usize];
        lock(lane).waiting.push_back(letter);
        self.pump(lane);
    }

    /// It said what nobody who is right in his mind says.
    fn garbage(&self) {
        let why = "the worker wrote what cannot be read, and was stopped".to_owned();
        self.board.end(&TaskError::Codec(why));
        // It may have ended.
        let _ = self.process.kill(false);
    }

    /// Reads all that is there.
    fn read(&self, answers: &mut Reader) {
        loop {
            match answers.read() {
                Ok(None) => return,
                Ok(Some((message, wake))) => {
                    self.wake(wake);
                    if self.answered(message).is_none() {
                        return self.garbage();
                    }
                }
                Err(Garbage) => return self.garbage(),
            }
        }
    }

    fn answered(&self, message: Vec<u8>) -> Option<()> {
        let (Answer { id, outcome }, rest) = wire::decode(&message)?;
        let told = outcome.told(message, rest, || self.take_file());
        let was_asked = self.board.finish(id, told);
        for lane in &self.lanes {
            let mut outgoing = lock(lane);
            outgoing.files.retain(|of| *of != id);
            let waits = !outgoing.waiting.is_empty();
            drop(outgoing);
            if waits {
                self.pump(lane);
            }
        }
        was_asked.then_some(())
    }

    /// It was sent before the answer that tells of it.
    fn take_file(&self) -> Option<OwnedFd> {
        self.receive();
        lock(&self.files).pop_front()
    }

    /// What came by the channel. Files that nobody tells of are too many.
    fn receive(&self) {
        let mut files = lock(&self.files);
        for _ in 0..MOST_AT_ONCE {
            let Ok(Some(mut message)) = self.channel.receive_at_once(MOST_SIGNAL) else { return };
            if let Some(file) = message.descriptors.pop()
                && files.len() < MOST_AT_ONCE
            {
                files.push_back(file);
            }
        }
    }

    fn wake(&self, wake: Wake) {
        if wake == Wake::Tell {
            // Where there is no room, there is enough to be heard.
            let _ = self.channel.send_at_once(&Signal::Look.bytes(), &[]);
        }
    }

    /// Nobody reads the answers any more: from now on the worker tells the reaper.
    fn leave(&self, mut answers: MutexGuard<'_, Reader>) {
        while !answers.go_away() {
            answers.come_back();
            self.read(&mut answers);
            if self.board.is_over() {
                return;
            }
        }
    }

    fn ended(self: Arc<Self>, end: Started<Exit>) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.nudge.nudge();
        if let Some(token) = lock(&self.token).take() {
            Reaper::get().unwatch(token, self.channel.as_fd());
        }
        // What it had answered, it has.
        self.read(&mut lock(&self.answers));
        let error = match end {
            Ok(exit) => TaskError::Crashed(exit),
            Err(error) => TaskError::Start(error),
        };
        self.board.end(&error);
        self.let_successor_go();
    }

    fn is_foreign(&self) -> bool {
        self.incarnation != sys::process::incarnation()
    }
}

impl Home for Link {
    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> String {
        self.process.name().to_owned()
    }

    fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    fn call(&self, lane: Lane, entry: Entry, argument: Encoded, pending: Pending) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let place = match forkserver::place_of(entry) {
            Ok(place) if !self.is_foreign() => place,
            Ok(_) => {
                let error = std::io::Error::other("the worker belongs to the process of which this one is a fork");
                pending.slot.fill(Err(TaskError::Start(forkserver::not_started("worker", error))));
                return 0;
            }
            Err(error) => {
                pending.slot.fill(Err(TaskError::Start(forkserver::not_started("worker", error))));
                return 0;
            }
        };
        let outgoing = &self.lanes[lane as usize];
        let mut lane = lock(outgoing);
        // Under the lock of the lane: in each they rise.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let letter = match argument {
            Encoded::Here(mut argument) => {
                let mut message = wire::encode(&Request::Call { id, entry: place, in_file: false });
                message.append(&mut argument);
                Letter { message, file: None }
            }
            Encoded::File(file) => Letter {
                message: wire::encode(&Request::Call { id, entry: place, in_file: true }),
                file: Some((id, file)),
            },
        };
        if self.board.add(id, pending) {
            lane.waiting.push_back(letter);
            let pumped = lane.pump(&self.channel);
            drop(lane);
            if pumped.is_err() {
                self.garbage();
            }
        }
        id
    }

    fn cancel(&self, id: u64) {
        if !self.is_foreign() && self.board.give_up(id) {
            self.nudge.nudge();
            self.send(Lane::Aside, &Request::Cancel { id });
        }
    }

    fn drop_object(&self, id: u64) {
        if !self.is_foreign() && !self.board.is_over() {
            self.send(Lane::Ordered, &Request::Drop { object: id });
        }
    }

    fn wait(&self, slot: &Slot, until: Option<Instant>) {
        let is_late = || until.is_some_and(|until| Instant::now() >= until);
        while !slot.is_done() && !is_late() {
            let Ok(mut answers) = self.answers.try_lock() else {
                slot.wait(until);
                continue;
            };
            answers.come_back();
            let is_due = || slot.is_done() || self.is_ending.load(Ordering::SeqCst);
            let mut spin = Spin::new();
            loop {
                self.read(&mut answers);
                if is_due() || is_late() {
                    break;
                }
                if !spin.goes_on() {
                    answers.wait_for_message(until, is_due);
                }
            }
            self.leave(answers);
            if self.is_ending.load(Ordering::SeqCst) {
                // The reaper, who knows how it ended, fills it.
                slot.wait(until);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.board.is_over()
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn close(&self) {
        if !self.is_foreign() {
            self.send(Lane::Ordered, &Request::Close);
        }
    }

    fn stop(&self) {
        if !self.is_foreign() {
            self.board.end(&TaskError::Cancelled);
            self.nudge.nudge();
            // It may have ended.
            let _ = self.process.terminate(false);
        }
    }

    fn join(&self) {
        let _ = self.process.join();
    }
}

impl Watcher for Link {
    fn ready(self: Arc<Self>, _key: u64) {
        self.receive();
        if self.channel.wait_for_hang_up(std::time::Duration::ZERO).is_ok_and(|gone| gone) {
            // How it ended, its process tells.
            if let Some(token) = lock(&self.token).take() {
                Reaper::get().unwatch(token, self.channel.as_fd());
            }
        }
        self.lanes.iter().for_each(|lane| self.pump(lane));
        if let Ok(mut answers) = self.answers.try_lock() {
            answers.come_back();
            self.read(&mut answers);
            self.leave(answers);
        }
    }

    fn due(self: Arc<Self>, _now: Instant) {}

    fn look(self: Arc<Self>) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
