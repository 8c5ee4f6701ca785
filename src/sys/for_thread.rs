//! A value that a thread has until its very end.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

/// For `thread_local!`. Others' destructors may use it at the end of a thread, since it has none itself: who puts something into it takes it out.
pub(crate) struct ForThread<T>(RefCell<ManuallyDrop<T>>);

impl<T> ForThread<T> {
    pub(crate) const fn new(value: T) -> ForThread<T> {
        ForThread(RefCell::new(ManuallyDrop::new(value)))
    }

    pub(crate) fn replace(&self, value: T) -> T {
        ManuallyDrop::into_inner(self.0.replace(ManuallyDrop::new(value)))
    }

    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        act(&mut self.0.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_when_others_are_destroyed() {
        thread_local! {
            static VALUE: ForThread<Option<String>> = const { ForThread::new(None) };
            static LAST: Last = const { Last };
        }
        struct Last;
        impl Drop for Last {
            fn drop(&mut self) {
                VALUE.with(|value| assert_eq!(value.replace(None), None));
            }
        }
        std::thread::spawn(|| {
            LAST.with(|_| ());
            VALUE.with(|value| value.replace(Some("kept".to_owned())));
            assert_eq!(VALUE.with(|value| value.with(Option::take)).as_deref(), Some("kept"));
        })
        .join()
        .unwrap();
    }
}
