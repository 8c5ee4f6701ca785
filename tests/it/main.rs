//! Real processes. One module for each public concept.

#![allow(clippy::unwrap_used)]

/// On this kernel, as it is.
const OLD_KERNEL: bool = false;

mod basics;
mod support;
