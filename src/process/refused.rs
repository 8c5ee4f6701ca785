//! Why nothing was created, in words.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::resource::Resource;
use super::stdio;
use super::target;
use crate::sys::spawn::{Failure, Setup, Step};

/// The step of a start that found no thread to be created on.
pub(super) const NO_THREAD: &str = "start a thread that creates it";

/// Why nothing was created.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) step: String,
    pub(super) source: io::Error,
    /// A cgroup could be made, but not joined.
    pub(super) of_cgroup: bool,
}

impl Refused {
    pub(super) fn new(step: impl Into<String>, source: io::Error) -> Refused {
        Refused { step: step.into(), source, of_cgroup: false }
    }

    /// What a failure means for `programs`, the candidates.
    pub(super) fn of(failure: Failure, config: &Config, setup: &Setup, programs: &[CString]) -> Refused {
        let step = describe(config, setup, &failure, programs);
        Refused { step, source: failure.error, of_cgroup: failure.step == Step::Cgroup }
    }

    /// What a restart policy goes by.
    pub(super) fn errno(&self) -> i32 {
        match self.source.kind() {
            io::ErrorKind::HostUnreachable => libc::EHOSTUNREACH,
            _ => self.source.raw_os_error().unwrap_or(libc::EINVAL),
        }
    }
}

fn describe(config: &Config, setup: &Setup, failure: &Failure, programs: &[CString]) -> String {
    let child = &config.child;
    match failure.step {
        Step::Thread => NO_THREAD.into(),
        #[cfg(feature = "tasks")]
        Step::Server => "have the fork server make it".into(),
        Step::Create => "create the process".into(),
        Step::Cgroup => "join the cgroup".into(),
        Step::Session => "make a session".into(),
        Step::Group => "make a process group".into(),
        Step::Descriptor(fd) => match usize::try_from(fd).ok().and_then(|fd| stdio::NAMES.get(fd)) {
            Some(stream) => format!("set up {stream}"),
            None => format!("pass descriptor {fd}"),
        },
        Step::CloseDescriptors => "close the other descriptors".into(),
        Step::Umask => "set the umask".into(),
        Step::Directory => match config.directory() {
            Some(directory) => format!("change directory to `{}`", directory.display()),
            None => "enter this program's directory".into(),
        },
        Step::Nice => format!("set the nice value {}", child.nice.unwrap_or_default()),
        Step::Cores => format!("bind to cores {:?}", child.cores.as_deref().unwrap_or_default()),
        Step::Limit(raw) => match Resource::from_raw(raw) {
            Some(resource) => format!("limit {resource:?}"),
            None => format!("limit resource {raw}"),
        },
        Step::Groups => "set the supplementary groups".into(),
        Step::Gid => format!("become group {}", setup.gid.unwrap_or_default()),
        Step::Uid => format!("become user {}", setup.uid.unwrap_or_default()),
        Step::NoNewPrivs => "give up gaining privileges".into(),
        Step::ParentDeath => "bind its life to this program's".into(),
        Step::Signals => "set up its signals".into(),
        Step::Exec => describe_exec(config, failure, programs),
    }
}

fn describe_exec(config: &Config, failure: &Failure, programs: &[CString]) -> String {
    let path = |program: &CString| PathBuf::from(OsStr::from_bytes(program.as_bytes()));
    let missing = failure.error.raw_os_error() == Some(libc::ENOENT);
    let from = config.directory().unwrap_or(Path::new(""));
    // The kernel says ENOENT for a script whose interpreter is missing, too.
    if missing && let Some(found) = programs.iter().map(path).find(|program| from.join(program).exists()) {
        return format!("execute `{}`: find its interpreter", found.display());
    }
    if missing && let [_, _, ..] = programs {
        let target::Kind::Command(command) = &config.target.0 else { return "execute".into() };
        return format!("find `{}` in PATH", command.program.to_string_lossy());
    }
    match failure.program.and_then(|index| programs.get(index)).or(programs.first()) {
        Some(program) => format!("execute `{}`", path(program).display()),
        None => "execute".into(),
    }
}
