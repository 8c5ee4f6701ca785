//! What a worker sends by its channel: words that wake us, and files, each right before the answer that tells of it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::wire::Signal;
use crate::callbacks::Callbacks;
use crate::sys::channel::Channel;
use crate::sys::locked;
use crate::sys::ring::Garbage;
use crate::task::outcome::{MOST_IN_PARCEL, whole};

/// About so many files are kept, and messages read in a row, whatever a worker sends.
const MOST_AT_ONCE: usize = 64;
/// More than a socket holds, also one that is larger than usual (`wmem_default`, socket(7)): between two files there are fewer.
const MOST_WORDS: usize = 65_536;

/// The files that wait for who reads the answers, those of an answer together.
#[derive(Default)]
pub(super) struct Inbox {
    /// Those for which there was no place are `None`. Before the queue of the callback threads.
    files: Mutex<VecDeque<Option<Vec<OwnedFd>>>>,
    /// How many there ever were.
    came: AtomicU64,
    /// And were taken; by who reads the answers, while he does.
    taken: AtomicU64,
}

/// What is left in the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing, or what comes next.
    Little,
    /// What stays there until files are taken.
    Files,
}

impl Inbox {
    /// What has come, until there are many files.
    pub(super) fn receive(&self, channel: &Channel) -> Result<Left, Garbage> {
        let mut files = locked(&self.files);
        for _ in 0..MOST_AT_ONCE {
            if files.iter().map(|files| files.as_ref().map_or(1, Vec::len)).sum::<usize>() >= MOST_AT_ONCE {
                return Ok(Left::Files);
            }
            if !self.receive_one(&mut files, channel)? {
                break;
            }
        }
        Ok(Left::Little)
    }

    /// The next files. They were sent before the answer that tells of them: they are here, or in the channel.
    pub(super) fn take(&self, channel: &Channel) -> Result<Option<Vec<OwnedFd>>, Garbage> {
        let mut files = locked(&self.files);
        for _ in 0..MOST_WORDS {
            if let Some(file) = files.pop_front() {
                self.taken.fetch_add(1, Ordering::SeqCst);
                return Ok(file);
            }
            if !self.receive_one(&mut files, channel)? {
                break;
            }
        }
        Err(Garbage)
    }

    /// False: nothing has come.
    fn receive_one(&self, files: &mut VecDeque<Option<Vec<OwnedFd>>>, channel: &Channel) -> Result<bool, Garbage> {
        let Ok(Some(message)) = channel.receive_at_once() else { return Ok(false) };
        match (Signal::read(&message.bytes), message.descriptors.len(), message.incomplete) {
            (Some(Signal::Look), 0, false) => {}
            (Some(Signal::File), 1..=MOST_IN_PARCEL, false) | (Some(Signal::File), 0..MOST_IN_PARCEL, true) => {
                files.push_back(whole(message.descriptors, message.incomplete));
                self.came.fetch_add(1, Ordering::SeqCst);
            }
            _ => {
                // To close what is no file of ours may block.
                Callbacks::get().run_own(move || drop(message));
                return Err(Garbage);
            }
        }
        Ok(true)
    }

    /// How many files there ever were.
    pub(super) fn came(&self) -> u64 {
        self.came.load(Ordering::SeqCst)
    }

    /// Whether there are files of which nobody tells: `came` is how many there were before all answers were read. (Of the last one
    /// the answer may be about to come; it was sent after the answer of the one before.)
    pub(super) fn has_untold(&self, came: u64) -> bool {
        came > self.taken.load(Ordering::SeqCst) + 1
    }
}
