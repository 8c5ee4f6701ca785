//! Supervisors with real children.

mod changes;
mod lives;
mod order;
mod run;
mod strategies;
mod trees;

use std::path::Path;
use std::time::Duration;

use pkit::{Backoff, Builder, Command, EventKind, Events, Process, Ready, Restart, Supervisor};

use crate::support::{LONG, sh};

/// One that says that it is up, and runs until it is stopped.
fn service(name: &str) -> Builder {
    Process::builder(sh("echo up; exec sleep 1000")).name(name).ready(Ready::line("up"))
}

/// The same, which is restarted at once, however often.
fn lasting(name: &str) -> Builder {
    service(name).restart(Restart::always().backoff(Backoff::none()).unlimited())
}

/// Each comes after the one before.
fn row(names: &[&str]) -> pkit::SupervisorBuilder {
    names.iter().fold(Supervisor::builder().name("row"), |builder, name| builder.child(lasting(name)))
}

/// What `sh` runs while that file is not there; then it goes on.
fn until_there(path: &Path) -> String {
    format!("while [ ! -e {} ]; do sleep 0.01; done", path.display())
}

/// What happened to whom, of what `is_meant` says so, until `end` does.
fn story(events: Events, is_meant: fn(&EventKind) -> bool, end: impl Fn(&pkit::Event) -> bool) -> Vec<String> {
    let mut told = Vec::new();
    for event in events {
        if is_meant(&event.kind) {
            told.push(format!("{} {}", event.process, event.kind));
        }
        if end(&event) {
            break;
        }
    }
    told
}

/// The other events differ from one time to the next.
fn is_up_or_down(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Ready | EventKind::Stopping | EventKind::AllStopped | EventKind::SupervisorFailed(_))
}

fn kill(supervisor: &Supervisor, name: &str) {
    supervisor.process(name).unwrap().signal(pkit::Signal::KILL).unwrap();
}

fn pid(supervisor: &Supervisor, name: &str) -> u32 {
    supervisor.process(name).unwrap().pid().unwrap()
}

/// Until it is ready in another run than that.
fn restarted(supervisor: &Supervisor, name: &str, before: u32) -> u32 {
    let is_new =
        |status: &pkit::Status| status.state == pkit::State::Ready && status.pid.is_some_and(|pid| pid != before);
    supervisor.process(name).unwrap().wait_until(LONG, is_new).unwrap().pid.unwrap()
}

const SHORT: Duration = Duration::from_millis(20);

fn exits(code: i32) -> Command {
    sh(&format!("exit {code}"))
}
