//! Trees of processes that stay up.

mod account;
mod builder;
mod changes;
mod core;
mod handle;
mod order;
mod run;
mod status;
mod strategy;
mod working;

pub use builder::{Child, SupervisorBuilder};
pub use handle::Supervisor;
pub use status::SupervisorStatus;
pub use strategy::Strategy;
