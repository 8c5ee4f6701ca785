//! Mask and dispositions.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::signal::{SigHandler, SigSet, Signal as Number, signal};
use pkit::{Builder, Signal};

use super::{both_read, field, own_status};
use crate::support::tests;

fn set(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).unwrap()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

fn status(options: impl Fn(Builder) -> Builder) -> [String; 2] {
    both_read("/proc/self/status", options)
}

fn ignore(number: Number) {
    #[allow(unsafe_code, reason = "there is no safe way to ignore a signal")]
    // SAFETY: no handler runs.
    unsafe { signal(number, SigHandler::SigIgn) }.unwrap();
}

tests! {
    fn the_mask_is_empty_or_as_asked_for() {
        let mut blocked = SigSet::empty();
        blocked.add(Number::SIGUSR2);
        blocked.add(Number::SIGTERM);
        blocked.thread_block().unwrap();
        assert_ne!(set(&own_status(), "SigBlk"), 0);
        assert!(status(|b| b).iter().all(|seen| set(seen, "SigBlk") == 0));
        let asked = [Signal::USR1, Signal::CHLD, Signal::from_raw(64).unwrap()];
        let expected = asked.iter().fold(0, |mask, signal| mask | bit(*signal));
        assert!(status(|b| b.signal_mask(asked)).iter().all(|seen| set(seen, "SigBlk") == expected));
        assert_eq!(set(&own_status(), "SigBlk"), bit(Signal::USR2) | bit(Signal::TERM));
    }

    fn handlers_are_reset_and_what_is_ignored_stays_ignored() {
        ignore(Number::SIGHUP);
        ignore(Number::SIGWINCH);
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(Signal::USR1.as_raw(), Arc::clone(&flag)).unwrap();
        let own = own_status();
        assert_ne!(set(&own, "SigCgt") & bit(Signal::USR1), 0);
        // std ignores SIGPIPE for every Rust program; no child was meant by that.
        assert_ne!(set(&own, "SigIgn") & bit(Signal::PIPE), 0);
        // The C library's own are its business, in a fork.
        let of_library = (32..libc::SIGRTMIN()).fold(0, |mask, signal| mask | 1 << (signal - 1));
        for seen in status(|b| b) {
            assert_eq!(set(&seen, "SigCgt") & !of_library, 0);
            assert_eq!(set(&seen, "SigIgn"), set(&own, "SigIgn") & !bit(Signal::PIPE));
            assert_ne!(set(&seen, "SigIgn") & bit(Signal::HUP), 0);
        }
        assert_eq!(own_status().lines().find(|line| line.starts_with("SigCgt")),
            own.lines().find(|line| line.starts_with("SigCgt")));
    }
}
