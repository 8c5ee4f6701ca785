//! A program to execute, with the method names of `std::process::Command`.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::stdio::Stdio;
use crate::sys::locked;

/// A program and its arguments, environment, directory and standard streams.
///
/// The methods have the names and the receivers of [`std::process::Command`]'s, so moving over is a rename. What std
/// has under `CommandExt` (user, group, session, signals, limits) is on [`Builder`](crate::Builder), for every kind of
/// target. Where both say something, the builder wins.
///
/// The environment, directory and umask are taken from this program *at the moment of each start*,
/// changed by what is said here.
///
/// # Example
///
/// ```
/// use pkit::{Command, Process};
///
/// let process = Process::new(Command::new("sh").args(["-c", "exit 3"]));
/// process.start(true)?;
/// assert_eq!(process.join()?.code(), Some(3));
/// # Ok::<(), pkit::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a command does nothing until it is started"]
pub struct Command {
    pub(super) program: OsString,
    pub(super) arg0: Option<OsString>,
    pub(super) args: Vec<OsString>,
    pub(super) environment: EnvironmentChanges,
    pub(super) directory: Option<PathBuf>,
    pub(super) stdin: Option<Stdio>,
    pub(super) stdout: Option<Stdio>,
    pub(super) stderr: Option<Stdio>,
    pub(super) handed: Handed,
}

/// A descriptor for the next run alone, and its number there. Nobody here has it after that, so its other end sees the end of the child.
#[derive(Debug, Clone, Default)]
pub(super) struct Handed(Arc<Mutex<Option<(OwnedFd, i32)>>>);

impl Handed {
    pub(super) fn take(&self) -> Option<(OwnedFd, i32)> {
        locked(&self.0).take()
    }
}

/// What is different from the environment of this program, in the order in which it was said.
#[derive(Debug, Clone, Default)]
pub(super) struct EnvironmentChanges {
    pub(super) clear: bool,
    pub(super) changes: Vec<(OsString, Option<OsString>)>,
}

impl EnvironmentChanges {
    pub(super) fn set(&mut self, key: &OsStr, value: &OsStr) {
        self.changes.push((key.to_owned(), Some(value.to_owned())));
    }

    pub(super) fn remove(&mut self, key: &OsStr) {
        self.changes.push((key.to_owned(), None));
    }

    pub(super) fn clear(&mut self) {
        self.clear = true;
        self.changes.clear();
    }
}

impl Command {
    /// A command without arguments. A program without a slash is looked for in `PATH` at each start
    /// (in the child's `PATH`, where the environment is changed, as std does); one with a slash is taken
    /// relative to the child's directory.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            program: program.as_ref().to_owned(),
            arg0: None,
            args: Vec::new(),
            environment: EnvironmentChanges::default(),
            directory: None,
            stdin: None,
            stdout: None,
            stderr: None,
            handed: Handed::default(),
        }
    }

    /// Gives a descriptor to the next run.
    #[cfg(feature = "tasks")]
    pub(crate) fn hand_over(&mut self, fd: OwnedFd, number: i32) -> &mut Command {
        self.handed = Handed(Arc::new(Mutex::new(Some((fd, number)))));
        self
    }

    /// Adds one argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Command {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    pub fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Command {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What the program sees as its own name, `argv[0]`. Default: the program as it was given.
    pub fn arg0(&mut self, arg: impl AsRef<OsStr>) -> &mut Command {
        self.arg0 = Some(arg.as_ref().to_owned());
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Command {
        self.environment.set(key.as_ref(), value.as_ref());
        self
    }

    /// Sets several environment variables.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        &mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> &mut Command {
        for (key, value) in variables {
            self.environment.set(key.as_ref(), value.as_ref());
        }
        self
    }

    /// Takes a variable out of the child's environment, where it is inherited or was set before.
    pub fn env_remove(&mut self, key: impl AsRef<OsStr>) -> &mut Command {
        self.environment.remove(key.as_ref());
        self
    }

    /// Starts from an empty environment instead of this program's. What was set before is dropped as well.
    pub fn env_clear(&mut self) -> &mut Command {
        self.environment.clear();
        self
    }

    /// The child's working directory. Default: this program's, at the moment of the start.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Command {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// The child's standard input. Default: [`Stdio::null`].
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Command {
        self.stdin = Some(stdin.into());
        self
    }

    /// The child's standard output. Default: [`Stdio::inherit`].
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Command {
        self.stdout = Some(stdout.into());
        self
    }

    /// The child's standard error. Default: [`Stdio::inherit`].
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Command {
        self.stderr = Some(stderr.into());
        self
    }

    /// The program as it was given.
    pub fn get_program(&self) -> &OsStr {
        &self.program
    }

    /// The changes to the environment, in the order in which they were made; `None`: the variable is removed.
    pub fn get_envs(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.environment.changes.iter().map(|(key, value)| (key.as_os_str(), value.as_deref()))
    }

    /// The working directory, where one was set.
    pub fn get_current_dir(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The arguments, without the program's own name.
    pub fn get_args(&self) -> impl Iterator<Item = &OsStr> {
        self.args.iter().map(OsString::as_os_str)
    }
}

impl From<std::process::Command> for Command {
    /// Takes over what std lets one read: program, arguments, environment changes and directory.
    ///
    /// What it keeps to itself is lost: `arg0`, `env_clear`, the standard streams, `pre_exec` hooks, and what
    /// `CommandExt` set.
    fn from(std: std::process::Command) -> Command {
        let mut command = Command::new(std.get_program());
        command.args(std.get_args());
        command.environment.changes =
            std.get_envs().map(|(key, value)| (key.to_owned(), value.map(OsStr::to_owned))).collect();
        command.directory = std.get_current_dir().map(Path::to_owned);
        command
    }
}
