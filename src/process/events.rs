//! What happened, told to whoever subscribed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use super::run::Run;
use super::turn::Turn;
use crate::error::Error;
use crate::exit::{Exit, Fault};
use crate::failure::Failure;
use crate::policy::GiveUp;
use crate::readable::Readable;
use crate::signal::Signal;
use crate::sys;
use crate::sys::locked;

/// How many events a subscriber may lag behind before it loses the oldest.
const CAPACITY: usize = 1024;

/// Something that happened to a process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// The name of the process.
    pub process: Arc<str>,
    /// Its pid, where it had one.
    pub pid: Option<u32>,
    /// What.
    pub kind: EventKind,
}

impl fmt::Display for Event {
    /// One aligned line: process, pid, what happened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.pid.map_or("-".to_owned(), |pid| pid.to_string());
        write!(f, "{:<12} {pid:>8}  {}", self.process, self.kind)
    }
}

/// What happened to a process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventKind {
    /// It was created.
    Started,
    /// It could not be created.
    StartFailed(Error),
    /// It is ready.
    Ready,
    /// It did not do what it should, and is being stopped.
    Fault(Fault),
    /// It says of itself (`STATUS=`).
    Text(String),
    /// It was stopped by a signal such as SIGSTOP.
    Paused,
    /// It goes on after [`EventKind::Paused`].
    Continued,
    /// Someone asked for its end while its leader lived; or it announced a stop, and did not come to its end.
    Stopping,
    /// Its leader ended and left processes behind, which are ended now.
    LeftBehind,
    /// It was sent a signal: by a ladder, [`Process::kill`](crate::Process::kill) or
    /// [`Process::signal`](crate::Process::signal).
    SignalSent(Signal),
    /// The run is over.
    Exited(Exit),
    /// It will be started again after this delay.
    Backoff(Duration),
    /// The restart policy gave up.
    Failed(GiveUp),
    /// Of a [`Supervisor`](crate::Supervisor): it has failed, and stops all of its children.
    SupervisorFailed(Failure),
    /// Of a supervisor: none of its children runs any more, and none is due.
    AllStopped,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventKind::Started => f.write_str("started"),
            EventKind::StartFailed(error) => error.fmt(f),
            EventKind::Ready => f.write_str("ready"),
            EventKind::Fault(fault) => fault.fmt(f),
            EventKind::Text(text) => write!(f, "says: {text}"),
            EventKind::Paused => f.write_str("paused"),
            EventKind::Continued => f.write_str("continued"),
            EventKind::Stopping => f.write_str("stopping"),
            EventKind::LeftBehind => f.write_str("ended, and left processes behind"),
            EventKind::SignalSent(signal) => write!(f, "sent {signal}"),
            EventKind::Exited(exit) => exit.fmt(f),
            EventKind::Backoff(delay) => write!(f, "next start in {}", Readable(*delay)),
            EventKind::Failed(why) => write!(f, "failed: {why}"),
            EventKind::SupervisorFailed(failure) => write!(f, "failed: {failure}"),
            EventKind::AllStopped => f.write_str("stopped"),
        }
    }
}

/// The events of a process from the moment of [`Process::subscribe`](crate::Process::subscribe) on.
///
/// As an iterator it blocks until the next event, and ends when the process is gone: its last handle was dropped and
/// its last run is over. In async code use [`poll_next`](Events::poll_next), whose face is that of a `Stream`.
///
/// It holds 1,024 events; a subscriber that lags further behind loses the oldest, and [`missed`](Events::missed) says
/// how many. No process waits for a subscriber.
///
/// # Drop
///
/// Dropped, it ends the subscription. It is no handle: it does not keep the process from being stopped.
///
/// # Example
///
/// As an iterator:
///
/// ```
/// use pkit::{Command, EventKind, Process};
///
/// let process = Process::new(Command::new("sh").args(["-c", "exit 3"]));
/// let events = process.subscribe(); // before the start, to see it all
/// process.start(true)?;
/// for event in events {
///     println!("{event}"); // `sh   28077  started`, `… ready`, `… exit code 3 after 2 ms`
///     if let EventKind::Exited(exit) = event.kind {
///         assert_eq!(exit.code(), Some(3));
///         break; // it would wait for the next run
///     }
/// }
/// # Ok::<(), pkit::Error>(())
/// ```
///
/// In async code (readiness alone is awaited by [`Process::ready`](crate::Process::ready)):
///
/// ```
/// use pkit::{Command, Process};
/// use std::future::poll_fn;
///
/// # smol::block_on(async {
/// let process = Process::new(Command::new("true"));
/// let mut events = process.subscribe();
/// process.start(false)?;
/// process.exited().await?;
/// drop(process); // so that the events end
/// while let Some(event) = poll_fn(|context| events.poll_next(context)).await {
///     println!("{event}");
/// }
/// # Ok::<(), pkit::Error>(())
/// # })?;
/// # Ok::<(), pkit::Error>(())
/// ```
///
/// In a fork of this program it has ended.
#[must_use = "dropped at once, it ends the subscription"]
pub struct Events {
    queue: Arc<Queue>,
    /// Of the program that subscribed.
    incarnation: u32,
}

#[derive(Default)]
pub(crate) struct Queue {
    /// Leaf lock: nothing else is taken while it is held.
    state: Mutex<Queued>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queued {
    events: VecDeque<Event>,
    missed: u64,
    ended: bool,
    waker: Option<Waker>,
}

impl Events {
    pub(crate) fn new() -> Events {
        Events { queue: Arc::default(), incarnation: sys::process::incarnation() }
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// In a fork the lock may be held by a thread that is not there, and nobody adds anything.
    fn own_queue(&self) -> Option<&Queue> {
        (self.incarnation == sys::process::incarnation()).then_some(&*self.queue)
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.own_queue()?.lock().events.pop_front()
    }

    /// The next event; `None` when none came within the limit, or none will ever.
    pub fn next_timeout(&mut self, limit: Duration) -> Option<Event> {
        self.own_queue()?.wait(Instant::now().checked_add(limit))
    }

    /// The next event, for async code: `Ready(None)` when none will ever come. One task waits at a time.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        // To clone or to drop a waker may run anything: not under our lock.
        let waker = context.waker().clone();
        let Some(queue) = self.own_queue() else { return Poll::Ready(None) };
        let mut state = queue.lock();
        let event = state.events.pop_front();
        if event.is_some() || state.ended {
            return Poll::Ready(event);
        }
        let old = state.waker.replace(waker);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// How many events were lost because this subscriber was too slow.
    pub fn missed(&self) -> u64 {
        self.own_queue().map_or(0, |queue| queue.lock().missed)
    }
}

impl Turn<'_> {
    pub(super) fn emit(&mut self, kind: EventKind) {
        self.emit_as(self.core.run.as_ref().map(Run::pid), kind);
    }

    pub(super) fn emit_as(&mut self, pid: Option<u32>, kind: EventKind) {
        if self.core.subscribers.is_empty() {
            return;
        }
        let event = Event { at: SystemTime::now(), process: Arc::clone(&self.inner.name), pid, kind };
        let (wakers, queues) = (&mut self.wakers, &mut self.queues);
        self.core.subscribers.retain(|subscriber| match subscriber.queue.upgrade() {
            Some(queue) => {
                wakers.extend(queue.push(event.clone()));
                queues.push(queue);
                true
            }
            None => false,
        });
    }
}

/// Who wants to hear of a process.
pub(crate) struct Subscriber {
    pub(crate) queue: Weak<Queue>,
    /// It hears of others as well: it does not end with this one.
    pub(crate) is_shared: bool,
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.own_queue()?.wait(None)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Queue {
    /// Adds an event. The waker is to be woken when no lock is held.
    pub(crate) fn push(&self, event: Event) -> Option<Waker> {
        let mut state = self.lock();
        if state.events.len() == CAPACITY {
            state.events.pop_front();
            state.missed += 1;
        }
        state.events.push_back(event);
        self.arrived.notify_all();
        state.waker.take()
    }

    pub(crate) fn end(&self) -> Option<Waker> {
        let mut state = self.lock();
        state.ended = true;
        self.arrived.notify_all();
        state.waker.take()
    }

    fn wait(&self, until: Option<Instant>) -> Option<Event> {
        let mut state = self.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                return Some(event);
            }
            if state.ended {
                return None;
            }
            state = match until {
                None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        locked(&self.state)
    }
}
