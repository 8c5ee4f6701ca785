//! Real processes. One module for each public concept.

#![allow(clippy::unwrap_used)]

/// On this kernel, as it is.
const OLD_KERNEL: bool = false;

mod async_wait;
mod basics;
mod callbacks;
mod events;
mod forked;
mod generations;
mod handles;
mod lines;
mod notify;
mod options;
mod output;
mod policy;
mod readiness;
mod start_errors;
mod support;
