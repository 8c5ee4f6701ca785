//! The life of a process as a pure state machine.
//!
//! `step` takes an event and the time and answers with actions; the shell around it
//! (`process/turn.rs`) does them. Nothing here touches the operating system, which is why the
//! generated tests can drive it through hundreds of thousands of lives in seconds.
//!
//! The phases, what is true in each and what it is left by are told in `docs/architecture.md`, "The life of a process".
//!
//! What always holds is listed in the documentation of `tests`, and checked there.

mod between_runs;
mod ladder;
mod lateness;
mod machine;
mod protocol;
mod running;
mod shown;
#[cfg(test)]
mod tests;

pub(crate) use machine::Machine;
pub(crate) use protocol::{Action, Conclusion, Event, Notice, Rules, Standing};
pub use shown::State;
