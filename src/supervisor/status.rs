//! A snapshot of a supervisor, which prints as a table.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::process::{State, Status};

/// A supervisor and all of its children at one moment, each consistent in itself; from [`Supervisor::status`](crate::Supervisor::status) and
/// [`Supervisor::join`](crate::Supervisor::join). `Display` is a table.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SupervisorStatus {
    /// What it is called.
    pub name: Arc<str>,
    /// `Idle`, `Starting` until all of its children were ready, `Ready` from then on, `Stopping`, or `Failed`; `Backoff` where another one
    /// will start it again.
    pub state: State,
    /// Why it stopped all of its children, in the last start of it.
    pub failure: Option<Failure>,
    /// Its children, in the order in which they are started.
    pub children: Vec<ChildStatus>,
}

/// A child of a supervisor at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChildStatus {
    /// A process.
    Process(Status),
    /// A supervisor, with its own children.
    Supervisor(SupervisorStatus),
}

impl ChildStatus {
    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            ChildStatus::Process(status) => &status.name,
            ChildStatus::Supervisor(status) => &status.name,
        }
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        match self {
            ChildStatus::Process(status) => status.state,
            ChildStatus::Supervisor(status) => status.state,
        }
    }

    /// All of it, where it is a process.
    pub fn process(&self) -> Option<&Status> {
        match self {
            ChildStatus::Process(status) => Some(status),
            ChildStatus::Supervisor(_) => None,
        }
    }

    /// Its pid, where it is a process, while the leader lives.
    pub fn pid(&self) -> Option<u32> {
        self.process()?.pid
    }

    /// How it ended last, where it is a process.
    pub fn exit(&self) -> Option<&Exit> {
        self.process()?.exit.as_ref()
    }
}

/// A row of the table; those of a branch stand below it, further in.
struct Row<'a> {
    depth: usize,
    name: &'a str,
    state: State,
    process: Option<&'a Status>,
    failure: Option<&'a Failure>,
}

impl Row<'_> {
    fn width(&self) -> usize {
        2 * self.depth + self.name.chars().count()
    }

    fn last(&self) -> &dyn fmt::Display {
        let error =
            self.process.and_then(|process| process.error.as_ref()).map(|error: &Error| error as &dyn fmt::Display);
        let exit = self.process.and_then(|process| process.exit.as_ref()).map(|exit| exit as &dyn fmt::Display);
        let failure = self.failure.map(|failure| failure as &dyn fmt::Display);
        error.or(exit).or(failure).unwrap_or(&"-")
    }
}

impl SupervisorStatus {
    fn rows<'a>(&'a self, depth: usize, rows: &mut Vec<Row<'a>>) {
        for child in &self.children {
            let (name, state, process) = (child.name(), child.state(), child.process());
            match child {
                ChildStatus::Process(_) => rows.push(Row { depth, name, state, process, failure: None }),
                ChildStatus::Supervisor(status) => {
                    rows.push(Row { depth, name, state, process, failure: status.failure.as_ref() });
                    status.rows(depth + 1, rows);
                }
            }
        }
    }
}

impl fmt::Display for SupervisorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        self.rows(0, &mut rows);
        let width = rows.iter().map(Row::width).max().unwrap_or(0).max(4);
        write!(f, "{:<width$}  {:<9} {:>8} {:>8}  LAST EXIT", "NAME", "STATE", "PID", "RESTARTS")?;
        for row in &rows {
            let or_none = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
            let pid = or_none(row.process.and_then(|process| process.pid).map(|pid| pid.to_string()));
            let restarts = or_none(row.process.map(|process| process.restarts.to_string()));
            let name = format!("{:indent$}{}", "", row.name, indent = 2 * row.depth);
            write!(f, "\n{name:<width$}  {:<9} {pid:>8} {restarts:>8}  {}", row.state, row.last())?;
        }
        match &self.failure {
            Some(failure) => write!(f, "\n`{}` has failed: {failure}", self.name),
            None => Ok(()),
        }
    }
}
