//! Everything that the owner of a process decided, as data.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::command::EnvironmentChanges;
use super::containment::Containment;
use super::handle::Process;
use super::readiness::{self, Ready};
use super::resource::Resource;
use super::state::Rules;
use super::stdio::{self, Stdio};
use super::target::{self, Target};
use crate::exit::Exit;
use crate::line::Line;
use crate::policy::Restart;
use crate::signal::Signal;
use crate::stop::{Stop, Survivors};

/// The process group of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Group {
    /// It leads a group of its own: the default. Signals of the stop ladder go to the whole group, and the run is
    /// over when the group is empty.
    #[default]
    Own,
    /// It stays in the group of this program, as an interactive child must to read from the terminal. Only
    /// the child itself is signalled, and what it leaves behind is not ours to clear away.
    Inherit,
}

pub(super) type OnProcess = Arc<dyn Fn(&Process) + Send + Sync>;
pub(super) type OnExit = Arc<dyn Fn(&Process, &Exit) + Send + Sync>;
pub(super) type OnLine = Arc<dyn Fn(&Line) + Send + Sync>;

/// What is kept of each captured stream, unless said otherwise.
const CAPTURE: usize = 64 * 1024;
const READY_WITHIN: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_millis(100);
/// Long enough for a fork beside us to reach its exec, short enough for a caller not to notice.
const TEXT_BUSY: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) struct Config {
    pub(super) target: Target,
    pub(super) name: Option<String>,
    /// `None`: nobody has said anything.
    pub(super) restart: Option<Restart>,
    pub(super) stop: Stop,
    pub(super) survivors: Survivors,
    pub(super) ready: Ready,
    pub(super) ready_within: Duration,
    pub(super) drain: Duration,
    pub(super) calls: Calls,
    pub(super) stdin: Option<Stdio>,
    pub(super) stdout: Option<Stdio>,
    pub(super) stderr: Option<Stdio>,
    pub(super) capture: Option<usize>,
    pub(super) child: ChildOptions,
}

#[derive(Clone, Default)]
pub(super) struct Calls {
    pub(super) on_start: Option<OnProcess>,
    pub(super) on_ready: Option<OnProcess>,
    pub(super) on_exit: Option<OnExit>,
    pub(super) on_line: Option<OnLine>,
}

/// What the child is set up with before the program or function begins.
#[derive(Debug, Clone)]
pub(super) struct ChildOptions {
    pub(super) environment: EnvironmentChanges,
    pub(super) directory: Option<PathBuf>,
    pub(super) passed: Vec<(Arc<OwnedFd>, i32)>,
    pub(super) group: Group,
    pub(super) session: bool,
    pub(super) containment: Containment,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) groups: Option<Vec<u32>>,
    pub(super) user: Option<String>,
    pub(super) umask: Option<u32>,
    pub(super) nice: Option<i32>,
    pub(super) cores: Option<Vec<usize>>,
    pub(super) limits: Vec<(Resource, u64, u64)>,
    pub(super) no_new_privs: bool,
    pub(super) parent_death: Option<Signal>,
    pub(super) signal_mask: Vec<Signal>,
    pub(super) text_busy: Duration,
}

impl Default for ChildOptions {
    fn default() -> ChildOptions {
        ChildOptions {
            environment: EnvironmentChanges::default(),
            directory: None,
            passed: Vec::new(),
            group: Group::default(),
            session: false,
            containment: Containment::default(),
            uid: None,
            gid: None,
            groups: None,
            user: None,
            umask: None,
            nice: None,
            cores: None,
            limits: Vec::new(),
            no_new_privs: false,
            parent_death: Some(Signal::KILL),
            signal_mask: Vec::new(),
            text_busy: TEXT_BUSY,
        }
    }
}

impl Config {
    pub(super) fn new(target: Target) -> Config {
        Config {
            target,
            name: None,
            restart: None,
            stop: Stop::default(),
            survivors: Survivors::default(),
            ready: Ready::spawned(),
            ready_within: READY_WITHIN,
            drain: DRAIN,
            calls: Calls::default(),
            stdin: None,
            stdout: None,
            stderr: None,
            capture: None,
            child: ChildOptions::default(),
        }
    }

    pub(super) fn rules(&self) -> Rules {
        let at_once = matches!(self.ready.kind, readiness::Kind::Spawned);
        Rules {
            restart: self.restart(),
            stop: self.stop.clone(),
            survivors: self.survivors.clone(),
            ready_within: (!at_once).then_some(self.ready_within),
            watchdog: self.ready.watchdog,
            drain: self.drain,
            reports: self.calls.on_exit.is_some() || self.calls.on_line.is_some(),
        }
    }

    /// Whether a drop of it may run what the user wrote, or close what the user opened.
    pub(super) fn owns_what_is_the_users(&self) -> bool {
        let Calls { on_start, on_ready, on_exit, on_line } = &self.calls;
        let streams = match &self.target.0 {
            target::Kind::Command(command) => [&command.stdin, &command.stdout, &command.stderr],
            target::Kind::Code(_) => return true,
        };
        let mut streams = streams.into_iter().chain([&self.stdin, &self.stdout, &self.stderr]).flatten();
        on_start.is_some()
            || on_ready.is_some()
            || on_exit.is_some()
            || on_line.is_some()
            || matches!(self.ready.kind, readiness::Kind::Check(_))
            || !self.child.passed.is_empty()
            || streams.any(|stream| matches!(stream.0, stdio::Kind::Fd(_)))
    }

    /// It executes nothing.
    pub(super) fn is_code(&self) -> bool {
        matches!(self.target.0, target::Kind::Code(_))
    }

    /// Some of it may be there after this program, or after its run, and that is meant so.
    pub(super) fn outlives(&self, detached: bool) -> bool {
        detached || self.child.parent_death.is_none() || self.survivors.ladder().is_none()
    }

    /// Where the child begins; `None`: where this program is.
    pub(super) fn directory(&self) -> Option<&Path> {
        let of_command = match &self.target.0 {
            target::Kind::Command(command) => command.directory.as_deref(),
            target::Kind::Code(_) => None,
        };
        self.child.directory.as_deref().or(of_command)
    }

    /// What holds where nobody oversees it.
    pub(super) fn restart(&self) -> Restart {
        self.restart.clone().unwrap_or_default()
    }

    /// What the process is called.
    pub(super) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.target.default_name())
    }

    pub(super) fn capture_size(&self) -> usize {
        self.capture.unwrap_or(CAPTURE)
    }

    /// Where the three standard streams go, the builder's word before the command's before the default.
    pub(super) fn stdio(&self) -> [Stdio; 3] {
        let (stdin, stdout, stderr) = match &self.target.0 {
            target::Kind::Command(command) => (command.stdin.clone(), command.stdout.clone(), command.stderr.clone()),
            target::Kind::Code(_) => (None, None, None),
        };
        // Who asks for output without saying whose wants that of both.
        let wants_output = self.capture.is_some()
            || self.calls.on_line.is_some()
            || matches!(self.ready.kind, readiness::Kind::Line(_));
        let default = if wants_output { Stdio::captured() } else { Stdio::inherit() };
        [
            self.stdin.clone().or(stdin).unwrap_or_else(Stdio::null),
            self.stdout.clone().or(stdout).unwrap_or_else(|| default.clone()),
            self.stderr.clone().or(stderr).unwrap_or(default),
        ]
    }

    pub(super) fn captures_any(&self) -> bool {
        let [_, stdout, stderr] = self.stdio();
        [stdout, stderr].iter().any(|stream| matches!(stream.0, stdio::Kind::Captured))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("target", &self.target)
            .field("restart", &self.restart)
            .field("stop", &self.stop)
            .field("ready", &self.ready)
            .field("child", &self.child)
            .finish_non_exhaustive()
    }
}
