//! What a task says at its end: one message, to which a large value comes as a file in memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::TaskError;
use super::panicking::{Told, caught};
use crate::callbacks::Callbacks;
use crate::shared_bytes::{self, MOST_BLOBS};
use crate::sys::blob::{self, Blob, FileOrCopy, Growing, Mapped};
use crate::sys::channel::{Channel, MOST_BYTES, Message};
use crate::sys::image::Argument;

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
    /// Alone: it is large, or something goes with it.
    Parcel(Parcel),
}

/// A file with a value in it, and what goes with it.
#[derive(Debug)]
pub(super) struct Parcel {
    file: OwnedFd,
    blobs: Vec<Arc<Blob>>,
}

/// More descriptors does none have.
pub(super) const MOST_IN_PARCEL: usize = 1 + MOST_BLOBS;

impl Parcel {
    /// How many descriptors it has.
    pub(super) fn len(&self) -> usize {
        1 + self.blobs.len()
    }

    /// Sends its descriptors, in their order. Of shared bytes whose file was closed here it sends a new one.
    pub(super) fn send(&self, send: impl FnOnce(&[RawFd]) -> io::Result<()>) -> io::Result<()> {
        let blobs = self.blobs.iter().map(|blob| blob.file_or_copy());
        let blobs = blobs.collect::<io::Result<Vec<_>>>()?;
        let all = [self.file.as_fd()].into_iter().chain(blobs.iter().map(FileOrCopy::as_fd));
        send(&all.map(|fd| fd.as_raw_fd()).collect::<Vec<_>>())
    }
}

/// Writes `value` behind `head`, or into a file; into one, too, where it has shared bytes.
///
/// # Errors
/// In words.
pub(super) fn encode(head: Vec<u8>, value: &impl Serialize) -> Result<Encoded, String> {
    let mut trouble = None;
    let start = head.len();
    let spilling = Spilling { here: head, start, file: None, trouble: &mut trouble };
    let (encoded, blobs) = shared_bytes::packing(spilling, value);
    let encoded = encoded.map_err(|error| trouble.map_or_else(|| error.to_string(), |trouble| trouble.to_string()))?;
    Ok(match encoded {
        Spilled::Here(bytes) if blobs.is_empty() => Encoded::Here(bytes),
        Spilled::Here(bytes) => {
            let file = blob::of(&[bytes.get(start..).unwrap_or_default()]).map_err(|error| error.to_string())?;
            Encoded::Parcel(Parcel { file, blobs })
        }
        Spilled::File(file) => Encoded::Parcel(Parcel { file, blobs }),
    })
}

enum Spilled {
    Here(Vec<u8>),
    File(OwnedFd),
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
    type Output = Spilled;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        let written = self.write(bytes);
        self.noted(written)
    }

    fn finalize(mut self) -> postcard::Result<Spilled> {
        match self.file.take() {
            None => Ok(Spilled::Here(self.here)),
            Some(file) => {
                let finished = file.finish().map(Spilled::File);
                self.noted(finished)
            }
        }
    }
}

/// An encoded value, or an argument, that came here.
#[derive(Debug)]
pub(super) struct Value {
    bytes: Bytes,
    blobs: Vec<Arc<Blob>>,
}

#[derive(Debug)]
enum Bytes {
    Here { all: Vec<u8>, from: usize },
    File(Mapped),
}

impl Bytes {
    fn read(file: &OwnedFd) -> io::Result<Bytes> {
        /// A mapping is one of few, for as long as nobody takes the value (`vm.max_map_count`: 65,530 where nobody changed that).
        const WORTH_A_MAPPING: usize = 256 * 1024;
        let mapped = Mapped::new(file.as_fd())?;
        Ok(if mapped.len() < WORTH_A_MAPPING {
            Bytes::Here { all: mapped.to_vec(), from: 0 }
        } else {
            Bytes::File(mapped)
        })
    }
}

impl Value {
    /// What comes behind the head of a message, of which `rest` bytes are left.
    pub(super) fn behind(all: Vec<u8>, rest: usize) -> Value {
        let from = all.len().saturating_sub(rest);
        Value { bytes: Bytes::Here { all, from }, blobs: Vec::new() }
    }

    /// What was not sent, and stays in this process.
    pub(super) fn of(parcel: Parcel) -> io::Result<Value> {
        let bytes = Bytes::read(&parcel.file)?;
        Ok(Value { bytes, blobs: parcel.blobs })
    }

    /// What came; where there was no place for all of it, nothing.
    ///
    /// # Errors
    /// Those of [`Mapped::new`].
    pub(super) fn unpack(files: Option<Vec<OwnedFd>>) -> io::Result<Value> {
        let mut files = files.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?.into_iter();
        let file = files.next().ok_or(io::ErrorKind::InvalidData)?;
        let mut blobs = Vec::new();
        let read = Bytes::read(&file).map_err(|error| (error, file)).and_then(|bytes| {
            for file in &mut files {
                blobs.push(Blob::open(file)?);
            }
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Ok(Value { bytes, blobs }),
            Err((error, file)) => {
                // Whatever that is: to close it may block.
                let rest: Vec<OwnedFd> = files.chain([file]).collect();
                Callbacks::get().run_own(move || drop(rest));
                Err(error)
            }
        }
    }

    /// What goes with it is not kept here any longer.
    pub(super) fn argument(&mut self) -> Argument<'_> {
        let bytes = match &self.bytes {
            Bytes::Here { all, from } => all.get(*from..).unwrap_or_default(),
            Bytes::File(mapped) => mapped,
        };
        Argument { bytes, blobs: std::mem::take(&mut self.blobs) }
    }

    pub(super) fn decode<R: DeserializeOwned>(mut self) -> Result<R, TaskError> {
        let Argument { bytes, blobs } = self.argument();
        shared_bytes::unpacking(bytes, blobs)
            .map_err(|error| TaskError::Codec(format!("its value cannot be decoded: {error}")))
    }
}

/// Calls a function, and says how that came out. True: well.
pub(super) fn report<R: Serialize>(to: Channel, call: impl FnOnce() -> Result<R, String>) -> bool {
    let identity = to.identity().ok();
    let answer = answer(head, call);
    // A function may close what it does not know, and open something of its own in its place, which gets nothing of ours.
    if to.identity().ok() != identity {
        std::mem::forget(to);
        return false;
    }
    let sent = match answer {
        Ok(Encoded::Here(message)) => to.send(&message, &[]),
        Ok(Encoded::Parcel(parcel)) => parcel.send(|files| to.send_patiently(&head(&Outcome::ValueInFile), files)),
        Err(outcome) => {
            // Nobody may want to know any more.
            _ = to.send(&head(&outcome), &[]);
            return false;
        }
    };
    sent.inspect_err(|error| _ = to.send(&head(&lost_value(error)), &[])).is_ok()
}

/// A call cannot be made, for want of what it is called with.
pub(super) fn lost_argument(error: &io::Error) -> Outcome {
    Outcome::Codec { why: format!("its argument was lost: {error}") }
}

pub(super) fn lost_value(error: &io::Error) -> Outcome {
    Outcome::Codec { why: format!("its value was lost: {error}") }
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
    let Message { bytes, descriptors, incomplete } = message;
    let mut files = whole(descriptors, incomplete);
    let decoded = postcard::take_from_bytes::<Outcome>(&bytes).map(|(outcome, rest)| (outcome, rest.len()));
    let told = decoded.map(|(outcome, rest)| outcome.told(bytes, rest, || Value::unpack(files.take())));
    if let Some(files) = files.filter(|files| !files.is_empty()) {
        // None of ours, and to close them may block.
        Callbacks::get().run_own(move || drop(files));
    }
    told.map_err(io::Error::other)
}

/// What came with a message; `None`: some of it found no place here.
pub(super) fn whole(descriptors: Vec<OwnedFd>, incomplete: bool) -> Option<Vec<OwnedFd>> {
    if !incomplete {
        return Some(descriptors);
    }
    if !descriptors.is_empty() {
        Callbacks::get().run_own(move || drop(descriptors));
    }
    None
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
