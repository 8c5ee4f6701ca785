//! The value that is made at first use, by several threads at once.
#![allow(unsafe_code, reason = "the file that is modelled belongs to `sys`")]

use std::cell::Cell;

use loom::thread;

use crate::explore;
use code::PerProcess;

#[path = "../../src/sys/per_process.rs"]
mod code;

/// An atomic of loom in place of a static one: those of `std` can be made at compile time, loom's cannot.
mod sync {
    use std::sync::OnceLock;

    use loom::sync::atomic::Ordering;

    pub(super) struct AtomicPtr<T> {
        initial: *mut T,
        atomic: OnceLock<loom::sync::atomic::AtomicPtr<T>>,
    }

    // SAFETY: as the atomic of `std`: the pointer is only handed around.
    unsafe impl<T> Send for AtomicPtr<T> {}
    // SAFETY: the same.
    unsafe impl<T> Sync for AtomicPtr<T> {}

    impl<T> AtomicPtr<T> {
        pub(super) const fn new(initial: *mut T) -> AtomicPtr<T> {
            AtomicPtr { initial, atomic: OnceLock::new() }
        }

        fn atomic(&self) -> &loom::sync::atomic::AtomicPtr<T> {
            self.atomic.get_or_init(|| loom::sync::atomic::AtomicPtr::new(self.initial))
        }

        pub(super) fn load(&self, order: Ordering) -> *mut T {
            self.atomic().load(order)
        }

        pub(super) fn compare_exchange(
            &self,
            old: *mut T,
            new: *mut T,
            success: Ordering,
            failure: Ordering,
        ) -> Result<*mut T, *mut T> {
            self.atomic().compare_exchange(old, new, success, failure)
        }
    }
}

/// The pid of the process in which a thread of the model is said to be.
mod process {
    pub(super) fn incarnation() -> u32 {
        super::PID.get()
    }
}

thread_local! {
    static PID: Cell<u32> = const { Cell::new(1) };
}

/// A value that loom watches: who reads it must have seen it being made.
struct Value(loom::cell::UnsafeCell<u32>);

// SAFETY: it is only read once it is made; that this holds is what the model is about.
unsafe impl Send for Value {}
// SAFETY: the same.
unsafe impl Sync for Value {}

fn read(value: &Value) -> u32 {
    // SAFETY: nobody writes after it was made.
    value.0.with(|value| unsafe { *value })
}

/// A forked child finds its parent's value, and three of its threads ask at once. Each would make a value of its own, of
/// which one wins. (A program that is no fork finds null, which is dealt with at the same place; a first access of
/// several threads at once is what loom's atomics cannot bear, as they are made then.)
#[test]
fn one_value_wins() {
    explore(3, || {
        let place: &'static PerProcess<Value> = Box::leak(Box::new(PerProcess::new()));
        let ask = move |own| read(place.get_or_init(|| Value(loom::cell::UnsafeCell::new(own))));
        PID.set(1);
        ask(1);
        PID.set(2);
        let others = [10, 20].map(|own| thread::spawn(move || ask(own)));
        let mine = ask(30);
        assert_ne!(mine, 1, "that is the parent's");
        for other in others {
            assert_eq!(other.join().unwrap(), mine, "two values");
        }
    });
}
