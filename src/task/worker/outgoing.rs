//! What goes to a worker by one of its lanes: what there is no room for yet waits here, in order.

use std::collections::VecDeque;
use std::io;

use super::wire::{self, Lane, Request, Signal};
use crate::sys::channel::{Channel, is_gone, is_shortage};
use crate::sys::ring::{Garbage, Writer};
use crate::task::outcome::Parcel;

/// So many descriptors of large arguments are on their way at once, or those of one: they take places there until they are taken.
const MOST_FILES: usize = 8;

/// What goes to a lane.
pub(super) struct Outgoing {
    lane: Lane,
    ring: Writer,
    /// The numbers in it rise.
    waiting: VecDeque<Letter>,
    /// The numbers of calls whose arguments are in files that were not taken yet, and how many those are.
    files: Vec<(u64, usize)>,
    /// The number of the last call.
    last: u64,
    /// How many calls there were.
    pub(super) calls: u64,
}

struct Letter {
    /// Of the call that it is, or that it comes after.
    id: u64,
    is_call: bool,
    message: Vec<u8>,
    parcel: Option<Parcel>,
}

/// What has become of the letters that wait.
#[derive(Debug)]
pub(super) enum Pumped {
    /// They are sent, or go on when the worker has done something.
    Well,
    /// A descriptor cannot be sent now, for reasons that are not the worker's.
    AgainLater,
    /// That of this call never can, for that reason: the call is not made, and the others are to be pumped.
    Lost(u64, io::Error),
}

impl Outgoing {
    pub(super) fn new(lane: Lane, ring: Writer) -> Outgoing {
        let (waiting, files) = (VecDeque::new(), Vec::new());
        Outgoing { lane, ring, waiting, files, last: 0, calls: 0 }
    }

    pub(super) fn add_call(&mut self, id: u64, message: Vec<u8>, parcel: Option<Parcel>) {
        (self.last, self.calls) = (id, self.calls + 1);
        self.waiting.push_back(Letter { id, is_call: true, message, parcel });
    }

    pub(super) fn add(&mut self, request: &Request) {
        let message = wire::encode(request);
        self.waiting.push_back(Letter { id: self.last, is_call: false, message, parcel: None });
    }

    /// Before all that waits.
    pub(super) fn add_first(&mut self, request: &Request) {
        self.waiting.push_front(Letter { id: 0, is_call: false, message: wire::encode(request), parcel: None });
    }

    /// Cancels a call that was not sent yet. False: it was.
    pub(super) fn withdraw(&mut self, id: u64) -> bool {
        let at = self.waiting.partition_point(|letter| letter.id < id);
        let Some(letter) = self.waiting.get_mut(at).filter(|letter| letter.is_call && letter.id == id) else {
            return false;
        };
        (letter.message, letter.parcel) = (wire::encode(&Request::Skip { id }), None);
        true
    }

    /// Nobody will take what waits.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// The argument of that call is in a file that was sent, and was not taken yet.
    pub(super) fn has_sent_file(&self, id: u64) -> bool {
        self.files.iter().any(|(of, _)| *of == id)
    }

    /// The argument of that call was taken, or the call has ended. Whether something waits.
    pub(super) fn taken(&mut self, id: u64) -> bool {
        self.files.retain(|(of, _)| *of != id);
        !self.waiting.is_empty()
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn pump(&mut self, channel: &Channel) -> Result<Pumped, Garbage> {
        while let Some(letter) = self.waiting.front_mut() {
            let length = letter.message.len();
            if !self.ring.has_room_for(length)? && self.ring.go_away(length)? {
                return Ok(Pumped::Well);
            }
            if let Some(parcel) = &letter.parcel {
                let on_their_way: usize = self.files.iter().map(|(_, files)| files).sum();
                if on_their_way > 0 && on_their_way + parcel.len() > MOST_FILES {
                    return Ok(Pumped::Well);
                }
                let signal = Signal::file_for(self.lane).bytes();
                let sent = parcel.send(|descriptors| channel.send_at_once(&signal, descriptors));
                match sent {
                    Ok(()) => {}
                    Err(error) if is_gone(&error) => {
                        self.forget();
                        return Ok(Pumped::Well);
                    }
                    Err(error) if is_shortage(&error) => return Ok(Pumped::AgainLater),
                    Err(error) => {
                        (letter.message, letter.parcel) = (wire::encode(&Request::Skip { id: letter.id }), None);
                        return Ok(Pumped::Lost(letter.id, error));
                    }
                }
                self.files.push((letter.id, parcel.len()));
                letter.parcel = None;
            }
            let Some(wake) = self.ring.write(&[&letter.message])? else { return Ok(Pumped::Well) };
            self.waiting.pop_front();
            Signal::tell(channel, wake);
        }
        Ok(Pumped::Well)
    }
}
