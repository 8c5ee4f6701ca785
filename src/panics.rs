//! Calling what may panic, where the thread has others to serve.

use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Makes `call`; `complain` tells of its panic. Never unwinds: a logger that panics as well has had its chance, and what was
/// panicked with is forgotten, as its drop could panic again.
pub(crate) fn guarded(call: impl FnOnce(), complain: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).map_err(forget).is_err() {
        let _ = catch_unwind(AssertUnwindSafe(complain)).map_err(forget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

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
}
