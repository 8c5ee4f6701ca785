//! Every option of `Builder` and `Command`, as the child sees it: a command, and a forked closure.

mod descriptors;
mod environment;
mod identity;
mod limits;
mod never_forks;
mod signals;
mod streams;
mod surroundings;

use std::fs;

use pkit::{Builder, Command, Process, Stdio, Target};

use crate::forked::{forked, tell};

/// What a command writes to its stdout, and what a forked closure answers, both with these options.
fn both(
    command: Command,
    closure: impl Fn() -> String + Send + Sync + 'static,
    options: impl Fn(Builder) -> Builder,
) -> [String; 2] {
    let targets = [Target::from(command), forked(move || tell(&closure()))];
    targets.map(|target| output(options(Process::builder(target).stdout(Stdio::captured()))))
}

/// What both read from a file; one of `/proc/self`, then.
fn both_read(path: &'static str, options: impl Fn(Builder) -> Builder) -> [String; 2] {
    both(Command::new("cat").arg(path).clone(), move || fs::read_to_string(path).unwrap(), options)
}

/// What it writes to its captured stdout until it ends well.
fn output(builder: Builder) -> String {
    let process = builder.build().unwrap();
    process.start(true).unwrap();
    let exit = process.join().unwrap();
    assert!(exit.success(), "{exit}");
    process.output().stdout_text().into_owned()
}

/// `value` of a line `name: value` of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

fn own_status() -> String {
    fs::read_to_string("/proc/thread-self/status").unwrap()
}

/// The error that a start with these options ends with, for both kinds of target. Nothing is left of it.
fn both_refused(options: impl Fn(Builder) -> Builder) -> [String; 2] {
    [Target::from(Command::new("true")), forked(|| ())].map(|target| {
        let process = options(Process::builder(target).name("it")).build().unwrap();
        let error = process.start(true).unwrap_err();
        assert!(error.is_not_created() && process.pid().is_none() && !process.is_alive());
        error.to_string()
    })
}
