//! Who may touch something.

use crate::error::{Error, Kind, Who};
use crate::sys;
use crate::task::error::TaskError;

/// The process that made something. In a fork of it somebody may have locked that for ever, and what is shared with other processes is the
/// owner's to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    incarnation: u32,
    pid: u32,
}

impl Owner {
    pub(super) fn new() -> Owner {
        Owner { incarnation: sys::process::incarnation(), pid: sys::process::pid() }
    }

    pub(super) fn is_foreign(self) -> bool {
        self.incarnation != sys::process::incarnation()
    }

    /// # Errors
    /// This process is another one.
    pub(super) fn check(self, name: impl FnOnce() -> String, operation: &'static str) -> Result<(), TaskError> {
        if self.is_foreign() {
            let who = Who { name: name().into(), pid: None };
            return Err(TaskError::Start(Error::new(who, operation, Kind::Foreign { owner: self.pid })));
        }
        Ok(())
    }
}
