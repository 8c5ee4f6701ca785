//! Real processes. One module for each public concept.

/// On this kernel, as it is.
const OLD_KERNEL: bool = false;

mod basics;
mod support;
