//! The same tests as in `it`, as on the oldest supported kernel: without `PIDFD_SIGNAL_PROCESS_GROUP` and `PIDFD_INFO_EXIT`.

#![allow(clippy::unwrap_used)]

const OLD_KERNEL: bool = true;

#[path = "../it/basics.rs"]
mod basics;
#[path = "../it/support.rs"]
mod support;
