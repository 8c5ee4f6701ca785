//! The crate's small concurrent protocols under loom: every interleaving of a few threads, up to a bound of preemptions.
//!
//! A model compiles the very file that the crate uses, with loom's locks in place of those of `std`: each such file takes
//! them from a module `sync` beside it. A thread that sleeps for ever is how most mistakes show: loom calls it a deadlock.
//!
//! | model | file | what holds |
//! |---|---|---|
//! | [`timers`] | `src/reaper/timers.rs` | no deadline is slept over, set when and by whom ever |
//! | [`registry`] | `src/reaper/registry.rs` | an event reaches the one who is registered for it, or nobody |
//! | [`jobs`] | `src/threads/jobs.rs` | no job is left while all threads sleep; never too many threads |
//! | [`monitor`] | `src/process/monitor.rs` | nobody who waits misses the last change; who gave up is forgotten |
//! | [`semaphore`] | `src/job/semaphore.rs` | none is lost or given twice; who comes first is served first |
//! | [`per_process`] | `src/sys/per_process.rs` | one value wins |

#![allow(clippy::unwrap_used, reason = "a test")]

mod jobs;
mod monitor;
#[path = "../../src/panics.rs"]
mod panics;
mod per_process;
mod registry;
mod semaphore;
mod timers;

/// Every interleaving with at most `preemptions` switches away from a thread that could have gone on.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
