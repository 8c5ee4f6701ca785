//! What a supervisor keeps of each child besides its plan.

use super::kin::Kin;
use super::strategy::{Event, Place};
use crate::process::Tiding;

pub(super) struct Member {
    pub(super) kin: Kin,
    /// Its next start is by hand, or the first: its policy begins anew.
    pub(super) anew: bool,
    /// How often it became ready.
    pub(super) readies: u64,
    /// How often it ended, or could not be started, unasked.
    pub(super) falls: u64,
}

impl Member {
    pub(super) fn new(kin: Kin) -> Member {
        Member { kin, anew: true, readies: 0, falls: 0 }
    }
}

/// What the plan is told.
pub(super) fn event(tiding: Tiding, place: Place) -> Event {
    match tiding {
        Tiding::Ready => Event::Ready(place),
        Tiding::Held => Event::Held(place),
        Tiding::Rests => Event::Ended(place),
        Tiding::Failed => Event::Failed(place),
    }
}
