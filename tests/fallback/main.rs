//! The same tests as in `it`, as on the oldest supported kernel: without `PIDFD_SIGNAL_PROCESS_GROUP` and `PIDFD_INFO_EXIT`.

#![allow(clippy::unwrap_used)]

const OLD_KERNEL: bool = true;

#[path = "../it/async_wait.rs"]
mod async_wait;
#[path = "../it/basics.rs"]
mod basics;
#[path = "../it/callbacks.rs"]
mod callbacks;
#[path = "../it/events.rs"]
mod events;
#[path = "../it/forked.rs"]
mod forked;
#[path = "../it/generations.rs"]
mod generations;
#[path = "../it/handles.rs"]
mod handles;
#[path = "../it/lines.rs"]
mod lines;
#[path = "../it/notify.rs"]
mod notify;
#[path = "../it/options/mod.rs"]
mod options;
#[path = "../it/output.rs"]
mod output;
#[path = "../it/policy.rs"]
mod policy;
#[path = "../it/readiness.rs"]
mod readiness;
#[path = "../it/start_errors/mod.rs"]
mod start_errors;
#[path = "../it/support.rs"]
mod support;
