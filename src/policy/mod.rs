//! Restart policy: given how a run ended, what next?
//!
//! The one restart decision of the crate. A process alone applies it to itself, a supervisor to its
//! children. It is a pure function of the policy ([`Restart`]), what happened before ([`History`]), how the
//! run ended ([`Outcome`]), the time and a random number, all of which come in as arguments.
//!
//! Three mistakes are common, and shape this one:
//!
//! - a count that each successful spawn resets never gives up. Here only a run that was *stable* for long
//!   enough resets it;
//! - a limit that the back-off is too slow to reach never gives up either. Here it is an error when the
//!   process is built ([`Restart::check`]);
//! - a resource shortage (`EAGAIN`, `ENOMEM`, …) taken for a crash turns a busy machine into a failed
//!   service. Here it is retried and not counted.

mod backoff;
#[cfg(test)]
mod generated;
mod outcome;
mod restart;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use outcome::GiveUp;
pub(crate) use outcome::{Outcome, Verdict};
pub(crate) use restart::History;
pub use restart::Restart;
