//! `Process`, the handle.

use std::fmt;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::builder::Builder;
use super::config::Config;
use super::core::Inner;
use super::events::{Events, Queue};
use super::state::{Event, State};
use super::status::Status;
use super::target::Target;
use crate::exit::Exit;
use crate::line::Output;

/// A process that can be started, stopped, waited for, and started again.
///
/// It is a handle: clones are the same process, every method takes `&self` and may be called from any thread at any
/// time, callbacks included. A `Process` that does not run is an empty hull, ready for the next start.
///
/// # Drop
///
/// The last handle dropped stops the process by its stop ladder, without waiting, unless it was
/// [detached](Process::detach). The crate goes on looking after the run until it is over.
///
/// # Signals and races
///
/// A signal never reaches a stranger: it goes through a pidfd. An exit is reported exactly once, whoever waits how
/// often; if another part of the program took its status, from what the kernel kept (6.15), else as
/// [`ExitReason::Lost`](crate::ExitReason::Lost).
///
/// # After a fork
///
/// In a process that `fork` copied from this one every method answers with an error
/// ([`Error::is_foreign`](crate::Error::is_foreign)) or as for a process that does not run, and dropping the handle
/// does nothing.
///
/// # Example
///
/// ```
/// use pkit::{Command, Process};
///
/// let process = Process::new(Command::new("sh").args(["-c", "exit 7"]));
/// for _ in 0..3 {
///     process.start(true)?;
///     assert_eq!(process.join()?.code(), Some(7));
/// }
/// # Ok::<(), pkit::Error>(())
/// ```
#[must_use = "the last handle dropped stops the process"]
pub struct Process {
    pub(super) inner: Arc<Inner>,
    /// A user's. One that is lent to a callback keeps nothing from being stopped.
    counted: bool,
}

impl Process {
    /// A process with every option at its default. Nothing is started. What is wrong with the target (a NUL in an
    /// argument, say) is told by the start.
    pub fn new(target: impl Into<Target>) -> Process {
        Process::from_config(Config::new(target.into()))
    }

    /// The options of a process; [`Builder::build`] makes it.
    pub fn builder(target: impl Into<Target>) -> Builder {
        Builder::new(target.into())
    }

    pub(super) fn from_config(config: Config) -> Process {
        Process::from_inner(&Inner::new(config))
    }

    pub(super) fn from_inner(inner: &Arc<Inner>) -> Process {
        inner.handles.fetch_add(1, Ordering::Relaxed);
        Process { inner: Arc::clone(inner), counted: true }
    }

    /// For a callback, for as long as that runs; a clone of it is a handle like any other.
    pub(super) fn lend(inner: &Arc<Inner>) -> Process {
        Process { inner: Arc::clone(inner), counted: false }
    }

    /// Everything about it at this moment, consistent in itself.
    pub fn status(&self) -> Status {
        self.inner.look_for_stops();
        match self.inner.lock_own() {
            Some(core) => self.inner.status(&core),
            None => Status::of_foreign(&self.inner.name),
        }
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.inner.look_for_stops();
        self.inner.lock_own().map_or(State::Idle, |core| core.machine.state())
    }

    /// Its pid while the leader lives; `None` from the moment its exit is known.
    pub fn pid(&self) -> Option<u32> {
        self.inner.lock_own()?.pid()
    }

    /// Names the leader of the run that is there, for who waits for its end beside something else.
    #[cfg(feature = "tasks")]
    pub(crate) fn leader(&self) -> Option<Arc<crate::sys::pidfd::Pidfd>> {
        Some(Arc::clone(&self.inner.lock_own()?.run.as_ref()?.leader.pidfd))
    }

    /// Whether a run is there: from the beginning of its start until nothing of it is left. A callback of its end may
    /// still be at work.
    pub fn is_alive(&self) -> bool {
        self.inner.lock_own().is_some_and(|core| core.machine.is_alive())
    }

    /// How the last finished run ended.
    pub fn exit(&self) -> Option<Exit> {
        self.inner.lock_own()?.exit.as_ref().map(|(_, exit)| exit.clone())
    }

    /// How often the restart policy started it or tried to, in all the time since it was built.
    pub fn restarts(&self) -> u64 {
        self.inner.lock_own().map_or(0, |core| core.machine.restarts())
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Our end of its piped stdin. It is handed out once for each run; `None` when it is not piped or was taken, by
    /// [`join`](Process::join) too, and after the end of the run.
    pub fn stdin(&self) -> Option<ChildStdin> {
        self.inner.lock_own()?.streams.stdin.take()
    }

    /// Our end of its piped stdout. It is handed out once for each run, also after the end of the run.
    pub fn stdout(&self) -> Option<ChildStdout> {
        self.inner.lock_own()?.streams.stdout.take()
    }

    /// Our end of its piped stderr. It is handed out once for each run, also after the end of the run.
    pub fn stderr(&self) -> Option<ChildStderr> {
        self.inner.lock_own()?.streams.stderr.take()
    }

    /// What is kept of the captured output of the current run, or else of the last one.
    ///
    /// It is complete, as far as its size allows, once [`join`](Process::join) has returned, and in `on_exit`; unless
    /// [`Exit::output_leaked`] says that somebody outside the run went on writing. Where nothing is
    /// [captured](crate::Builder::capture) it is empty.
    pub fn output(&self) -> Output {
        let core = self.inner.lock_own();
        core.map(|core| core.output.snapshot(self.inner.config.capture_size())).unwrap_or_default()
    }

    /// Lets it outlive its handles: the last one dropped does not stop it. Called before a start, that run outlives
    /// this program too.
    ///
    /// A run that is there already was bound to the life of this program when it was created, and no
    /// other process can undo that (`prctl(2)`, PR_SET_PDEATHSIG): for that it has to be built with
    /// [`outlive_parent`](Builder::outlive_parent).
    pub fn detach(&self) {
        if let Some(mut core) = self.inner.lock_own() {
            core.detached = true;
        }
    }

    /// Its events from now on.
    ///
    /// There is no call that waits for the first of several processes. To hear of all in one place let each have an
    /// `on_exit` that sends to one channel, as below, or read each subscription on a thread of its own (between two of those
    /// nothing but [`Event::at`](crate::Event) tells the order, nor between events and `on_line`). In async code
    /// take one [`exited`](Process::exited) of each and join or race them.
    ///
    /// # Example
    ///
    /// ```
    /// use pkit::{Command, Process};
    /// use std::sync::mpsc::channel;
    ///
    /// let (sender, ends) = channel();
    /// let mut processes = Vec::new();
    /// for program in ["true", "false"] {
    ///     let sender = sender.clone();
    ///     let process = Process::builder(Command::new(program))
    ///         .on_exit(move |process, exit| _ = sender.send((process.name().to_owned(), exit.clone())))
    ///         .build()?;
    ///     process.start(true)?;
    ///     processes.push(process); // dropped, it would be stopped
    /// }
    /// for (name, exit) in ends.iter().take(2) {
    ///     println!("{name}: {exit}"); // in the order in which they end
    /// }
    /// # Ok::<(), pkit::Error>(())
    /// ```
    pub fn subscribe(&self) -> Events {
        let events = Events::new();
        self.inner.watch_for_stops();
        match self.inner.lock_own() {
            Some(mut core) => core.add_subscriber(events.queue(), false),
            None => drop(events.queue().end()),
        }
        events
    }

    /// Its events go there as well, where those of others go.
    pub(crate) fn tell(&self, queue: &Arc<Queue>) {
        self.inner.watch_for_stops();
        if let Some(mut core) = self.inner.lock_own() {
            core.add_subscriber(queue, true);
        }
    }
}

impl Clone for Process {
    fn clone(&self) -> Process {
        Process::from_inner(&self.inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.inner.is_foreign() {
            // In a fork of our program the descriptors inside are closed, and their numbers others': nothing of it is
            // dropped.
            std::mem::forget(Arc::clone(&self.inner));
            return;
        }
        if self.counted && self.inner.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.inner.turn(|turn| {
                // A callback may have made a handle of the one that it was lent.
                let is_last = self.inner.handles.load(Ordering::Acquire) == 0;
                if is_last && !turn.core.detached {
                    turn.request(Event::Stop);
                }
            });
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Process");
        out.field("name", &self.inner.name);
        if !self.inner.is_foreign() {
            let status = self.status();
            out.field("state", &status.state).field("pid", &status.pid);
        }
        out.finish_non_exhaustive()
    }
}

impl fmt::Display for Process {
    /// Its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.inner.name)
    }
}
