//! Forked copies of a test: their targets, and how they tell what they see.

#![allow(dead_code, reason = "not every binary uses all of it")]
#![allow(unsafe_code, reason = "`Target::fork` is what is tested")]

use std::process::Termination;

use pkit::Target;

/// The closures of the tests take no lock of the test program: they compute, read files, write to descriptors, and use pkit.
pub(crate) fn forked<T: Termination>(closure: impl Fn() -> T + Send + Sync + 'static) -> Target {
    // SAFETY: see above.
    unsafe { Target::fork(closure) }
}

/// Writes to stdout past Rust's lock and buffer of it, which belong to the parent.
pub(crate) fn tell(text: &str) {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let written = nix::unistd::write(std::io::stdout(), left).unwrap();
        left = &left[written..];
    }
}
