//! Calling what may panic, where the thread has others to serve.

use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Makes `call`; `complain` tells of its panic. Never unwinds: a logger that panics as well has had its chance.
pub(crate) fn guarded(call: impl FnOnce(), complain: impl FnOnce()) {
    if panics(call) {
        panics(complain);
    }
}

/// What it panicked with is dropped, and forgotten only if that panics, too.
fn panics(call: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(call)) else { return false };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload))).map_err(forget);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;
    use std::sync::Arc;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("when what was panicked with is dropped");
        }
    }

    #[test]
    fn nothing_unwinds_whatever_panics() {
        let mut told = 0;
        guarded(|| {}, || told += 1);
        assert_eq!(told, 0);
        guarded(|| panic_any(Bomb), || told += 1);
        assert_eq!(told, 1);
        guarded(|| panic!("the call"), || panic_any(Bomb));
    }

    #[test]
    fn what_was_panicked_with_is_dropped() {
        let kept = Arc::new(());
        guarded(|| panic_any(Arc::clone(&kept)), || panic_any(Arc::clone(&kept)));
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
