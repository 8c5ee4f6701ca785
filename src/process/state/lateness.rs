//! Deadlines that we come late to.
//!
//! Who comes late has not been running: stopped by a terminal or a debugger, throttled, or frozen with all it supervises. What the run
//! did and said meanwhile, in time, is not known yet; or it had no time either. So such a deadline is put off once, for long enough to
//! hear of that first.

use std::time::{Duration, Instant};

const LATE: Duration = Duration::from_millis(100);
const MOMENT: Duration = Duration::from_secs(1);

/// When we came late, and until when all that was due by then is put off.
#[derive(Debug, Default)]
pub(super) struct Lateness(Option<(Instant, Instant)>);

impl Lateness {
    /// Whether `due` has passed, and everything that came before it is known.
    pub(super) fn has_passed(&mut self, due: Option<Instant>, now: Instant) -> bool {
        let Some(at) = due.filter(|due| now >= *due) else { return false };
        match self.0 {
            Some((came, until)) if at <= came => now >= until,
            _ if now - at > LATE => {
                self.0 = Some((now, now + MOMENT));
                false
            }
            _ => true,
        }
    }

    /// What came in cannot be known yet.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.0 = Some((now, now + MOMENT));
    }

    /// When to ask that.
    pub(super) fn when(&self, due: Option<Instant>) -> Option<Instant> {
        match self.0 {
            Some((came, until)) => due.map(|due| if due <= came { until } else { due }),
            None => due,
        }
    }
}
