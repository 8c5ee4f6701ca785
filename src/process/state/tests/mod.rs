//! The state machine under generated lives, and its table of phases.
//!
//! [`world`] plays the shell and the processes and checks after every event; [`generated`] drives it through more than
//! 100,000 sequences; [`table`] spells out what is clearer as an example. What is checked:
//!
//! - at most one run lives; a start never overlaps the run before it, and none begins while a spawn is under way;
//! - no signal and no SIGKILL when no process of a run can be there: not before it was created, not once its group was
//!   found empty or was left alone;
//! - every run that was created is concluded exactly once, `requested` if and only if a stop was asked for while its
//!   leader lived (or was being created), `forced` if and only if SIGKILL was sent, with its own reason, runtime and
//!   leak;
//! - in `Idle` and `Failed` nothing is scheduled: no deadline, no next start;
//! - a ladder sends its signals in order, none before the grace of the one before it has passed, then SIGKILL, then no
//!   other signal; a grace without end never becomes a SIGKILL; once asked to stop, everything ends within the graces;
//! - no automatic start before its due time, none under `Restart::never`, none after a stop, a kill or a last run was
//!   asked for until the next start by hand; but one that does come, where the policy restarts for ever;
//! - where somebody oversees it, no automatic start that he has not permitted, and nothing is scheduled until then;
//! - a look is asked only when the leader is gone, never two at once, and without an answer nothing is overlooked:
//!   there always is something that is awaited;
//! - a tick before the deadline does nothing; one at or after it does something, and a few at the same instant do all; but
//!   one that comes late puts a limit, or the next step of a ladder, off, once;
//! - `state()`, `is_alive()`, `generation()` and `deadline()` agree with the model;
//! - the end of a run is reported only where somebody listens;
//! - an event that does not belong to the phase changes nothing.

mod generated;
mod happenings;
mod table;
mod world;
