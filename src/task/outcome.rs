//! What a task says at its end: one message, to which a large value comes as a file in memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::TaskError;
use super::panicking::{Told, caught};
use crate::callbacks::Callbacks;
use crate::sys::blob::{Growing, Mapped};
use crate::sys::channel::{Channel, MOST_BYTES, Message};

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The bytes that come behind this.
    Value,
    /// What is in the file.
    ValueInFile,
    Panicked(Told),
    Codec {
        why: String,
    },
    /// It was cancelled before it began.
    Skipped,
    /// No end: its argument was taken from its file.
    Taken,
}

/// Something encoded.
#[derive(Debug)]
pub(super) enum Encoded {
    /// Behind what else the message has.
    Here(Vec<u8>),
    /// Alone: it is large.
    File(OwnedFd),
}

/// Writes `value` behind `head`, or into a file.
///
/// # Errors
/// In words.
pub(super) fn encode(head: Vec<u8>, value: &impl Serialize) -> Result<Encoded, String> {
    let mut trouble = None;
    let start = head.len();
    let spilling = Spilling { here: head, start, file: None, trouble: &mut trouble };
    let encoded = postcard::serialize_with_flavor(value, spilling);
    encoded.map_err(|error| trouble.map_or_else(|| error.to_string(), |trouble| trouble.to_string()))
}

/// Bytes in memory until they are many.
struct Spilling<'a> {
    here: Vec<u8>,
    /// Where the head ends.
    start: usize,
    file: Option<Growing>,
    trouble: &'a mut Option<io::Error>,
}

impl Spilling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            return file.extend(bytes);
        }
        if self.here.len() + bytes.len() <= MOST_BYTES {
            self.here.extend_from_slice(bytes);
            return Ok(());
        }
        let before = &self.here[self.start..];
        let mut file = Growing::new()?;
        file.extend(before)?;
        file.extend(bytes)?;
        self.file = Some(file);
        Ok(())
    }

    fn noted<T>(&mut self, result: io::Result<T>) -> postcard::Result<T> {
        result.map_err(|error| {
            *self.trouble = Some(error);
            postcard::Error::SerializeBufferFull
        })
    }
}

impl Flavor for Spilling<'_> {
    type Output = Encoded;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        let written = self.write(bytes);
        self.noted(written)
    }

    fn finalize(mut self) -> postcard::Result<Encoded> {
        match self.file.take() {
            None => Ok(Encoded::Here(self.here)),
            Some(file) => {
                let finished = file.finish().map(Encoded::File);
                self.noted(finished)
            }
        }
    }
}

/// An encoded value, or an argument, that came here.
#[derive(Debug)]
pub(super) enum Value {
    Bytes { all: Vec<u8>, from: usize },
    File(Mapped),
}

impl Value {
    /// What comes behind the head of a message, of which `rest` bytes are left.
    pub(super) fn behind(all: Vec<u8>, rest: usize) -> Value {
        let from = all.len().saturating_sub(rest);
        Value::Bytes { all, from }
    }

    /// An argument's.
    pub(super) fn in_file(file: io::Result<OwnedFd>) -> Result<Value, Outcome> {
        file.and_then(|file| Value::read(&file))
            .map_err(|error| Outcome::Codec { why: format!("its argument was lost: {error}") })
    }

    fn read(file: &OwnedFd) -> io::Result<Value> {
        /// A mapping is one of few, for as long as nobody takes the value (`vm.max_map_count`: 65,530 where nobody changed that).
        const WORTH_A_MAPPING: usize = 256 * 1024;
        let mapped = Mapped::new(file.as_fd())?;
        Ok(if mapped.len() < WORTH_A_MAPPING {
            Value::behind(mapped.to_vec(), mapped.len())
        } else {
            Value::File(mapped)
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Value::Bytes { all, from } => all.get(*from..).unwrap_or_default(),
            Value::File(mapped) => mapped,
        }
    }

    pub(super) fn decode<R: DeserializeOwned>(&self) -> Result<R, TaskError> {
        postcard::from_bytes(self.bytes())
            .map_err(|error| TaskError::Codec(format!("its value cannot be decoded: {error}")))
    }
}

/// Calls a function, and says how that came out. True: well.
pub(super) fn report<R: Serialize>(to: &Channel, call: impl FnOnce() -> Result<R, String>) -> bool {
    let sent = match answer(head, call) {
        Ok(Encoded::Here(message)) => to.send(&message, &[]),
        Ok(Encoded::File(file)) => to.send_patiently(&head(&Outcome::ValueInFile), &[file.as_raw_fd()]),
        Err(outcome) => {
            // Nobody may want to know any more.
            _ = to.send(&head(&outcome), &[]);
            return false;
        }
    };
    sent.is_ok()
}

fn head(outcome: &Outcome) -> Vec<u8> {
    postcard::to_stdvec(outcome).unwrap_or_default()
}

/// What a function gives, encoded behind the `head` of a message that says so.
pub(super) fn answer<R: Serialize>(
    head: impl FnOnce(&Outcome) -> Vec<u8>,
    call: impl FnOnce() -> Result<R, String>,
) -> Result<Encoded, Outcome> {
    let encoded = caught(|| {
        let value = call()?;
        encode(head(&Outcome::Value), &value).map_err(|why| format!("its value cannot be encoded: {why}"))
    });
    encoded.map_err(Outcome::Panicked)?.map_err(|why| Outcome::Codec { why })
}

/// What was said, if anything was.
pub(super) fn heard(channel: &Channel) -> Option<Result<Value, TaskError>> {
    let message = match channel.receive_at_once() {
        Ok(message) => message?,
        Err(error) => return Some(Err(unread(&error))),
    };
    Some(read(message).unwrap_or_else(|error| Err(unread(&error))))
}

fn unread(error: &io::Error) -> TaskError {
    TaskError::Codec(format!("what its process said cannot be read: {error}"))
}

fn read(message: Message) -> io::Result<Result<Value, TaskError>> {
    let Message { bytes, mut descriptors, .. } = message;
    let decoded = postcard::take_from_bytes::<Outcome>(&bytes).map(|(outcome, rest)| (outcome, rest.len()));
    let told = decoded.map(|(outcome, rest)| outcome.told(bytes, rest, || in_file(descriptors.pop())));
    if !descriptors.is_empty() {
        // None of ours, and to close them may block.
        Callbacks::get().run_own(move || drop(descriptors));
    }
    told.map_err(io::Error::other)
}

/// That of a file that somebody else sent.
pub(super) fn in_file(file: Option<OwnedFd>) -> io::Result<Value> {
    // There was no place for it here.
    let file = file.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
    let value = Value::read(&file);
    if value.is_err() {
        // Whatever that is: to close it may block.
        Callbacks::get().run_own(move || drop(file));
    }
    value
}

impl Outcome {
    /// What whoever waits for it gets. `all` is the message, at the end of which are `rest` bytes of the value.
    pub(super) fn told(
        self,
        all: Vec<u8>,
        rest: usize,
        file: impl FnOnce() -> io::Result<Value>,
    ) -> Result<Value, TaskError> {
        match self {
            Outcome::Value => Ok(Value::behind(all, rest)),
            Outcome::ValueInFile => file().map_err(|error| unread(&error)),
            Outcome::Panicked(told) => Err(told.into_error()),
            Outcome::Codec { why } => Err(TaskError::Codec(why)),
            Outcome::Skipped | Outcome::Taken => Err(TaskError::Cancelled),
        }
    }
}
