//! `Supervisor`, the handle.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::builder::{Child, SupervisorBuilder};
use super::core::{Core, Inner};
use super::kin::Kin;
use super::status::SupervisorStatus;
use super::strategy::Event;
use crate::callbacks::Callbacks;
use crate::error::{Kind, Result};
use crate::process::{Events, Process, State};
use crate::reaper::Reaper;
use crate::spawners::Spawners;
use crate::wait::Wait;

/// Processes that stay up: started in order, each when those that it needs are ready, restarted when they end, stopped in reverse order.
///
/// It is a handle: clones are the same supervisor, every method takes `&self` and may be called from any thread at any time. Its children are
/// [`Process`]es with all of their options; only it starts them.
///
/// Whether a child is started again, and when, its own [`Restart`](crate::Restart) policy decides. What becomes of the others then is the
/// [strategy](SupervisorBuilder::strategy) of the supervisor; when it is too much, its [intensity](SupervisorBuilder::intensity). A child that its policy
/// gives up makes the supervisor fail: it stops all, in order, and its [`status`](Supervisor::status) says why.
///
/// # Drop
///
/// The last handle dropped stops all children, in order, without waiting. A callback of a child that holds a handle keeps that from being the last:
/// then [`stop`](Supervisor::stop) is what ends it.
///
/// # After a fork
///
/// In a process that `fork` copied from this one every method answers with an error or as for a supervisor that does not run.
///
/// # Example
///
/// ```
/// use pkit::{Command, Process, Ready, Supervisor};
///
/// let service = |name: &str| {
///     let script = format!("echo {name} is up; exec sleep 1000");
///     Process::builder(Command::new("sh").args(["-c", &script])).name(name).ready(Ready::line("is up"))
/// };
/// let stack = Supervisor::builder()
///     .name("stack")
///     .child(service("db"))
///     .child_after(service("api"), ["db"])
///     .child_after(service("jobs"), ["db"]) // side by side with `api`
///     .build()?;
/// stack.start(true)?; // all are ready
/// println!("{}", stack.status());
/// stack.stop(true)?;
/// # Ok::<(), pkit::Error>(())
/// ```
#[must_use = "the last handle dropped stops its children"]
pub struct Supervisor {
    pub(super) inner: Arc<Inner>,
    /// A user's. One that is lent to a callback keeps nothing from being stopped.
    counted: bool,
}

impl Supervisor {
    /// The options of a supervisor; [`SupervisorBuilder::build`] makes it.
    pub fn builder() -> SupervisorBuilder {
        SupervisorBuilder::new()
    }

    pub(super) fn from_inner(inner: &Arc<Inner>) -> Supervisor {
        inner.handles.fetch_add(1, Ordering::Relaxed);
        Supervisor { inner: Arc::clone(inner), counted: true }
    }

    /// For a callback, for as long as that runs.
    pub(super) fn lend(inner: &Arc<Inner>) -> Supervisor {
        Supervisor { inner: Arc::clone(inner), counted: false }
    }

    /// Starts all children: each when those that it needs are ready, and the others side by side.
    ///
    /// `wait` is the caller's patience: `true` until all are ready, `false` not at all, a `Duration` at most so long. It has the same meaning whoever
    /// waits: a child that does not become ready makes the start fail. What was started by then is stopped, in reverse order, and only then this
    /// returns.
    ///
    /// # Errors
    ///
    /// - [`Error::is_running`](crate::Error::is_running): it was started and has not come to rest.
    /// - [`Error::is_supervised`](crate::Error::is_supervised): it is a child of another one, which alone starts it.
    /// - [`Error::failure`](crate::Error::failure): which child did not become ready, and why.
    /// - [`Error::is_stopped`](crate::Error::is_stopped): somebody stopped it before all were ready.
    /// - [`Error::is_timeout`](crate::Error::is_timeout): the patience passed. The start goes on.
    /// - [`Error::is_not_created`](crate::Error::is_not_created): a thread that it needs could not be started.
    pub fn start(&self, wait: impl Into<Wait>) -> Result<()> {
        const OPERATION: &str = "start";
        let inner = &self.inner;
        inner.check_owner(OPERATION)?;
        let patience = Patience::from(wait.into());
        inner.check_callback(OPERATION, patience)?;
        inner.prepare_threads()?;
        let start = inner.turn(|core| {
            if core.above.is_some() {
                return Err(inner.error(OPERATION, Kind::Overseen));
            }
            if !core.is_resting {
                return Err(inner.error(OPERATION, Kind::Running));
            }
            core.begin(inner);
            Ok(core.starts)
        })?;
        let outcome = |core: &Core| match core {
            Core { ups, .. } if *ups == start => Some(Ok(())),
            Core { starts, .. } if *starts > start => Some(Err(Kind::Stopped)),
            Core { is_resting: true, failure: Some(failure), .. } => Some(Err(Kind::Failed(failure.clone()))),
            Core { is_resting: true, failure: None, .. } => Some(Err(Kind::Stopped)),
            _ => None,
        };
        inner
            .wait(OPERATION, "not ready", patience, outcome)?
            .unwrap_or(Ok(()))
            .map_err(|kind| inner.error(OPERATION, kind))
    }

    /// Stops all children, each by its own stop ladder, when those that need it have ended; those that do not need each other side by side.
    ///
    /// With `true` it returns when all have ended and their callbacks have returned. What does not run is left alone.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`](crate::Error::is_timeout): they were not gone within the limit given. The stop goes on.
    pub fn stop(&self, wait: impl Into<Wait>) -> Result<()> {
        self.end(Event::Stop, "stop", wait.into())
    }

    /// SIGKILL to all children at once, with their groups or trees. Those that were not running are not started any more.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`](crate::Error::is_timeout): they were not gone within the limit given.
    pub fn kill(&self, wait: impl Into<Wait>) -> Result<()> {
        self.end(Event::Kill, "kill", wait.into())
    }

    fn end(&self, event: Event, operation: &'static str, wait: Wait) -> Result<()> {
        let inner = &self.inner;
        inner.check_owner(operation)?;
        let patience = Patience::from(wait);
        inner.check_callback(operation, patience)?;
        let start = inner.turn(|core| {
            core.feed(event);
            core.starts
        });
        let is_down = |core: &Core| (core.is_resting || core.starts > start).then_some(());
        inner.wait(operation, "not all are gone", patience, is_down).map(drop)
    }

    /// Waits until nothing of it runs and nothing will: it was stopped, or has failed. What it returns says why, and how each child ended.
    ///
    /// A supervisor whose children have all come to their end, as their policies wanted, is not at rest: more may be added, and it waits to be
    /// stopped.
    ///
    /// # Errors
    ///
    /// [`Error::is_never_started`](crate::Error::is_never_started).
    pub fn join(&self) -> Result<SupervisorStatus> {
        const OPERATION: &str = "join";
        let inner = &self.inner;
        inner.check_owner(OPERATION)?;
        inner.check_callback(OPERATION, Patience::Forever)?;
        let start = inner.core.lock().starts;
        if start == 0 {
            return Err(inner.error(OPERATION, Kind::NeverStarted));
        }
        let is_down = |core: &Core| (core.is_resting || core.starts > start).then_some(());
        inner.wait(OPERATION, "", Patience::Forever, is_down)?;
        Ok(self.status())
    }

    /// One more child, which is started when all that are there are ready. Before a start it waits for that.
    ///
    /// With `true` it returns when the child is ready. One that does not become so is removed again, and the others go on.
    ///
    /// # Errors
    ///
    /// - [`Error::is_invalid`](crate::Error::is_invalid): there is a child of that name already, or what is wrong with its options.
    /// - [`Error::failure`](crate::Error::failure): it did not become ready.
    /// - [`Error::is_stopped`](crate::Error::is_stopped), [`Error::is_timeout`](crate::Error::is_timeout): as for [`start`](Supervisor::start).
    pub fn add(&self, child: impl Into<Child>, wait: impl Into<Wait>) -> Result<()> {
        self.inner.add_running(&child.into(), None, wait.into())
    }

    /// The same, for one that needs those of these names and no others.
    ///
    /// # Errors
    ///
    /// Those of [`add`](Supervisor::add); [`Error::is_no_child`](crate::Error::is_no_child).
    pub fn add_after<N: Into<String>>(
        &self,
        child: impl Into<Child>,
        after: impl IntoIterator<Item = N>,
        wait: impl Into<Wait>,
    ) -> Result<()> {
        self.inner.add_running(&child.into(), Some(after.into_iter().map(Into::into).collect()), wait.into())
    }

    /// Stops a child, if it runs, and forgets it. The others go on.
    ///
    /// # Errors
    ///
    /// - [`Error::is_no_child`](crate::Error::is_no_child).
    /// - [`Error::is_invalid`](crate::Error::is_invalid): another one comes after it, which is to be removed first.
    /// - [`Error::is_timeout`](crate::Error::is_timeout): it was not gone within the limit given.
    pub fn remove(&self, name: &str, wait: impl Into<Wait>) -> Result<()> {
        self.inner.remove(name, wait.into())
    }

    /// Stops a child by its ladder, and starts it, also one that has ended or was given up. The others go on, those too that need it. It does not count
    /// in the [intensity](SupervisorBuilder::intensity), and clears the memory of the child's policy.
    ///
    /// With `true` it returns when the child is ready.
    ///
    /// # Errors
    ///
    /// - [`Error::is_no_child`](crate::Error::is_no_child), [`Error::is_not_running`](crate::Error::is_not_running): the supervisor was not started.
    /// - [`Error::failure`](crate::Error::failure): it ended before it was ready. Its policy goes on.
    /// - [`Error::is_stopped`](crate::Error::is_stopped), [`Error::is_timeout`](crate::Error::is_timeout): as for [`start`](Supervisor::start).
    pub fn restart(&self, name: &str, wait: impl Into<Wait>) -> Result<()> {
        self.inner.restart(name, wait.into())
    }

    /// Restarts all children one by one, in the order of their start: the next when the last is ready. It ends with the first that does not become
    /// ready.
    ///
    /// # Errors
    ///
    /// Those of [`restart`](Supervisor::restart).
    pub fn rolling_restart(&self) -> Result<()> {
        self.inner.check_owner("restart")?;
        let names: Vec<String> = self.inner.core.lock().all().map(|(_, member)| member.kin.name().to_owned()).collect();
        names.iter().try_for_each(|name| self.inner.restart(name, Wait::Yes))
    }

    /// A child, to look at it, read its output, or send it signals. To stop it by hand leaves it down until it is [restarted](Supervisor::restart), by its
    /// name or with others by the strategy.
    pub fn process(&self, name: &str) -> Option<Process> {
        if self.inner.is_foreign() {
            return None;
        }
        let core = self.inner.core.lock();
        core.member(core.place_of(name)?)?.kin.process().cloned()
    }

    /// A child that is a supervisor.
    pub fn supervisor(&self, name: &str) -> Option<Supervisor> {
        if self.inner.is_foreign() {
            return None;
        }
        let core = self.inner.core.lock();
        match &core.member(core.place_of(name)?)?.kin {
            Kin::Supervisor(supervisor) => Some(supervisor.clone()),
            Kin::Process(_) => None,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// It and its children at this moment.
    pub fn status(&self) -> SupervisorStatus {
        let name = Arc::clone(&self.inner.name);
        if self.inner.is_foreign() {
            return SupervisorStatus { name, state: State::Idle, failure: None, children: Vec::new() };
        }
        let core = self.inner.core.lock();
        let (state, failure) = (core.state(), core.failure.clone());
        let all: Vec<_> = core.all().map(|(_, member)| member.kin.clone()).collect();
        drop(core);
        SupervisorStatus { name, state, failure, children: all.iter().map(Kin::status).collect() }
    }

    /// The events of all children from now on, of those too that are added later, and its own, in one stream: in the order in which they happened.
    pub fn subscribe(&self) -> Events {
        let events = Events::new();
        if self.inner.is_foreign() {
            drop(events.queue().end());
            return events;
        }
        self.inner.subscribe(events.queue(), false);
        events
    }
}

/// How long a caller waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    None,
    Until { at: Option<Instant>, limit: Duration },
    Forever,
}

impl From<Wait> for Patience {
    fn from(wait: Wait) -> Patience {
        match wait {
            Wait::No => Patience::None,
            Wait::Yes => Patience::Forever,
            Wait::For(limit) => Patience::Until { at: Instant::now().checked_add(limit), limit },
        }
    }
}

impl Inner {
    /// What `done` says once it does; `None`: the caller does not wait.
    pub(super) fn wait<T>(
        &self,
        operation: &'static str,
        missing: &'static str,
        patience: Patience,
        done: impl Fn(&Core) -> Option<T>,
    ) -> Result<Option<T>> {
        let (at, limit) = match patience {
            Patience::None => return Ok(None),
            Patience::Forever => (None, Duration::MAX),
            Patience::Until { at, limit } => (at, limit),
        };
        match self.core.wait(self.core.lock(), at, &done) {
            Some(answer) => Ok(Some(answer)),
            None => {
                let left = self.under_way();
                Err(self.error(operation, Kind::Late { missing, limit, left }))
            }
        }
    }

    /// Those that are on their way somewhere, for a person.
    fn under_way(&self) -> String {
        let core = self.core.lock();
        let names: Vec<_> = core.plan.under_way().filter_map(|place| Some(core.member(place)?.kin.name())).collect();
        match names[..] {
            [] => "nothing under way".to_owned(),
            [ref first @ .., last] if !first.is_empty() => format!("`{}` and `{last}` under way", first.join("`, `")),
            [last, ..] => format!("`{last}` under way"),
        }
    }

    /// Who waits in a callback of a child for what waits for that would wait for ever.
    pub(super) fn check_callback(&self, operation: &'static str, patience: Patience) -> Result<()> {
        if patience == Patience::None {
            return Ok(());
        }
        self.calling_here().map_or(Ok(()), |name| Err(self.error(operation, Kind::WithinCallback(name))))
    }

    /// Now, so that no child can be left without.
    fn prepare_threads(&self) -> Result<()> {
        let failed = |source| {
            self.error("start", Kind::Start { step: "start the threads that look after it".to_owned(), source })
        };
        Reaper::get().ensure().map_err(failed)?;
        Spawners::get().ensure_restarts().map_err(failed)?;
        Callbacks::get().ensure().map_err(failed)
    }
}

impl Clone for Supervisor {
    fn clone(&self) -> Supervisor {
        Supervisor::from_inner(&self.inner)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.inner.is_foreign() {
            // As for a process.
            std::mem::forget(Arc::clone(&self.inner));
            return;
        }
        if self.counted && self.inner.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner.turn(|core| core.feed(Event::Stop));
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Supervisor");
        out.field("name", &self.inner.name);
        if !self.inner.is_foreign() {
            out.field("state", &self.inner.core.lock().state());
        }
        out.finish_non_exhaustive()
    }
}
