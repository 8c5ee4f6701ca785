//! Whether the options of a process make sense, alone and beside each other.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::config::{Config, Group};
use super::containment::Containment;
use super::{readiness, stdio, target};
use crate::sys;

/// Everything that [`Builder::build`](crate::Builder::build) refuses.
pub(super) fn options(config: &Config) -> Result<(), String> {
    config.restart().check()?;
    check_strings(config)?;
    check_descriptors(config)?;
    let child = &config.child;
    if config.name.as_deref() == Some("") {
        return Err("an empty name".into());
    }
    if child.umask.is_some_and(|mask| mask > 0o777) {
        return Err(format!("umask {:#o} has bits outside 0o777", child.umask.unwrap_or_default()));
    }
    if child.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
        return Err(format!("nice value {} is outside -20..=19", child.nice.unwrap_or_default()));
    }
    // To setresuid(2) and setresgid(2) that number says: leave it as it is.
    if [child.uid, child.gid].contains(&Some(u32::MAX)) {
        return Err(format!("{} is no user and no group", u32::MAX));
    }
    if child.cores.as_ref().is_some_and(Vec::is_empty) {
        return Err("an empty set of cores: it could run nowhere".into());
    }
    if let Some((resource, soft, hard)) = child.limits.iter().find(|(_, soft, hard)| soft > hard) {
        return Err(format!("the soft limit {soft} of {resource:?} is above its hard limit {hard}"));
    }
    if child.session && child.group == Group::Inherit {
        return Err("a session of its own comes with a group of its own: group(Group::Inherit) cannot hold".into());
    }
    if child.containment == Containment::Tree && child.group == Group::Inherit {
        return Err("containing the tree needs a group of its own: group(Group::Inherit) cannot hold".into());
    }
    if config.calls.on_line.is_some() && !config.captures_any() {
        return Err("on_line needs stdout or stderr to be captured".into());
    }
    check_readiness(config)
}

fn check_readiness(config: &Config) -> Result<(), String> {
    let ready = &config.ready;
    if matches!(ready.kind, readiness::Kind::Line(_)) && !config.captures_any() {
        return Err("readiness by a line needs stdout or stderr to be captured".into());
    }
    if ready.watchdog.is_some_and(|interval| interval.is_zero()) {
        return Err("a watchdog interval of zero cannot be met".into());
    }
    if ready.watchdog.is_some() && !matches!(ready.kind, readiness::Kind::Notify) {
        return Err(format!("a watchdog needs readiness by notify, not {ready:?}"));
    }
    if let readiness::Kind::Line(text) = &ready.kind
        && (text.is_empty() || text.contains(['\n', '\r']))
    {
        return Err(format!("no line can be told by {text:?}: give a part of one"));
    }
    if config.ready_within.is_zero() && !matches!(ready.kind, readiness::Kind::Spawned) {
        return Err("a limit of zero for its readiness cannot be met".into());
    }
    if let readiness::Kind::Tcp(address) = &ready.kind
        && address
            .rsplit_once(':')
            .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().unwrap_or_default() == 0)
    {
        return Err(format!("readiness address `{address}` is not of the form host:port, with a port from 1 on"));
    }
    if let readiness::Kind::Unix(path) = &ready.kind
        && !sys::socket::is_address(path)
    {
        return Err(format!(
            "{path:?} is no path of a socket: it is too long (unix(7)), empty, or contains a NUL byte"
        ));
    }
    Ok(())
}

fn check_strings(config: &Config) -> Result<(), String> {
    let nul = |text: &OsStr| text.as_bytes().contains(&0);
    let mut environments = vec![&config.child.environment];
    let mut directories = vec![&config.child.directory];
    if let target::Kind::Command(command) = &config.target.0 {
        if command.program.is_empty() {
            return Err("an empty program name".into());
        }
        for text in command.arg0.iter().chain([&command.program]).chain(&command.args) {
            if nul(text) {
                return Err(format!("argument {text:?} contains a NUL byte"));
            }
        }
        environments.push(&command.environment);
        directories.push(&command.directory);
    }
    // The kernel would take what stands before the NUL: another directory.
    for directory in directories.into_iter().flatten() {
        if nul(directory.as_os_str()) {
            return Err(format!("directory {directory:?} contains a NUL byte"));
        }
    }
    for (key, value) in environments.iter().flat_map(|environment| &environment.changes) {
        if key.is_empty() || key.as_bytes().contains(&b'=') || nul(key) {
            return Err(format!("environment variable {key:?}: the name is empty or contains `=` or NUL"));
        }
        if value.as_deref().is_some_and(nul) {
            return Err(format!("environment variable {key:?}: the value contains a NUL byte"));
        }
    }
    Ok(())
}

fn check_descriptors(config: &Config) -> Result<(), String> {
    let [stdin, ..] = config.stdio();
    if matches!(stdin.0, stdio::Kind::Captured) {
        return Err("stdin cannot be captured: it is not output".into());
    }
    let mut taken = BTreeSet::new();
    let ready = match config.ready.kind {
        readiness::Kind::Fd(fd) => Some(fd),
        readiness::Kind::Spawned
        | readiness::Kind::Notify
        | readiness::Kind::Line(_)
        | readiness::Kind::Tcp(_)
        | readiness::Kind::Unix(_)
        | readiness::Kind::File(_)
        | readiness::Kind::Check(_) => None,
    };
    for fd in config.child.passed.iter().map(|(_, fd)| *fd).chain(ready) {
        if fd < 3 {
            return Err(format!("descriptor {fd} cannot be passed: 0, 1 and 2 are stdin, stdout and stderr"));
        }
        if !taken.insert(fd) {
            return Err(format!("two descriptors are to be passed as number {fd}"));
        }
    }
    Ok(())
}

/// Options that [`Process::new`] could not refuse are refused at the start.
pub(super) fn at_start(config: &Config) -> Result<(), String> {
    check_strings(config)?;
    check_descriptors(config)
}
