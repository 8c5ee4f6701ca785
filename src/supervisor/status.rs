//! A snapshot of a supervisor, which prints as a table.

use std::fmt;
use std::sync::Arc;

use crate::failure::Failure;
use crate::process::{State, Status};

/// A supervisor and all of its children at one moment, each consistent in itself; from [`Supervisor::status`](crate::Supervisor::status) and
/// [`Supervisor::join`](crate::Supervisor::join). `Display` is a table.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SupervisorStatus {
    /// What it is called.
    pub name: Arc<str>,
    /// `Idle`, `Starting` until all of its children were ready, `Ready` from then on, `Stopping`, or `Failed`.
    pub state: State,
    /// Why it stopped all of its children, in the last start of it.
    pub failure: Option<Failure>,
    /// Its children, in the order in which they are started.
    pub children: Vec<Status>,
}

impl fmt::Display for SupervisorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.children.iter().map(|child| child.name.chars().count()).max().unwrap_or(0).max(4);
        write!(f, "{:<width$}  {:<9} {:>8} {:>8}  LAST EXIT", "NAME", "STATE", "PID", "RESTARTS")?;
        for child in &self.children {
            let pid = child.pid.map_or("-".to_owned(), |pid| pid.to_string());
            write!(f, "\n{:<width$}  {:<9} {pid:>8} {:>8}  ", child.name, child.state, child.restarts)?;
            match (&child.error, &child.exit) {
                (Some(error), _) => error.fmt(f)?,
                (None, Some(exit)) => exit.fmt(f)?,
                (None, None) => f.write_str("-")?,
            }
        }
        match &self.failure {
            Some(failure) => write!(f, "\n`{}` has failed: {failure}", self.name),
            None => Ok(()),
        }
    }
}
