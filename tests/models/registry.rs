//! Those who register and give up, and the reaper with an event in its hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::explore;
use code::{Registry, Token, Watched};
use event_loop::Watcher;

#[allow(dead_code)]
#[path = "../../src/reaper/registry.rs"]
mod code;

mod sync {
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

mod event_loop {
    /// What the model needs of the crate's trait of that name.
    pub(crate) trait Watcher: Send + Sync {
        fn ready(&self, key: u64);
    }
}

/// Accepts events of one key alone.
#[derive(Default)]
struct Owner {
    key: u64,
    told: AtomicU32,
}

impl Owner {
    fn new(key: u64) -> Arc<Owner> {
        Arc::new(Owner { key, told: AtomicU32::new(0) })
    }

    fn told(&self) -> u32 {
        self.told.load(Ordering::SeqCst)
    }
}

impl Watcher for Owner {
    fn ready(&self, key: u64) {
        assert_eq!(key, self.key, "an event of somebody else");
        self.told.fetch_add(1, Ordering::SeqCst);
    }
}

fn add(registry: &Registry, owner: &Arc<Owner>) -> Token {
    registry.add(Watched { watcher: Arc::clone(owner) as Arc<dyn Watcher>, key: owner.key })
}

/// What the reaper does with an event. Whether anybody was told.
fn deliver(registry: &Registry, raw: u64) -> bool {
    let found = registry.get(Token::from_raw(raw));
    found.map(|watched| watched.watcher.ready(watched.key)).is_some()
}

/// What epoll is to the reaper: events come in, one who waits takes them out.
struct Poller {
    events: Mutex<Vec<u64>>,
    arrived: Condvar,
}

impl Poller {
    fn new() -> Poller {
        Poller { events: Mutex::new(Vec::new()), arrived: Condvar::new() }
    }

    fn push(&self, token: Token) {
        self.events.lock().unwrap().push(token.as_raw());
        self.arrived.notify_one();
    }

    fn wait(&self) -> u64 {
        let mut events = self.events.lock().unwrap();
        loop {
            match events.pop() {
                Some(event) => return event,
                None => events = self.arrived.wait(events).unwrap(),
            }
        }
    }
}

#[test]
fn who_is_registered_is_told() {
    explore(3, || {
        let shared = Arc::new((Registry::new(), Poller::new()));
        let owners = [Owner::new(1), Owner::new(2)];
        // Each registers and is ready at once, as a child that ended before it was watched.
        let threads = owners.clone().map(|owner| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.1.push(add(&shared.0, &owner)))
        });
        for _ in &owners {
            assert!(deliver(&shared.0, shared.1.wait()), "an event was lost");
        }
        assert_eq!(owners.map(|owner| owner.told()), [1, 1]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_late_event_is_nobodys() {
    explore(3, || {
        let registry = Arc::new(Registry::new());
        let (old, new) = (Owner::new(1), Owner::new(2));
        let token = add(&registry, &old);
        // The reaper took the event out before, and comes to it now.
        let reaper = Arc::clone(&registry);
        let event = token.as_raw();
        let thread = thread::spawn(move || deliver(&reaper, event));
        registry.remove(token);
        // In the same slot, for there is no other.
        let next = add(&registry, &new);
        let told = thread.join().unwrap();
        assert_eq!((old.told(), new.told()), (u32::from(told), 0));
        assert!(!deliver(&registry, token.as_raw()), "it was given up");
        assert!(deliver(&registry, next.as_raw()));
        registry.remove(next);
        assert_eq!((Arc::strong_count(&old), Arc::strong_count(&new)), (1, 1), "a watcher was kept");
    });
}

#[test]
fn what_is_given_up_twice_is_free_once() {
    explore(3, || {
        let registry = Arc::new(Registry::new());
        let old = Owner::new(1);
        let token = add(&registry, &old);
        let again = |key| {
            let registry = Arc::clone(&registry);
            move || {
                registry.remove(token);
                let owner = Owner::new(key);
                let token = add(&registry, &owner);
                (owner, token)
            }
        };
        let thread = thread::spawn(again(2));
        let both = [again(3)(), thread.join().unwrap()];
        assert_ne!(both[0].1, both[1].1, "two have the same place");
        for (owner, token) in both {
            assert!(deliver(&registry, token.as_raw()));
            assert_eq!(owner.told(), 1);
        }
        assert_eq!(old.told(), 0);
    });
}

#[test]
fn a_watcher_may_register_as_it_goes() {
    /// Whose drop uses the registry, as that of a process may.
    struct Busybody(Arc<Registry>);
    impl Watcher for Busybody {
        fn ready(&self, _: u64) {}
    }
    impl Drop for Busybody {
        fn drop(&mut self) {
            let token = add(&self.0, &Owner::new(1));
            self.0.remove(token);
        }
    }
    explore(3, || {
        let registry = Arc::new(Registry::new());
        let watcher = Arc::new(Busybody(Arc::clone(&registry)));
        let token = registry.add(Watched { watcher, key: 0 });
        let reaper = Arc::clone(&registry);
        let event = token.as_raw();
        // Either of the two drops it: the registration is the last but for the event that is being told.
        let thread = thread::spawn(move || deliver(&reaper, event));
        registry.remove(token);
        thread.join().unwrap();
        assert_eq!(Arc::strong_count(&registry), 1, "the watcher is gone");
    });
}
