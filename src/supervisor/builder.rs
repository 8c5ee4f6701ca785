//! The options of a supervisor, and the check that they make sense.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::core::Inner;
use super::handle::Supervisor;
use super::kin::Kin;
use super::order::{self, Needs};
use super::run::Signals;
use super::strategy::{Intensity, Strategy};
use crate::error::{Error, Kind, Result, Who};
use crate::policy::Restart;
use crate::process::Builder;
use crate::signal::Signal;

/// A child of a [`Supervisor`]: a process that is to be, or another supervisor, and what it means to the others.
///
/// It is made from a process's [`Builder`] or from another [`Supervisor`], and every method that takes a child takes those as well.
///
/// # Example
///
/// ```
/// use pkit::{Child, Command, Process, Supervisor};
///
/// let metrics = Process::builder(Command::new("sleep").arg("1000")).name("metrics");
/// let stack = Supervisor::builder()
///     .child(Process::builder(Command::new("sleep").arg("1000")).name("service"))
///     .child(Child::from(metrics).optional()) // the service does not fail with it
///     .build()?;
/// # Ok::<(), pkit::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "it is nothing before a supervisor has it"]
pub struct Child {
    what: What,
    pub(super) is_optional: bool,
}

#[derive(Debug, Clone)]
enum What {
    Process(Box<Builder>),
    Supervisor(Supervisor),
}

impl Child {
    /// What happens to it concerns nobody else. Its restarts take nobody along and are not counted in the supervisor's
    /// [intensity](SupervisorBuilder::intensity); where it does not become ready, or is given up, the others go on without it, those too that
    /// come after it. (That is `Wants=` of systemd, where the default is `Requires=`.) It is stopped and started in its turn all the same.
    pub fn optional(mut self) -> Child {
        self.is_optional = true;
        self
    }

    fn name(&self) -> String {
        match &self.what {
            What::Process(builder) => builder.called(),
            What::Supervisor(supervisor) => supervisor.name().to_owned(),
        }
    }

    pub(super) fn kin(&self) -> Result<Kin> {
        Ok(match &self.what {
            What::Process(builder) => Kin::Process(Builder::clone(builder).build()?),
            What::Supervisor(supervisor) => Kin::Supervisor(supervisor.clone()),
        })
    }
}

impl From<Builder> for Child {
    fn from(process: Builder) -> Child {
        Child { what: What::Process(Box::new(process)), is_optional: false }
    }
}

impl From<Supervisor> for Child {
    /// It becomes a branch of a tree: started, stopped and, where it has failed, restarted by the other one
    /// ([`SupervisorBuilder::restart`]).
    fn from(supervisor: Supervisor) -> Child {
        Child { what: What::Supervisor(supervisor), is_optional: false }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("what", &self.what).field("is_optional", &self.is_optional).finish()
    }
}

/// The options of a [`Supervisor`]; from [`Supervisor::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct SupervisorBuilder {
    name: String,
    strategy: Strategy,
    children: Vec<(Child, Needs)>,
    rules: Rules,
}

/// What holds for it from its first start to its last.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) intensity: Option<Intensity>,
    pub(super) restart: Restart,
    pub(super) signals: Signals,
}

impl SupervisorBuilder {
    pub(super) fn new() -> SupervisorBuilder {
        let name = "supervisor".to_owned();
        let rules = Rules { intensity: None, restart: Restart::on_failure(), signals: Signals::default() };
        SupervisorBuilder { name, strategy: Strategy::default(), children: Vec::new(), rules }
    }

    /// What it is called in errors, events and logs; not empty. Default: `supervisor`.
    pub fn name(mut self, name: &str) -> SupervisorBuilder {
        name.clone_into(&mut self.name);
        self
    }

    /// What becomes of the others when a child is started again. Default: [`Strategy::OneForOne`].
    pub fn strategy(mut self, strategy: Strategy) -> SupervisorBuilder {
        self.strategy = strategy;
        self
    }

    /// At most so many restarts of all children together in any time of the length `within`, which is longer than zero; one more, and all are
    /// stopped, in order: the supervisor has failed. What is restarted for the sake of another one does not count, nor what is restarted by hand.
    ///
    /// Default: any number. Each child's own policy has a limit too (8 in 60 s, unless it says otherwise), and a child that its policy gives up
    /// makes the supervisor fail all the same. This one is for what goes wrong with several at once: choose it with their number in mind, since
    /// what one of them meets (a full disk, no memory) all may meet in the same moment. (Erlang/OTP: 1 within 5 s.)
    pub fn intensity(mut self, restarts: u32, within: Duration) -> SupervisorBuilder {
        self.rules.intensity = Some(Intensity { restarts, within });
        self
    }

    /// As a child of another one: whether, when and how often it is started again after it has failed. Default: [`Restart::on_failure`], with its limit of
    /// 8 in 60 s. Without a meaning for one that is nobody's child.
    pub fn restart(mut self, restart: Restart) -> SupervisorBuilder {
        self.rules.restart = restart;
        self
    }

    /// One more, which is started when all before it are ready, and stopped before them.
    ///
    /// A process whose builder does not say when it is restarted is restarted after every end: [`Restart::always`](crate::Restart::always). With
    /// [`on_failure`](crate::Restart::on_failure) it may also come to its end, with [`never`](crate::Restart::never) it is started once:
    /// those that come after it go on then. (OTP's permanent, transient and temporary.)
    pub fn child(mut self, child: impl Into<Child>) -> SupervisorBuilder {
        self.children.push((child.into(), Needs::All));
        self
    }

    /// One more, which is started when those of these names are ready, wherever they stand; with none at once. Those that do not need each
    /// other, directly or by others, are started side by side, and stopped so.
    pub fn child_after<N: Into<String>>(
        mut self,
        child: impl Into<Child>,
        after: impl IntoIterator<Item = N>,
    ) -> SupervisorBuilder {
        self.children.push((child.into(), Needs::These(after.into_iter().map(Into::into).collect())));
        self
    }

    /// What SIGHUP means while [`run`](Supervisor::run) does: by custom, to read the configuration again. It is called on a thread for callbacks, one at a time,
    /// and keeps nothing else waiting. Default: none, and SIGHUP stops as SIGTERM does.
    pub fn on_reload(mut self, call: impl Fn(&Supervisor) + Send + Sync + 'static) -> SupervisorBuilder {
        self.rules.signals.on_reload = Some(Arc::new(call));
        self
    }

    /// Passes a signal to this program on to children of these names, those that run, while [`run`](Supervisor::run) does. SIGTERM and SIGINT stop, and are not
    /// passed on; SIGHUP may be, and then it does not stop.
    pub fn forward<N: Into<String>>(mut self, signal: Signal, to: impl IntoIterator<Item = N>) -> SupervisorBuilder {
        self.rules.signals.forwarded.push((signal, to.into_iter().map(Into::into).collect()));
        self
    }

    /// Checks it all, and starts nothing.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`]: a name is empty, or two children have the same; one is to come after what is not there, or, by way of others, after
    /// itself; the time of the intensity is zero; a signal that cannot be passed on, or to whom; what is wrong with a child alone, under its own name.
    pub fn build(self) -> Result<Supervisor> {
        let who = || Who { name: self.name.as_str().into(), pid: None };
        let refuse = |problem: String| Error::new(who(), "build", Kind::Invalid(problem));
        if self.name.is_empty() {
            return Err(refuse("a supervisor needs a name that is not empty".to_owned()));
        }
        if self.rules.intensity.is_some_and(|intensity| intensity.restarts > 0 && intensity.within.is_zero()) {
            return Err(refuse(
                "an intensity within zero seconds never counts two restarts: give a longer time".to_owned(),
            ));
        }
        self.rules.restart.check().map_err(refuse)?;
        let named: Vec<_> = self.children.iter().map(|(child, needs)| (child.name(), needs.clone())).collect();
        let order = order::in_order(&named).map_err(refuse)?;
        self.check_forwarded().map_err(refuse)?;
        let name: Arc<str> = self.name.as_str().into();
        let inner = Inner::new(name, self.strategy, self.rules);
        for (number, needs) in order {
            inner.add(&self.children[number].0, |_| Ok(needs))?;
        }
        Ok(Supervisor::from_inner(&inner))
    }

    fn check_forwarded(&self) -> Result<(), String> {
        for (signal, names) in &self.rules.signals.forwarded {
            if matches!(*signal, Signal::TERM | Signal::INT) {
                return Err(format!("{signal} stops all children, in order: it is not passed on"));
            }
            let is_reserved = matches!(
                *signal,
                Signal::KILL | Signal::STOP | Signal::CHLD | Signal::SEGV | Signal::ILL | Signal::FPE | Signal::BUS
            );
            if is_reserved {
                return Err(format!("{signal} is nothing that a program can pass on"));
            }
            let is_there = |name: &String| self.children.iter().any(|(child, _)| child.name() == *name);
            if let Some(name) = names.iter().find(|name| !is_there(name)) {
                return Err(format!("{signal} is to be passed on to `{name}`, and there is no child of that name"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SupervisorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SupervisorBuilder { name, strategy, children, rules: Rules { intensity, restart, signals } } = self;
        let mut out = f.debug_struct("SupervisorBuilder");
        out.field("name", name).field("strategy", strategy).field("intensity", intensity).field("children", children);
        out.field("restart", restart);
        out.field("forwarded", &signals.forwarded).finish_non_exhaustive()
    }
}
