//! Trees of processes that stay up.

mod above;
mod account;
mod builder;
mod changes;
mod core;
mod handle;
mod kin;
mod order;
mod run;
mod status;
mod strategy;
mod working;

pub use builder::{Child, SupervisorBuilder};
pub use handle::Supervisor;
pub use status::{ChildStatus, SupervisorStatus};
pub use strategy::Strategy;
