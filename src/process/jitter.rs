//! Chance, for the jitter of back-offs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::sys;

/// Between 0 and 1. It needs to differ between processes, not to be unpredictable. It takes no
/// lock: a fork could copy one that is held.
pub(crate) fn random() -> f64 {
    static DRAWN: AtomicUsize = AtomicUsize::new(0);
    let mut hasher = DefaultHasher::new();
    (sys::process::pid(), SystemTime::now(), DRAWN.fetch_add(1, Ordering::Relaxed)).hash(&mut hasher);
    hasher.finish() as f64 / u64::MAX as f64
}
