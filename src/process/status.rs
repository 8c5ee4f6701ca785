//! A snapshot of a process.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::containment::ContainmentLevel;
use super::state::State;
use crate::error::Error;
use crate::exit::Exit;
use crate::policy::GiveUp;

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
    /// The pid it named by `MAINPID=`, while that process lives.
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
    /// Why the policy gave up, if no run was created since.
    pub gave_up: Option<GiveUp>,
    /// When the policy will start it again.
    pub next_start: Option<Instant>,
    /// What it says of itself (`STATUS=` of `sd_notify(3)`), in the current run.
    pub text: Option<String>,
    /// What of its descendants is really reached in the current run, or else in the last one.
    pub containment: Option<ContainmentLevel>,
}

impl fmt::Display for Status {
    /// One aligned row: name, state, pid, restarts, and the last exit or why it could not be started.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.pid.map_or("-".to_owned(), |pid| pid.to_string());
        write!(f, "{:<12} {:<9} {pid:>8} {:>8}  ", self.name, self.state, self.restarts)?;
        match (&self.error, &self.exit) {
            (Some(error), _) => error.fmt(f),
            (None, Some(exit)) => exit.fmt(f),
            (None, None) => f.write_str("-"),
        }
    }
}

impl Status {
    /// In a fork of the program that owns the process: as of one that does not run.
    pub(super) fn of_foreign(name: &Arc<str>) -> Status {
        Status {
            name: Arc::clone(name),
            state: State::Idle,
            pid: None,
            main_pid: None,
            started: None,
            generation: 0,
            restarts: 0,
            exit: None,
            error: None,
            gave_up: None,
            next_start: None,
            text: None,
            containment: None,
        }
    }
}
