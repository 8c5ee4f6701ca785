//! What a supervisor is made of: its plan, its children, and the one lock.
//!
//! The lock is held only to step the plan and to look. What the plan wants done waits in a queue; one thread at a time, whichever was there
//! first, takes it from there and does it with no lock held ([`working`](super::working)). So nothing is done in another order than it was
//! decided in, and no lock of a process is ever taken under this one, nor this one under that.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::above::Above;
use super::account::Member;
use super::builder::{Child, Rules};
use super::kin::Kin;
use super::run::Signals;
use super::strategy::{Action, Event, Intensity, Place, Plan, Strategy, Traits};
use crate::callbacks::{Callbacks, InOrder};
use crate::error::{Error, Kind, Result, Who};
use crate::failure::Failure;
use crate::policy::Restart;
use crate::process::monitor::{self, Monitor};
use crate::process::{Queue, State, Subscriber};
use crate::reaper::Reaper;
use crate::sys;
use crate::sys::locked;

pub(super) struct Inner {
    pub(super) name: Arc<str>,
    /// With the reaper.
    pub(super) id: u64,
    pub(super) intensity: Option<Intensity>,
    /// As a child of another one.
    pub(super) restart: Restart,
    pub(super) signals: Signals,
    /// Those that wait.
    pub(super) reloads: Arc<InOrder>,
    /// For the text of an error.
    owner_pid: u32,
    /// Of the program that may touch this one; a fork of it may not.
    incarnation: u32,
    pub(super) handles: AtomicUsize,
    /// Held by who adds a child, or subscribes: each child has all subscribers, and nobody else takes the next place. Before the core.
    pub(super) adding: Mutex<()>,
    pub(super) core: Monitor<Core>,
}

pub(super) struct Core {
    pub(super) plan: Plan,
    /// By their places in the plan.
    pub(super) members: Vec<Option<Member>>,
    /// What the plan wants done.
    pub(super) actions: VecDeque<Action>,
    /// Who has something to tell.
    pub(super) looks: VecDeque<Place>,
    /// Some thread is at both.
    pub(super) busy: bool,
    /// Nothing runs, and that was told.
    pub(super) is_resting: bool,
    /// How often it was started, and how often all of its children were ready then.
    pub(super) starts: u64,
    pub(super) ups: u64,
    pub(super) failure: Option<Failure>,
    /// So many wait for a single child.
    pub(super) watchers: usize,
    /// Until all are down, however many handles there are.
    pub(super) itself: Option<Arc<Inner>>,
    pub(super) subscribers: Vec<Subscriber>,
    /// Where it is a child.
    pub(super) above: Option<Above>,
}

impl Inner {
    pub(super) fn new(name: Arc<str>, strategy: Strategy, rules: Rules) -> Arc<Inner> {
        let Rules { intensity, restart, signals } = rules;
        let core = Core {
            plan: Plan::new(strategy, intensity),
            members: Vec::new(),
            actions: VecDeque::new(),
            looks: VecDeque::new(),
            busy: false,
            is_resting: true,
            starts: 0,
            ups: 0,
            failure: None,
            watchers: 0,
            itself: None,
            subscribers: Vec::new(),
            above: None,
        };
        Arc::new(Inner {
            name,
            id: Reaper::get().new_id(),
            intensity,
            restart,
            signals,
            reloads: Arc::default(),
            owner_pid: sys::process::pid(),
            incarnation: sys::process::incarnation(),
            handles: AtomicUsize::new(0),
            adding: Mutex::default(),
            core: Monitor::new(core),
        })
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.incarnation != sys::process::incarnation()
    }

    /// In a fork its lock may be held by a thread that is not there.
    pub(super) fn check_owner(&self, operation: &'static str) -> Result<()> {
        if self.is_foreign() { Err(self.error(operation, Kind::Foreign { owner: self.owner_pid })) } else { Ok(()) }
    }

    pub(super) fn error(&self, operation: &'static str, kind: Kind) -> Error {
        Error::new(Who { name: Arc::clone(&self.name), pid: None }, operation, kind)
    }

    /// Events of its children and its own go there as well. `is_shared`: those of others do, too.
    pub(super) fn subscribe(&self, queue: &Arc<Queue>, is_shared: bool) {
        let adding = locked(&self.adding);
        let mut core = self.core.lock();
        core.subscribers.retain(|subscriber| subscriber.queue.strong_count() > 0);
        core.subscribers.push(Subscriber { queue: Arc::downgrade(queue), is_shared });
        let all: Vec<_> = core.all().map(|(_, member)| member.kin.clone()).collect();
        drop(core);
        all.iter().for_each(|kin| kin.tell(queue));
        drop(adding);
    }

    /// The process in one of whose callbacks this thread is.
    pub(super) fn calling_here(&self) -> Option<Arc<str>> {
        let all: Vec<_> = self.core.lock().all().map(|(_, member)| member.kin.clone()).collect();
        all.iter().find_map(Kin::calling_here)
    }

    /// A thread of ours may hold it last: what the user's closures captured is dropped with it, elsewhere.
    pub(super) fn let_go(self: Arc<Self>) {
        if let Some(inner) = Arc::into_inner(self) {
            Callbacks::get().run(move || drop(inner));
        }
    }

    /// One more child, which is started with the others. `needs` says whom it needs, under the lock.
    pub(super) fn add(
        self: &Arc<Self>,
        child: &Child,
        needs: impl FnOnce(&Core) -> Result<Vec<Place>>,
    ) -> Result<Place> {
        let kin = child.kin()?;
        let adding = locked(&self.adding);
        let mut core = self.core.lock();
        if core.place_of(kin.name()).is_some() {
            let problem = format!("it has a child `{}` already", kin.name());
            return Err(self.error("add a child to", Kind::Invalid(problem)));
        }
        let (place, needs) = (core.members.len(), needs(&core)?);
        let queues = core.queues();
        drop(core);
        kin.put_under(self, place)?;
        queues.iter().for_each(|queue| kin.tell(queue));
        let traits = Traits { is_temporary: kin.is_temporary(), is_optional: child.is_optional };
        let mut core = self.core.lock();
        let planned = core.plan.add(needs, traits);
        debug_assert_eq!(planned, place);
        core.members.push(Some(Member::new(kin)));
        drop((core, adding));
        Ok(place)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In a fork all of it is the parent's.
        if self.is_foreign() {
            return;
        }
        let core = self.core.get_mut();
        let alone = core.subscribers.iter().filter(|subscriber| !subscriber.is_shared);
        let queues: Vec<_> = alone.filter_map(|subscriber| subscriber.queue.upgrade()).collect();
        queues.iter().filter_map(|queue| queue.end()).for_each(monitor::wake);
        // Who still has a handle of one may do with it what he likes.
        core.members.iter().flatten().for_each(|member| member.kin.set_free());
    }
}

impl Core {
    /// Something has happened, or is wanted; what follows waits to be done.
    pub(super) fn feed(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.plan.step(event, Instant::now(), &mut actions);
        self.actions.extend(actions);
    }

    pub(super) fn begin(&mut self, inner: &Arc<Inner>) {
        (self.is_resting, self.failure) = (false, None);
        self.itself = Some(Arc::clone(inner));
        self.starts += 1;
        self.members.iter_mut().flatten().for_each(|member| member.anew = true);
        self.feed(Event::Start);
    }

    /// Of all who subscribed.
    pub(super) fn queues(&mut self) -> Vec<Arc<Queue>> {
        self.subscribers.retain(|subscriber| subscriber.queue.strong_count() > 0);
        self.subscribers.iter().filter_map(|subscriber| subscriber.queue.upgrade()).collect()
    }

    pub(super) fn member(&self, place: Place) -> Option<&Member> {
        self.members.get(place)?.as_ref()
    }

    pub(super) fn member_mut(&mut self, place: Place) -> Option<&mut Member> {
        self.members.get_mut(place)?.as_mut()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Place, &Member)> {
        self.members.iter().enumerate().filter_map(|(place, member)| Some((place, member.as_ref()?)))
    }

    pub(super) fn place_of(&self, name: &str) -> Option<Place> {
        self.all().find(|(_, member)| member.kin.name() == name).map(|(place, _)| place)
    }

    pub(super) fn state(&self) -> State {
        match self.plan.phase() {
            _ if self.above.as_ref().is_some_and(Above::is_waiting) => State::Backoff,
            _ if self.is_resting && self.failure.is_some() => State::Failed,
            _ if self.is_resting => State::Idle,
            phase => phase.shown(),
        }
    }
}
