//! Deadlines that we come late to.
//!
//! Who comes late has not been running: stopped by a terminal or a debugger, throttled, or frozen with all it supervises. What the run
//! did and said meanwhile, in time, is not known yet; or it had no time either. So such a deadline is put off once, for long enough to
//! hear of that first.
//!
//! One on what the run says is put off again while what it has said cannot be judged, for 5 s at most.

use std::time::{Duration, Instant};

const LATE: Duration = Duration::from_millis(100);
const MOMENT: Duration = Duration::from_secs(1);

/// So long at most limits are put off because what a run says cannot be judged.
const DEAF: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// When we came late, and until when all that was due by then is put off.
    came: Option<(Instant, Instant)>,
    /// Since when what it has said cannot be judged.
    deaf: Option<Instant>,
}

impl Lateness {
    /// Whether `due` has passed, and everything that came before it is known.
    pub(super) fn has_passed(&mut self, due: Option<Instant>, now: Instant) -> bool {
        let Some(at) = due.filter(|due| now >= *due) else { return false };
        match self.came {
            Some((came, until)) if at <= came => now >= until,
            _ if now - at > LATE => {
                self.came = Some((now, now + MOMENT));
                false
            }
            _ => true,
        }
    }

    /// All that it has said by now is known, or it is not.
    pub(super) fn note_heard(&mut self, is_all: bool, now: Instant) {
        if is_all {
            self.deaf = None;
        } else if now - *self.deaf.get_or_insert(now) < DEAF {
            self.came = Some((now, now + MOMENT));
        }
    }

    /// When to ask that.
    pub(super) fn when(&self, due: Option<Instant>) -> Option<Instant> {
        match self.came {
            Some((came, until)) => due.map(|due| if due <= came { until } else { due }),
            None => due,
        }
    }
}
