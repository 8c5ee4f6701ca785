//! A supervisor as what a daemon's main thread does.

use std::sync::Arc;
use std::task::{Wake, Waker};

use super::core::{Core, Inner};
use super::handle::Supervisor;
use super::status::SupervisorStatus;
use super::strategy::Event;
use crate::error::{Kind, Result};
use crate::panics::guarded;
use crate::process::monitor;
use crate::signal::Signal;
use crate::sys::listener::{Listener, Nudge};

pub(super) type OnReload = Arc<dyn Fn(&Supervisor) + Send + Sync>;

/// What signals to this program mean to it.
#[derive(Clone, Default)]
pub(super) struct Signals {
    pub(super) on_reload: Option<OnReload>,
    /// To whom each is passed on.
    pub(super) forwarded: Vec<(Signal, Vec<String>)>,
}

struct LooksUp(Nudge);

impl Wake for LooksUp {
    fn wake(self: Arc<Self>) {
        self.0.nudge();
    }
}

impl Supervisor {
    /// Runs it on this thread, a daemon's main thread above all, until nothing of it runs any more. It is started if it was not.
    ///
    /// Meanwhile signals to this program mean:
    ///
    /// - SIGTERM, SIGINT: [`stop`](Supervisor::stop); another one of them: [`kill`](Supervisor::kill);
    /// - SIGHUP: the [reload callback](crate::SupervisorBuilder::on_reload); where there is none, the same as SIGTERM;
    /// - those that are [forwarded](crate::SupervisorBuilder::forward): as said there.
    ///
    /// Other handlers of these signals, in other threads, have their turn as well. When this has returned, and nobody else is inside, they do what they
    /// do by default (`signal(7)`): end the program. A program that handles signals itself uses [`start`](Supervisor::start),
    /// [`stop`](Supervisor::stop) and [`join`](Supervisor::join).
    ///
    /// What it returns is the end of each child.
    ///
    /// # Errors
    ///
    /// - [`Error::failure`](crate::Error::failure): it stopped by itself, and why.
    /// - [`Error::is_not_created`](crate::Error::is_not_created): signals cannot be listened to, or a thread that it needs was not started. Nothing runs.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use pkit::{Command, Process, Supervisor};
    ///
    /// fn main() -> Result<(), pkit::Error> {
    ///     let stack = Supervisor::builder()
    ///         .child(Process::builder(Command::new("redis-server")))
    ///         .child(Process::builder(Command::new("./api")))
    ///         .build()?;
    ///     println!("{}", stack.run()?);
    ///     Ok(())
    /// }
    /// ```
    pub fn run(&self) -> Result<SupervisorStatus> {
        const OPERATION: &str = "run";
        let inner = &self.inner;
        inner.check_owner(OPERATION)?;
        let failed = |source| inner.error(OPERATION, Kind::Start { step: "listen to signals".to_owned(), source });
        let forwarded = inner.signals.forwarded.iter().map(|(signal, _)| *signal);
        let mut signals: Vec<i32> =
            [Signal::TERM, Signal::INT, Signal::HUP].into_iter().chain(forwarded).map(Signal::as_raw).collect();
        signals.sort_unstable();
        signals.dedup();
        let listener = Listener::new(&signals).map_err(failed)?;
        match self.start(false) {
            Err(error) if error.is_running() => {}
            started => started?,
        }
        let (waker, id) = (Waker::from(Arc::new(LooksUp(listener.nudge()))), monitor::new_id());
        let is_down = |core: &Core| core.is_resting.then_some(());
        let mut was_asked = false;
        while inner.core.poll(|| inner.core.lock(), id, &waker, is_down).is_pending() {
            let heard = listener.next().inspect_err(|_| inner.core.forget(id)).map_err(failed)?;
            if let Some(signal) = Signal::from_raw(heard) {
                self.take(signal, &mut was_asked);
            }
        }
        let status = self.status();
        match &status.failure {
            Some(failure) => Err(inner.error(OPERATION, Kind::Failed(failure.clone()))),
            None => Ok(status),
        }
    }

    fn take(&self, signal: Signal, was_asked: &mut bool) {
        let Signals { on_reload, forwarded } = &self.inner.signals;
        let mut is_forwarded = false;
        for name in forwarded.iter().filter(|(of, _)| *of == signal).flat_map(|(_, names)| names) {
            is_forwarded = true;
            // It may not be running.
            let _ = self.process(name).map(|process| process.signal(signal));
        }
        match signal {
            Signal::HUP if on_reload.is_some() => self.inner.reload(),
            Signal::TERM | Signal::INT | Signal::HUP if !is_forwarded => {
                let event = if std::mem::replace(was_asked, true) { Event::Kill } else { Event::Stop };
                self.inner.turn(|core| core.feed(event));
            }
            _ => {}
        }
    }
}

impl Inner {
    /// One reload after the other, on a callback thread.
    fn reload(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.reloads.run(move || {
            if let Some(on_reload) = &inner.signals.on_reload {
                let call = || on_reload(&Supervisor::lend(&inner));
                guarded(call, || log::error!("the reload callback of `{}` panicked", inner.name));
            }
        });
    }
}
