//! Why nothing was created, in words.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::launch::{STREAMS, directory};
use super::resource::Resource;
use super::target;
use crate::sys::spawn::{Failure, Setup, Step};

/// The step of a start that found no thread to be created on.
pub(super) const NO_THREAD: &str = "start a thread that creates it";

/// Why nothing was created.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) step: String,
    pub(super) source: io::Error,
}

impl Refused {
    pub(super) fn new(step: impl Into<String>, source: io::Error) -> Refused {
        Refused { step: step.into(), source }
    }

    /// What a restart policy goes by.
    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EINVAL)
    }
}

pub(super) enum Attempt {
    /// It could be made, but not joined.
    Cgroup,
    Refused(Refused),
}

impl Attempt {
    /// What a failure means for `programs`, the candidates.
    pub(super) fn new(config: &Config, setup: &Setup, failure: Failure, programs: &[CString]) -> Attempt {
        if failure.step == Step::Cgroup {
            return Attempt::Cgroup;
        }
        let step = describe(config, setup, &failure, programs);
        Attempt::Refused(Refused::new(step, failure.error))
    }

    pub(super) fn into_refused(self) -> Refused {
        match self {
            Attempt::Refused(refused) => refused,
            Attempt::Cgroup => Refused::new("join the cgroup", io::Error::from_raw_os_error(libc::EACCES)),
        }
    }
}

impl From<Refused> for Attempt {
    fn from(refused: Refused) -> Attempt {
        Attempt::Refused(refused)
    }
}

fn describe(config: &Config, setup: &Setup, failure: &Failure, programs: &[CString]) -> String {
    let child = &config.child;
    match failure.step {
        Step::Thread => NO_THREAD.into(),
        Step::Create => "create the process".into(),
        Step::Cgroup => "join the cgroup".into(),
        Step::Session => "make a session".into(),
        Step::Group => "make a process group".into(),
        Step::Descriptor(fd) => match usize::try_from(fd).ok().and_then(|fd| STREAMS.get(fd)) {
            Some(stream) => format!("set up {stream}"),
            None => format!("pass descriptor {fd}"),
        },
        Step::CloseDescriptors => "close the other descriptors".into(),
        Step::Umask => "set the umask".into(),
        Step::Directory => {
            let directory = directory(config).unwrap_or(Path::new(""));
            format!("change directory to `{}`", directory.display())
        }
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
    let from = directory(config).unwrap_or(Path::new(""));
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
