//! A worker as a process: it reads what it is to do from its rings, on the main thread; what is to run aside and what comes with
//! descriptors is read by a thread of its own, which also finds out when nobody is there any more.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::WAKING;
use super::host::{self, Begun, Host};
use super::wire::{self, ANSWERS, LANES, Lane, Request, Signal};
use crate::sys;
use crate::sys::channel::{Channel, Message};
use crate::sys::image::{Argument, Image};
use crate::sys::locked;
use crate::sys::ring::{Garbage, Reader, Shared, Wake, Writer};
use crate::sys::spin::Spin;
use crate::task::outcome::{Encoded, Outcome, Value, lost_argument, lost_value, whole};

/// The main thread of a worker.
pub(super) fn live(_: Argument<'_>, channel: &mut dyn Any) -> i32 {
    let channel = channel.downcast_mut::<Option<OwnedFd>>().and_then(Option::take);
    let worker = channel.and_then(|channel| Worker::new(channel.into()).ok());
    worker.and_then(|(worker, ordered, aside)| worker.live(ordered, aside)).unwrap_or(1)
}

struct Worker {
    /// By way of [`Worker::channel`] alone.
    channel: Channel,
    identity: (u64, u64),
    host: Arc<Host>,
    answers: Mutex<Writer>,
    files: [Files; 2],
}

/// Those that have come for a lane, those of a call together; those for which there was no place are `None`.
#[derive(Default)]
struct Files {
    come: Mutex<VecDeque<Option<Vec<OwnedFd>>>>,
    more: Condvar,
}

impl Worker {
    fn new(channel: Channel) -> io::Result<(Arc<Worker>, Reader, Reader)> {
        let rings = channel.receive()?.and_then(|mut message| message.descriptors.pop());
        let shared = Arc::new(Shared::open(rings.ok_or(io::ErrorKind::InvalidData)?.as_fd())?);
        let [ordered, aside] = LANES.map(|lane| Reader::new(&shared, lane as usize));
        let answers = Mutex::new(Writer::new(&shared, ANSWERS));
        let (identity, host) = (channel.identity()?, Arc::default());
        Ok((Arc::new(Worker { channel, identity, host, answers, files: Default::default() }), ordered, aside))
    }

    fn live(self: Arc<Self>, mut ordered: Reader, aside: Reader) -> Option<i32> {
        let worker = Arc::clone(&self);
        sys::process::thread("pkit-worker").spawn(move || worker.listen(aside)).ok()?;
        loop {
            let message = self.next(&mut ordered).ok()?;
            match wire::decode(&message)? {
                (Request::Call { id, entry, in_file }, rest) => {
                    let argument = self.argument(id, Lane::Ordered, message, rest, in_file);
                    self.run(id, self.host.begin(id, Lane::Ordered), entry, argument);
                }
                (Request::Drop { object }, _) => self.host.drop_object(object),
                (Request::Skip { id }, _) => self.say(id, Err(Outcome::Skipped)),
                (Request::Cancel { id, lane }, _) => self.host.cancel(id, lane),
                (Request::Close { asides }, _) => {
                    self.host.wait_for_asides(asides);
                    self.host.drop_all();
                    return Some(0);
                }
            }
        }
    }

    /// A function may close what it does not know, and open something of its own in its place. Then nobody would be told of anything any more:
    /// so all who wait are told that the worker has ended.
    fn channel(&self) -> &Channel {
        if self.channel.identity().ok() != Some(self.identity) {
            sys::process::leave(1);
        }
        &self.channel
    }

    fn tell(&self, wake: Wake) {
        // Only then does it need the channel.
        if wake == Wake::Tell {
            Signal::tell(self.channel(), wake);
        }
    }

    fn next(&self, ordered: &mut Reader) -> Result<Vec<u8>, Garbage> {
        let mut spin = Spin::new(WAKING);
        loop {
            if let Some((message, wake)) = ordered.read()? {
                self.tell(wake);
                return Ok(message);
            }
            if !spin.goes_on() {
                ordered.wait_for_message();
            }
        }
    }

    /// The thread beside the main one.
    fn listen(self: Arc<Self>, mut aside: Reader) {
        // So that the first message finds us: nobody has been asked to tell yet.
        let mut is_any = !aside.go_away();
        loop {
            while is_any {
                if self.read_aside(&mut aside).is_none() {
                    sys::process::leave(1);
                }
                is_any = !aside.go_away();
            }
            is_any = self.receive() == Signal::Look;
        }
    }

    /// The next message of the channel; a file in it is put where it is looked for.
    fn receive(&self) -> Signal {
        let message = loop {
            // That is done with the socket that it was begun with, whoever has the number by then.
            let came = self.channel().until_any();
            let channel = self.channel();
            match came.and_then(|()| channel.receive_at_once()) {
                Ok(Some(message)) => break message,
                Ok(None) if channel.is_finished().is_ok_and(|is_finished| !is_finished) => {}
                Ok(None) => sys::process::leave(0),
                Err(_) => sys::process::leave(1),
            }
        };
        let Message { bytes, descriptors, incomplete } = message;
        let (signal, files) = (Signal::read(&bytes), whole(descriptors, incomplete));
        match signal {
            Some(Signal::File) => self.files[Lane::Ordered as usize].put(files),
            Some(Signal::FileAside) => self.files[Lane::Aside as usize].put(files),
            Some(Signal::Look) | None => {}
        }
        signal.unwrap_or(Signal::Look)
    }

    fn read_aside(self: &Arc<Self>, aside: &mut Reader) -> Option<()> {
        while let Some((message, wake)) = aside.read().ok()? {
            self.tell(wake);
            match wire::decode(&message)? {
                (Request::Call { id, entry, in_file }, rest) => {
                    while in_file && self.files[Lane::Aside as usize].is_empty() {
                        // It was sent before this, and this is the thread that receives it. (Every ring is looked into again.)
                        self.receive();
                    }
                    let argument = self.argument(id, Lane::Aside, message, rest, in_file);
                    self.run_aside(id, entry, argument);
                }
                (Request::Skip { id }, _) => {
                    drop(self.host.aside());
                    self.say(id, Err(Outcome::Skipped));
                }
                (Request::Cancel { id, lane }, _) => self.host.cancel(id, lane),
                (Request::Drop { object }, _) => self.host.drop_object(object),
                (Request::Close { .. }, _) => {}
            }
        }
        Some(())
    }

    fn run_aside(self: &Arc<Self>, id: u64, entry: u64, argument: Result<Value, Outcome>) {
        let (worker, guard) = (Arc::clone(self), self.host.aside());
        // Here: the next message may cancel it.
        let begun = self.host.begin(id, Lane::Aside);
        let thread = sys::process::thread("pkit-task").spawn(move || {
            worker.run(id, begun, entry, argument);
            drop(guard);
        });
        if let Err(error) = thread {
            self.say(id, Err(Outcome::Codec { why: format!("there is no thread for it: {error}") }));
        }
    }

    fn argument(&self, id: u64, lane: Lane, message: Vec<u8>, rest: usize, in_file: bool) -> Result<Value, Outcome> {
        if !in_file {
            return Ok(Value::behind(message, rest));
        }
        let files = self.files[lane as usize].take();
        // Another one may be sent.
        self.say(id, Err(Outcome::Taken));
        Value::unpack(files).map_err(|error| lost_argument(&error))
    }

    fn run(&self, id: u64, begun: Option<Begun>, entry: u64, argument: Result<Value, Outcome>) {
        let mut argument = match argument {
            Ok(argument) => argument,
            Err(outcome) => return self.say(id, Err(outcome)),
        };
        let enter = |call: &mut dyn Any| Image::get().call(entry as usize, argument.argument(), call);
        self.say(id, self.host.run(begun, enter));
        // Nobody waits while a large one is given back.
        drop(argument);
    }

    fn say(&self, id: u64, answer: Result<Encoded, Outcome>) {
        let (message, parcel) = match answer {
            Ok(Encoded::Here(message)) => (message, None),
            Ok(Encoded::Parcel(parcel)) => (host::head(id, &Outcome::ValueInFile), Some(parcel)),
            Err(outcome) => (host::head(id, &outcome), None),
        };
        // Files and answers in files come in the same order.
        let mut answers = locked(&self.answers);
        let sent =
            parcel.map(|parcel| parcel.send(|files| self.channel().send_patiently(&Signal::File.bytes(), files)));
        let message = match sent {
            // Without its file it would be given that of the next.
            Some(Err(error)) => host::head(id, &lost_value(&error)),
            None | Some(Ok(())) => message,
        };
        loop {
            match answers.write(&[&message]) {
                Ok(Some(wake)) => return self.tell(wake),
                Ok(None) if answers.wait_for_room(message.len()).is_ok() => {}
                _ => sys::process::leave(1),
            }
        }
    }
}

impl Files {
    fn put(&self, files: Option<Vec<OwnedFd>>) {
        locked(&self.come).push_back(files);
        self.more.notify_all();
    }

    fn is_empty(&self) -> bool {
        locked(&self.come).is_empty()
    }

    /// The next; they were sent before whoever takes them was told of them.
    fn take(&self) -> Option<Vec<OwnedFd>> {
        let mut come = locked(&self.come);
        loop {
            if let Some(files) = come.pop_front() {
                return files;
            }
            come = self.more.wait(come).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
