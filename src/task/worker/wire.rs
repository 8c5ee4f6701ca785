//! What is said between a worker and whoever has tasks for it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::channel::Channel;
use crate::sys::ring::Wake;
use crate::task::outcome::Outcome;

/// The rings of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lane {
    /// One after the other, on the main thread.
    Ordered = 0,
    /// At once.
    Aside = 1,
}

pub(super) const LANES: [Lane; 2] = [Lane::Ordered, Lane::Aside];

/// The ring by which the worker answers.
pub(super) const ANSWERS: usize = 2;

/// What a worker is asked, in a ring; behind it comes the argument.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Call {
        id: u64,
        entry: u64,
        /// The argument is the next file for this lane instead.
        in_file: bool,
    },
    /// In place of one that was cancelled while it waited to be sent.
    Skip { id: u64 },
    /// It is not wanted any more, and was sent by this lane.
    Cancel { id: u64, lane: Lane },
    /// Nobody has this object any more.
    Drop { object: u64 },
    /// Nothing comes any more. So many calls were sent aside.
    Close { asides: u64 },
}

/// What it answers; behind it comes the value.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) id: u64,
    pub(super) outcome: Outcome,
}

/// What goes through the channel, one byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Signal {
    /// There is something in a ring, or room; or here are the rings.
    Look = 1,
    /// A file for [`Lane::Ordered`], or an answer in a file.
    File = 2,
    /// A file for [`Lane::Aside`].
    FileAside = 3,
}

impl Signal {
    pub(super) fn bytes(self) -> [u8; 1] {
        [self as u8]
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Signal> {
        [Signal::Look, Signal::File, Signal::FileAside].into_iter().find(|signal| bytes == signal.bytes())
    }

    /// Wakes who has the other end, if he is elsewhere.
    pub(super) fn tell(channel: &Channel, wake: Wake) {
        if wake == Wake::Tell {
            // Where there is no room, there is enough to be heard.
            let _ = channel.send_at_once(&Signal::Look.bytes(), &[]);
        }
    }

    pub(super) fn file_for(lane: Lane) -> Signal {
        match lane {
            Lane::Ordered => Signal::File,
            Lane::Aside => Signal::FileAside,
        }
    }
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Numbers and texts: that cannot fail.
    postcard::to_stdvec(value).unwrap_or_default()
}

/// What is at the beginning, and how many bytes come behind it.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    postcard::take_from_bytes(bytes).ok().map(|(value, rest)| (value, rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::outcome::Value;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Whatever comes, it is told apart, or refused; what is left is behind it.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let rests = [decode::<Answer>(&bytes).map(|(_, rest)| rest), decode::<Request>(&bytes).map(|(_, rest)| rest)];
            prop_assert!(rests.into_iter().flatten().all(|rest| rest < bytes.len()));
            if let Some((Answer { outcome, .. }, rest)) = decode::<Answer>(&bytes) {
                let told = outcome.told(bytes.clone(), rest, || Value::unpack(None));
                prop_assert!(told.is_err() || told.unwrap().argument().bytes.len() == rest);
            }
        }

        #[test]
        fn what_is_cut_off_is_refused(id: u64, entry: u64, cut in 1_usize..20) {
            let whole = encode(&Request::Call { id, entry, in_file: false });
            prop_assert!(decode::<Request>(&whole).is_some());
            prop_assert!(decode::<Request>(&whole[..whole.len().saturating_sub(cut)]).is_none());
        }
    }
}
