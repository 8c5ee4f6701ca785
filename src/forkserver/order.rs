//! What is said between a program, its fork server and the children.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::blob::{self, Mapped};
use crate::sys::channel::{Channel, MOST_BYTES, MOST_DESCRIPTORS, Message};
use crate::sys::spawn::{Setup, Step};

/// The environment variable that makes a program a fork server: the number of its socket.
pub(super) const VARIABLE: &str = "PKIT_FORK_SERVER";

/// What the server is asked, together with a channel for the answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// To make a child, which hears the rest by the channel.
    Fork,
    /// To run a function itself.
    Preload { entry: u64 },
    /// Whether it is there.
    Ping,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The server, once it is ready; see [`Image::identity`](crate::sys::image::Image::identity).
    Ready { identity: u64 },
    /// There is a child: the server tells, with its pidfd, and it does itself.
    Copied { pid: u32 },
    /// The child is what it was ordered to be, and runs.
    Settled,
    /// There is no child, or it ends.
    Failed { step: Step, errno: i32 },
    /// To a preload, or a ping.
    Done,
    /// Of a preload: why.
    Refused { why: String },
}

/// What a child is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// In place of descriptors it has their places among those that come with the order.
    pub(super) setup: Setup,
    /// The place of the one that it begins in; none where the setup has it go elsewhere, wherever it begins.
    pub(super) directory: Option<usize>,
    /// So many bytes of it come behind this, and then the argument.
    pub(super) environment: usize,
    /// Bit n-1: signal n is ignored.
    pub(super) ignored: u64,
    pub(super) entry: u64,
    /// The place of the function's own channel.
    pub(super) channel: Option<usize>,
    /// So many of the descriptors, the last ones, go with the argument.
    pub(super) blobs: usize,
}

#[derive(Debug, Serialize, Deserialize)]
enum Envelope {
    /// The whole.
    Here(Box<Order>),
    /// It is in the last of the descriptors.
    InFile,
}

/// An order as the child has it.
pub(super) struct Received {
    pub(super) order: Box<Order>,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Of the argument.
    pub(super) blobs: Vec<OwnedFd>,
    pub(super) payload: Payload,
}

impl Received {
    fn new(order: Box<Order>, mut descriptors: Vec<OwnedFd>, payload: Payload) -> Received {
        let blobs = descriptors.split_off(descriptors.len().saturating_sub(order.blobs));
        Received { order, descriptors, blobs, payload }
    }
}

/// What came behind an order.
pub(super) struct Payload {
    bytes: Bytes,
    /// Where the environment begins, and then the argument.
    environment: usize,
    argument: usize,
}

enum Bytes {
    Here(Vec<u8>),
    File(Mapped),
}

impl Payload {
    fn new(bytes: Bytes, behind: usize, order: &Order) -> Payload {
        let mut payload = Payload { bytes, environment: 0, argument: 0 };
        payload.environment = payload.all().len().saturating_sub(behind);
        payload.argument = payload.environment.saturating_add(order.environment);
        payload
    }

    fn all(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Here(bytes) => bytes,
            Bytes::File(mapped) => mapped,
        }
    }

    /// Entries that each end in NUL.
    pub(super) fn environment(&self) -> &[u8] {
        self.all().get(self.environment..self.argument).unwrap_or_default()
    }

    pub(super) fn argument(&self) -> &[u8] {
        self.all().get(self.argument..).unwrap_or_default()
    }
}

impl Order {
    /// Sends it, the environment and the function's argument.
    pub(super) fn send(
        self,
        to: &Channel,
        environment: &[u8],
        argument: &[u8],
        mut descriptors: Vec<RawFd>,
    ) -> io::Result<()> {
        let envelope = Envelope::Here(Box::new(self));
        let mut message = encode(&envelope)?;
        let mut file = None;
        if message.len() + environment.len() + argument.len() > MOST_BYTES {
            let file = file.insert(blob::of(&[&message, environment, argument])?);
            descriptors.push(file.as_raw_fd());
            message = encode(&Envelope::InFile)?;
        } else {
            message.extend_from_slice(environment);
            message.extend_from_slice(argument);
        }
        if descriptors.len() > MOST_DESCRIPTORS {
            let why =
                format!("{} descriptors are more than the {MOST_DESCRIPTORS} that can be passed", descriptors.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        to.send(&message, &descriptors)
    }

    /// `None`: there will be no order.
    pub(super) fn receive(from: &Channel) -> io::Result<Option<Received>> {
        let Some(message) = from.receive()? else { return Ok(None) };
        let Message { bytes, mut descriptors, .. } = message.whole()?;
        let (envelope, rest) = split(&bytes)?;
        if let Envelope::Here(order) = envelope {
            let payload = Payload::new(Bytes::Here(bytes), rest, &order);
            return Ok(Some(Received::new(order, descriptors, payload)));
        }
        let file = descriptors.pop().ok_or_else(|| io::Error::other("an order without its file"))?;
        let mapped = Mapped::writable(file.as_fd())?;
        let (envelope, rest) = split(&mapped)?;
        let Envelope::Here(order) = envelope else { return Err(io::Error::other("an order without an end")) };
        let payload = Payload::new(Bytes::File(mapped), rest, &order);
        Ok(Some(Received::new(order, descriptors, payload)))
    }
}

/// What is at the beginning, and how many bytes come behind it.
fn split<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, usize)> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(io::Error::other)?;
    Ok((value, rest.len()))
}

pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

pub(super) fn send(to: &Channel, value: &impl Serialize, descriptors: &[RawFd]) -> io::Result<()> {
    to.send(&encode(value)?, descriptors)
}

pub(super) fn decode<T: DeserializeOwned>(message: &Message) -> io::Result<T> {
    split(&message.bytes).map(|(value, _)| value)
}
