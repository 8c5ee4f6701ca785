//! Looking for something that will be there soon, before one sleeps: to be woken takes longer.

use std::time::{Duration, Instant};

/// So often without a system call.
const AT_ONCE: u32 = 40;

pub(crate) struct Spin {
    limit: Duration,
    looks: u32,
    since: Option<Instant>,
}

impl Spin {
    pub(crate) fn new(limit: Duration) -> Spin {
        Spin { limit, looks: 0, since: None }
    }

    /// To be asked after each look; false: it is time to sleep, and the next look is a first one.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.looks += 1;
        if self.looks < AT_ONCE {
            std::hint::spin_loop();
            return true;
        }
        let goes_on = self.since.get_or_insert_with(Instant::now).elapsed() < self.limit;
        if goes_on {
            // Whoever has what we wait for may need this processor for it.
            std::thread::yield_now();
        } else {
            *self = Spin::new(self.limit);
        }
        goes_on
    }
}
