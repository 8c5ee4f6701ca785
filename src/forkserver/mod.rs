//! Functions of this program in processes of their own.
//!
//! The fork server is this same executable, started once, which never comes to its `main`: it has one thread, little memory, and makes
//! copies of itself that are our children (`CLONE_PARENT`, clone(2)). So a function starts as fast from a large program with many
//! threads as from a small one, and may use all of the library, since nothing was locked when its process was made.
//!
//! A start, in messages:
//!
//! ```text
//! starter                      server                     child
//!    |--- Fork, [a channel] ----->|                          |
//!    |    (looks up what is       |-- is copied ------------>|
//!    |     inherited)             |--- Copied, [pidfd] --.   |
//!    |--- the order, [descriptors], on the channel ------+-->|
//!    |<-- on the channel: Copied, from both -------------+---|
//!    |                                                       | (sets itself up)
//!    |<-- on the channel: Settled, or Failed ----------------|
//!    |                                                       |--> runs the function
//! ```
//!
//! What each of both said is there, whoever of them has died meanwhile. A function runs only where its start could be told, so one that is
//! not heard of has not run.
//!
//! One copy is made ahead: each start, when it has given its order, sends the `Fork` for the next, whose copy waits for its order (and ends
//! with this program, or when its channel does). It has run nothing. So a start does not wait for the copying, and where that
//! copy has ended meanwhile, or a preload has made it obsolete, another one is asked for.

mod client;
mod function;
mod order;
mod said;
mod serve;
mod server;

#[cfg(feature = "_testing")]
pub(crate) use client::{end, pid};
pub(crate) use function::{Function, Packed, captures_nothing, decode_argument, not_started, place_of};
pub use function::{Run, preload};
