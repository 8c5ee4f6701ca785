//! Looking for something that will be there soon, before one sleeps: to be woken takes longer.

use std::time::{Duration, Instant};

/// About as long as it takes to be woken, on a machine whose processors have to wake up first.
const LIMIT: Duration = Duration::from_micros(50);
/// So often without a system call.
const AT_ONCE: u32 = 40;

pub(super) struct Spin {
    looks: u32,
    since: Option<Instant>,
}

impl Spin {
    pub(super) fn new() -> Spin {
        Spin { looks: 0, since: None }
    }

    /// To be asked after each look; false: it is time to sleep, and the next look is a first one.
    pub(super) fn goes_on(&mut self) -> bool {
        self.looks += 1;
        if self.looks < AT_ONCE {
            std::hint::spin_loop();
            return true;
        }
        let goes_on = self.since.get_or_insert_with(Instant::now).elapsed() < LIMIT;
        if goes_on {
            // Whoever has what we wait for may need this processor for it.
            std::thread::yield_now();
        } else {
            *self = Spin::new();
        }
        goes_on
    }
}
