//! Threads and futures that wait for a state to change.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::explore;
use code::Monitor;

#[allow(dead_code)]
#[path = "../../src/process/monitor.rs"]
mod code;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

/// How far a process has come; `END` is the last.
type Step = u32;

const END: Step = 2;

/// The turns of a process: each changes something, the last makes it be over.
fn live(monitor: &Monitor<Step>) {
    for step in 1..=END {
        let mut state = monitor.lock();
        **state = step;
        monitor.release(state, true, step == END);
    }
}

fn with_a_life(wait: impl Fn(&Arc<Monitor<Step>>) + Send + Sync + 'static) {
    explore(3, move || {
        let monitor = Arc::new(Monitor::new(0));
        let other = Arc::clone(&monitor);
        let life = thread::spawn(move || live(&other));
        wait(&monitor);
        life.join().unwrap();
    });
}

fn end(step: &Step) -> Option<Step> {
    (*step == END).then_some(END)
}

fn exited(monitor: &Monitor<Step>, id: u64) -> impl Future<Output = Step> + '_ {
    std::future::poll_fn(move |context| monitor.poll(|| monitor.lock(), id, context.waker(), end))
}

/// The least runtime: a thread that polls when it is woken.
#[derive(Default)]
struct Sleeper {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

fn block_on<R>(future: impl Future<Output = R>) -> R {
    let mut future = pin!(future);
    let sleeper = Arc::new(Sleeper::default());
    let waker = Waker::from(Arc::clone(&sleeper));
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        let mut woken = sleeper.woken.lock().unwrap();
        while !*woken {
            woken = sleeper.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

#[test]
fn a_thread_sees_the_end() {
    with_a_life(|monitor| assert_eq!(monitor.wait(monitor.lock(), None, end), Some(END)));
}

#[test]
fn two_threads_see_the_end() {
    with_a_life(|monitor| {
        let other = Arc::clone(monitor);
        let second = thread::spawn(move || other.wait(other.lock(), None, end));
        assert_eq!(monitor.wait(monitor.lock(), None, end), Some(END));
        second.join().unwrap();
    });
}

#[test]
fn who_looks_without_the_lock_misses_no_turn() {
    with_a_life(|monitor| {
        let mut state = monitor.lock();
        loop {
            let (seen, turns) = (**state, state.turns());
            drop(state);
            // The caller's own code runs here.
            if seen == END {
                return;
            }
            let again = monitor.wait_past(monitor.lock(), turns, None);
            state = again.unwrap_or_else(|_| panic!("without a limit there is no end to the wait"));
        }
    });
}

#[test]
fn a_future_is_woken() {
    with_a_life(|monitor| assert_eq!(block_on(exited(monitor, 1)), END));
}

#[test]
fn two_futures_are_woken() {
    with_a_life(|monitor| {
        let other = Arc::clone(monitor);
        let second = thread::spawn(move || block_on(exited(&other, 2)));
        assert_eq!(block_on(exited(monitor, 1)), END);
        assert_eq!(second.join().unwrap(), END);
    });
}

#[test]
fn who_gave_up_is_forgotten_and_disturbs_nobody() {
    with_a_life(|monitor| {
        let counted = Arc::new(Silent);
        let waker = Waker::from(Arc::clone(&counted));
        let polled = monitor.poll(|| monitor.lock(), 1, &waker, end);
        // A second poll takes the place of the first.
        let again = monitor.poll(|| monitor.lock(), 1, &waker, end);
        assert!(polled == Poll::Pending || again == polled);
        monitor.forget(1);
        assert_eq!(Arc::strong_count(&counted), 2, "a waker was kept");
        assert_eq!(block_on(exited(monitor, 2)), END);
    });
}

/// Whom nobody needs to wake.
struct Silent;

impl Wake for Silent {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_waker_may_use_the_monitor() {
    struct Again(Arc<Monitor<Step>>);
    impl Wake for Again {
        fn wake(self: Arc<Self>) {
            assert_eq!(**self.0.lock(), END);
        }
    }
    impl Drop for Again {
        fn drop(&mut self) {
            drop(self.0.lock());
        }
    }
    with_a_life(|monitor| {
        // Each of these is dropped by the monitor: as replaced, as woken or as forgotten.
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(Again(Arc::clone(monitor))));
            let _ = monitor.poll(|| monitor.lock(), 1, &waker, end);
        }
        monitor.forget(1);
    });
}
