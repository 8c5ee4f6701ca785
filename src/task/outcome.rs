//! What a task says at its end: one message, to which a large value comes as a file in memory.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::TaskError;
use crate::sys::blob::{self, Mapped};
use crate::sys::channel::{Channel, Message};

/// More than this does not go through the channel: a socket takes 212,992 bytes where nobody changed that (`wmem_default`, socket(7)).
const MOST_BYTES: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// The bytes that come behind this.
    Value,
    /// What is in the file.
    ValueInFile,
    Panicked {
        message: String,
        location: Option<String>,
        backtrace: Option<String>,
    },
    Codec {
        why: String,
    },
}

/// An encoded value.
pub(super) enum Value {
    Bytes { all: Vec<u8>, from: usize },
    File(Mapped),
}

impl Value {
    pub(super) fn decode<R: DeserializeOwned>(&self) -> Result<R, TaskError> {
        let bytes = match self {
            Value::Bytes { all, from } => all.get(*from..).unwrap_or_default(),
            Value::File(mapped) => mapped,
        };
        postcard::from_bytes(bytes).map_err(|error| TaskError::Codec(format!("its value cannot be decoded: {error}")))
    }
}

/// Calls a function, and says how that came out. True: well.
pub(super) fn report<R: Serialize>(to: &Channel, call: impl FnOnce() -> Result<R, String>) -> bool {
    match caught(call) {
        Ok(value) => match postcard::to_stdvec(&Outcome::Value).and_then(|head| postcard::to_extend(&value, head)) {
            Ok(message) => send_value(to, &message).is_ok(),
            Err(error) => say(to, &Outcome::Codec { why: format!("its value cannot be encoded: {error}") }),
        },
        Err(outcome) => say(to, &outcome),
    }
}

fn say(to: &Channel, outcome: &Outcome) -> bool {
    // Nobody may want to know any more.
    _ = postcard::to_stdvec(outcome).map_err(io::Error::other).and_then(|message| to.send(&message, &[]));
    false
}

fn send_value(to: &Channel, message: &[u8]) -> io::Result<()> {
    if message.len() <= MOST_BYTES {
        match to.send(message, &[]) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            sent => return sent,
        }
    }
    let head = postcard::to_stdvec(&Outcome::ValueInFile).map_err(io::Error::other)?;
    // The value begins behind the other head, which is one byte long as well.
    let file = blob::of(&[&message[head.len()..]])?;
    to.send(&head, &[file.as_raw_fd()])
}

thread_local! {
    static PANIC: RefCell<Option<Outcome>> = const { RefCell::new(None) };
}

/// What a panic has to tell is kept by the hook, which is the only one to know.
fn caught<R>(call: impl FnOnce() -> Result<R, String>) -> Result<R, Outcome> {
    let before = panic::take_hook();
    panic::set_hook(Box::new(keep));
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    panic::set_hook(before);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(why)) => Err(Outcome::Codec { why }),
        Err(payload) => {
            // Its drop could panic again.
            std::mem::forget(payload);
            let unknown = || Outcome::Panicked { message: "?".into(), location: None, backtrace: None };
            Err(PANIC.take().unwrap_or_else(unknown))
        }
    }
}

fn keep(info: &PanicHookInfo<'_>) {
    /// Far more than anybody reads, and less than a message may have.
    const MOST_TEXT: usize = 16 * 1024;
    let cut =
        |text: &str| text.char_indices().take_while(|(at, _)| *at < MOST_TEXT).map(|(_, letter)| letter).collect();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| cut(&backtrace.to_string()));
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref().map(String::as_str));
    let message = cut(message.unwrap_or("with something that is no text"));
    let location = info.location().map(ToString::to_string);
    PANIC.set(Some(Outcome::Panicked { message, location, backtrace }));
}

/// What was said, if anything was.
pub(super) fn heard(channel: &Channel) -> Option<Result<Value, TaskError>> {
    let message = match channel.receive_at_once(2 * MOST_BYTES) {
        Ok(message) => message?,
        Err(error) => return Some(Err(unread(&error))),
    };
    Some(read(message).unwrap_or_else(|error| Err(unread(&error))))
}

fn unread(error: &io::Error) -> TaskError {
    TaskError::Codec(format!("what its process said cannot be read: {error}"))
}

fn read(mut message: Message) -> io::Result<Result<Value, TaskError>> {
    let (outcome, rest) = postcard::take_from_bytes::<Outcome>(&message.bytes).map_err(io::Error::other)?;
    let from = message.bytes.len() - rest.len();
    Ok(match outcome {
        Outcome::Value => Ok(Value::Bytes { all: message.bytes, from }),
        Outcome::ValueInFile => {
            // There was no place for it here.
            let lost = || io::Error::from_raw_os_error(libc::EMFILE);
            let file: OwnedFd = message.descriptors.pop().ok_or_else(lost)?;
            Ok(Value::File(Mapped::new(file.as_fd())?))
        }
        Outcome::Panicked { message, location, backtrace } => Err(TaskError::Panicked { message, location, backtrace }),
        Outcome::Codec { why } => Err(TaskError::Codec(why)),
    })
}
