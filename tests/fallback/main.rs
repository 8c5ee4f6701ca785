//! The same tests as in `it`, without `PIDFD_SIGNAL_PROCESS_GROUP`, `PIDFD_INFO_EXIT` and `clone3`.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what it calls")]

const OLD_KERNEL: bool = true;

#[path = "../it/async_wait.rs"]
mod async_wait;
#[path = "../it/basics.rs"]
mod basics;
#[path = "../it/callbacks.rs"]
mod callbacks;
#[path = "../it/containment.rs"]
mod containment;
#[path = "../it/events.rs"]
mod events;
#[path = "../it/fork/mod.rs"]
mod fork;
#[path = "../it/forked.rs"]
mod forked;
#[path = "../it/functions/mod.rs"]
mod functions;
#[path = "../it/generations.rs"]
mod generations;
#[path = "../it/groups.rs"]
mod groups;
#[path = "../it/handles.rs"]
mod handles;
#[path = "../it/held_up.rs"]
mod held_up;
#[path = "../it/lines.rs"]
mod lines;
#[path = "../it/notify.rs"]
mod notify;
#[path = "../it/options/mod.rs"]
mod options;
#[path = "../it/orphans.rs"]
mod orphans;
#[path = "../it/output.rs"]
mod output;
#[path = "../it/parent_death.rs"]
mod parent_death;
#[path = "../it/paused.rs"]
mod paused;
#[path = "../it/pid_reuse.rs"]
mod pid_reuse;
#[path = "../it/policy.rs"]
mod policy;
#[path = "../it/pools.rs"]
mod pools;
#[path = "../it/program.rs"]
mod program;
#[path = "../it/readiness.rs"]
mod readiness;
#[path = "../it/reaping.rs"]
mod reaping;
#[path = "../it/reaping_crowds.rs"]
mod reaping_crowds;
#[path = "../it/start_errors/mod.rs"]
mod start_errors;
#[path = "../it/stress.rs"]
mod stress;
#[path = "../it/supervisor/mod.rs"]
mod supervisor;
#[path = "../it/support.rs"]
mod support;
#[path = "../it/workers/mod.rs"]
mod workers;
