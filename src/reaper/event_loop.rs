//! The loop itself, and how the rest of the crate reaches it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::children::Children;
use super::registry::{Registry, Token, Watched};
use super::timers::Timers;
use crate::callbacks::Callbacks;
use crate::panics;
use crate::sys;
use crate::sys::event::{Bell, Interest, Poller};
use crate::sys::locked;
use crate::sys::sigchld::Flag;

/// Someone whom the reaper tells of events. Called on the reaper's thread with no lock held: it
/// must not block, nor call anything that the user wrote.
pub(crate) trait Watcher: Send + Sync {
    /// The descriptor registered under `key` is ready, or its other end is gone.
    fn ready(self: Arc<Self>, key: u64);
    /// The deadline has passed.
    fn due(self: Arc<Self>, now: Instant);
    /// SIGCHLD: some child changed.
    fn look(self: Arc<Self>);
}

/// The event loop of this process.
pub(crate) struct Reaper {
    shared: OnceLock<Arc<Shared>>,
    ids: AtomicU64,
    /// Held while the thread is started, or a handler for SIGCHLD installed: true once that is there. Before all leaf locks.
    hears: Mutex<bool>,
}

struct Shared {
    poller: Poller,
    bell: Arc<Bell>,
    sigchld: Arc<Flag>,
    registry: Registry,
    timers: Timers<Arc<dyn Watcher>>,
    children: Children,
}

/// A process that is a fork of one that used the crate has none of its threads: it makes its own.
static REAPER: sys::PerProcess<Reaper> = sys::PerProcess::new();

/// No registration has this token.
const BELL: u64 = u64::MAX;

impl Reaper {
    /// The reaper of this process; its thread starts with the first registration.
    pub(crate) fn get() -> &'static Reaper {
        REAPER.get_or_init(|| Reaper { shared: OnceLock::new(), ids: AtomicU64::new(0), hears: Mutex::new(false) })
    }

    /// A number that no other watcher of this process has.
    pub(crate) fn new_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts the thread, if it is not there. Everything else here expects that this succeeded once.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        self.shared().map(drop)
    }

    pub(crate) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        watcher: Arc<dyn Watcher>,
        key: u64,
    ) -> io::Result<Token> {
        let shared = self.shared()?;
        let token = shared.registry.add(Watched { watcher, key });
        match shared.poller.add(fd, token.as_raw(), interest) {
            Ok(()) => Ok(token),
            Err(error) => {
                shared.registry.remove(token);
                Err(error)
            }
        }
    }

    /// Of a descriptor that is being watched.
    pub(crate) fn rewatch(&self, token: Token, fd: BorrowedFd<'_>, interest: Interest) {
        if let Ok(shared) = self.shared() {
            // It cannot fail for a descriptor that is registered: nothing is allocated.
            let _ = shared.poller.modify(fd, token.as_raw(), interest);
        }
    }

    /// Forgets a registration. To be called before the descriptor is closed: a copy of it that
    /// someone else holds would keep the kernel's entry alive.
    pub(crate) fn unwatch(&self, token: Token, fd: BorrowedFd<'_>) {
        if let Ok(shared) = self.shared() {
            // It fails only when the descriptor is not registered, which is what we want.
            let _ = shared.poller.remove(fd);
            shared.registry.remove(token);
        }
    }

    /// Moves a deadline of watcher `id` from `old` to `new`; without `old` it is one more.
    pub(crate) fn set_timer(
        &self,
        id: u64,
        old: Option<Instant>,
        new: Option<Instant>,
        watcher: &Arc<impl Watcher + 'static>,
    ) {
        let Ok(shared) = self.shared() else { return };
        let new = new.map(|at| (at, Arc::clone(watcher) as Arc<dyn Watcher>));
        if shared.timers.set(id, old, new) {
            shared.bell.ring();
        }
    }

    /// Listens to SIGCHLD from now on, for someone who wants to be told when a child stops or goes on, or when
    /// an orphan has ended that came to this program.
    ///
    /// Not before: nothing else needs it, and a handler costs every exit a wake-up of some thread of the program.
    pub(crate) fn hear_sigchld(&self) -> io::Result<()> {
        let shared = self.shared()?;
        let mut hears = locked(&self.hears);
        if !*hears {
            *hears = sys::sigchld::hear(Arc::clone(&shared.sigchld), Arc::clone(&shared.bell))?;
        }
        Ok(())
    }

    /// Has watcher `id` called at every SIGCHLD that is heard from now on.
    pub(crate) fn add_child(&self, id: u64, watcher: Arc<dyn Watcher>) {
        if let Ok(shared) = self.shared() {
            shared.children.add(id, watcher);
        }
    }

    pub(crate) fn remove_child(&self, id: u64) {
        if let Ok(shared) = self.shared() {
            shared.children.remove(id);
        }
    }

    fn shared(&self) -> io::Result<&Arc<Shared>> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared);
        }
        let _one_at_a_time = locked(&self.hears);
        if self.shared.get().is_none() {
            let _ = self.shared.set(start()?);
        }
        Ok(self.shared.get().expect("it was set just now, or by who held the lock before"))
    }
}

fn start() -> io::Result<Arc<Shared>> {
    let shared = Arc::new(Shared {
        poller: Poller::new()?,
        bell: Arc::new(Bell::new()?),
        sigchld: Arc::default(),
        registry: Registry::new(),
        timers: Timers::new(),
        children: Children::new(),
    });
    shared.poller.add(shared.bell.as_fd(), BELL, Interest::READ)?;
    let worker = Arc::clone(&shared);
    // The program's signal handlers have no business on this thread.
    let _blocked = sys::process::block_program_signals();
    sys::process::thread("pkit-reaper").spawn(move || worker.run())?;
    Ok(shared)
}

impl Shared {
    fn run(&self) {
        let mut tokens = Vec::new();
        loop {
            let round = self.children.next_round(&self.sigchld);
            let until = [self.timers.fall_asleep(), round].into_iter().flatten().min();
            let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
            if let Err(error) = self.poller.wait(&mut tokens, timeout) {
                // Only EBADF, EFAULT and EINVAL are left: our descriptors were closed by someone
                // else's bug. Children cannot be watched any more, and silence would be a lie.
                Callbacks::get().run(move || log::error!("the event loop of pkit cannot wait: {error}"));
                thread::park_timeout(Duration::from_secs(1));
            }
            for watcher in self.timers.wake_up(Instant::now()) {
                guarded(|| watcher.due(Instant::now()));
            }
            for token in tokens.drain(..) {
                if token == BELL {
                    self.bell.silence();
                } else if let Some(watched) = self.registry.get(Token::from_raw(token)) {
                    guarded(|| watched.watcher.ready(watched.key));
                }
            }
            guarded(|| self.children.round(&self.sigchld));
        }
    }
}

/// A panic there is a bug of ours; it shall not be the end of all supervision.
fn guarded(call: impl FnOnce()) {
    let complain = || log::error!("pkit: a panic on the thread `pkit-reaper`");
    panics::guarded(call, || Callbacks::get().run(complain));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Panics(Sender<()>);

    impl Watcher for Panics {
        fn ready(self: Arc<Self>, _key: u64) {}

        fn due(self: Arc<Self>, _now: Instant) {
            self.0.send(()).unwrap();
            panic!("a test of that");
        }

        fn look(self: Arc<Self>) {}
    }

    #[test]
    fn a_panic_is_not_the_end_of_it() {
        let (sender, receiver) = channel();
        let watcher = Arc::new(Panics(sender));
        let reaper = Reaper::get();
        reaper.ensure().unwrap();
        for _ in 0..2 {
            reaper.set_timer(reaper.new_id(), None, Some(Instant::now()), &watcher);
            receiver.recv().unwrap();
        }
    }
}
