//! A snapshot of a process.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::containment::Level;
use super::state::State;
use crate::error::Error;
use crate::exit::Exit;

/// Everything about a process at one moment, consistent in itself. From [`Process::status`](crate::Process::status).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// What it is called.
    pub name: Arc<str>,
    /// What it is doing.
    pub state: State,
    /// Its pid while the leader lives.
    pub pid: Option<u32>,
    /// The pid it named by `MAINPID=`, while that run lasts.
    pub main_pid: Option<u32>,
    /// When the current run, or else the last one, was created.
    pub started: Option<SystemTime>,
    /// How often it was started, by hand and by the policy, failed attempts included.
    pub generation: u64,
    /// How often the policy started it or tried to, since it was built.
    pub restarts: u64,
    /// How the last finished run ended.
    pub exit: Option<Exit>,
    /// Why the last start failed, by hand or by the policy, if none succeeded since.
    pub error: Option<Error>,
    /// When the policy will start it again.
    pub next_start: Option<Instant>,
    /// What it says of itself (`STATUS=` of `sd_notify(3)`), in the current run.
    pub text: Option<String>,
    /// What of its descendants is really reached in the current run, or else in the last one.
    pub containment: Option<Level>,
}
