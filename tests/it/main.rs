//! Real processes. One module for each public concept.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what it calls")]

/// On this kernel, as it is.
const OLD_KERNEL: bool = false;

mod async_wait;
mod basics;
mod callbacks;
mod containment;
mod events;
mod fork;
mod forked;
mod functions;
mod generations;
mod groups;
mod handles;
mod held_up;
mod lines;
mod notify;
mod options;
mod orphans;
mod output;
mod parent_death;
mod paused;
mod pid_reuse;
mod policy;
mod pools;
mod program;
mod readiness;
mod reaping;
mod reaping_crowds;
mod start_errors;
mod stress;
mod supervisor;
mod support;
mod workers;
