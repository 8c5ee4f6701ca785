//! Processes: what to run, how to create it, and its life.

#[cfg(test)]
mod behind;
mod builder;
mod calls;
mod captured;
mod check;
mod closing;
mod command;
mod config;
mod containment;
mod core;
mod ending;
mod events;
mod futures;
mod gate;
mod handle;
mod hearing;
mod jitter;
mod launch;
mod leader;
mod left;
mod lifecycle;
pub(crate) mod monitor;
mod notification;
mod overseen;
mod procfs;
mod readiness;
mod reading;
mod refused;
mod resource;
mod rests;
mod run;
#[cfg(feature = "tasks")]
mod run_end;
pub(crate) mod state;
mod status;
mod stdio;
mod target;
mod trying;
mod turn;
mod waiting;

/// What the monitor locks with. The model tests compile the same file against loom.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

pub use builder::Builder;
pub(crate) use calls::is_within_any_callback;
pub use command::Command;
pub use config::Group;
pub use containment::{Containment, ContainmentLevel};
#[cfg(feature = "_testing")]
pub(crate) use containment::{pretend_no_cgroup_kill, pretend_no_cgroups};
pub(crate) use ending::{Ending, Rest};
pub use events::{Event, EventKind, Events};
pub(crate) use events::{Queue, Subscriber};
pub use futures::{BecomesReady, Exited};
pub use handle::Process;
pub(crate) use jitter::random;
pub use lifecycle::RestartMode;
pub(crate) use overseen::{Overseer, Tiding};
pub use readiness::Ready;
pub use resource::Resource;
pub use state::State;
pub use status::Status;
pub use stdio::Stdio;
pub use target::Target;
#[cfg(feature = "tasks")]
pub(crate) use target::{Make, exit_code};
