//! Starts that fail: every error names process, step and cause, nothing runs or is left, and the hull is as good as new.
//!
//! That no child, descriptor or thread stays behind is checked at the end of each test, as everywhere.

mod invalid;
mod programs;
mod shortage;
mod surroundings;
mod text_busy;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pkit::{Command, Error, Process, State, Target};

use crate::forked::forked;
use crate::support::children;

/// A command and a forked closure that end well at once.
fn targets() -> [Target; 2] {
    [Target::from(Command::new("true")), forked(|| ())]
}

/// A start that fails, and leaves a hull.
#[track_caller]
fn refused(process: &Process) -> Error {
    let generation = process.status().generation;
    let error = process.start(true).unwrap_err();
    assert!(error.is_not_created() && !error.is_running(), "{error}");
    // An option that `Process::new` could not refuse is invalid as well as a start that failed.
    assert!(!error.is_invalid() || error.raw_os_error().is_none(), "{error}");
    assert_eq!((error.process(), error.pid()), (process.name(), None));
    assert_eq!((process.pid(), process.exit(), process.is_alive()), (None, None, false));
    assert_eq!(process.state(), State::Idle);
    assert_eq!(process.status().generation, generation + 1);
    assert!(process.join().unwrap_err().is_never_started());
    process.terminate(true).unwrap();
    error
}

/// A start that fails with exactly this text and errno, twice.
#[track_caller]
fn refused_with(process: &Process, errno: i32, text: &str) {
    for _ in 0..2 {
        let error = refused(process);
        assert_eq!((error.to_string(), error.raw_os_error()), (text.to_owned(), Some(errno)));
        assert!(std::error::Error::source(&error).is_some());
    }
}

/// Nothing was left behind, and the hull is as good as new: it starts and ends well.
#[track_caller]
fn works(process: &Process) {
    assert_eq!(children(), []);
    process.start(true).unwrap();
    let exit = process.join().unwrap();
    assert!(exit.success(), "{exit}");
    assert!(process.status().error.is_none());
}

/// A file with these contents and this mode.
fn write(path: &Path, contents: &str, mode: u32) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
