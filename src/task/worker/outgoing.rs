//! What goes to a worker by one of its lanes: what there is no room for yet waits here, in order.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use super::wire::{Lane, Signal};
use crate::sys::channel::Channel;
use crate::sys::ring::{Garbage, Wake, Writer};

/// So many large arguments are on their way at once: each takes a descriptor there.
const MOST_FILES: usize = 8;

/// What goes to a lane.
pub(super) struct Outgoing {
    pub(super) lane: Lane,
    pub(super) ring: Writer,
    pub(super) waiting: VecDeque<Letter>,
    /// The numbers of calls whose arguments are in files and which have not been answered.
    pub(super) files: Vec<u64>,
    /// Until somebody else has ended.
    pub(super) is_held: bool,
}

pub(super) struct Letter {
    pub(super) message: Vec<u8>,
    pub(super) file: Option<(u64, OwnedFd)>,
}

impl Outgoing {
    pub(super) fn new(lane: Lane, ring: Writer) -> Outgoing {
        Outgoing { lane, ring, waiting: VecDeque::new(), files: Vec::new(), is_held: false }
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn pump(&mut self, channel: &Channel) -> Result<(), Garbage> {
        while !self.is_held
            && let Some(letter) = self.waiting.front_mut()
        {
            let length = letter.message.len();
            if !self.ring.has_room_for(length)? && self.ring.go_away(length)? {
                return Ok(());
            }
            if let Some((id, file)) = &letter.file {
                let sent = self.files.len() < MOST_FILES
                    && channel.send_at_once(&Signal::file_for(self.lane).bytes(), &[file.as_raw_fd()]).is_ok();
                if !sent {
                    return Ok(());
                }
                self.files.push(*id);
                letter.file = None;
            }
            let Some(wake) = self.ring.write(&[&letter.message])? else { return Ok(()) };
            self.waiting.pop_front();
            if wake == Wake::Tell {
                let _ = channel.send_at_once(&Signal::Look.bytes(), &[]);
            }
        }
        Ok(())
    }
}
