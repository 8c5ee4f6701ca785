//! Programs that are being written (ETXTBSY).

use std::fs::{self, File};
use std::time::{Duration, Instant};

use pkit::{Command, Process};

use super::{refused, works};
use crate::support::{LONG, children, eventually, tests};

/// A copy of a program, and a writer of it.
fn busy() -> (tempfile::TempDir, Command, File) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tool");
    fs::copy("/bin/true", &path).unwrap();
    let writer = File::options().append(true).open(&path).unwrap();
    (dir, Command::new(path), writer)
}

tests! {
    fn a_program_that_is_being_written_is_refused_in_the_end() {
        let (dir, command, writer) = busy();
        for limit in [Duration::ZERO, Duration::from_millis(30)] {
            let process = Process::builder(command.clone()).retry_text_busy(limit).build().unwrap();
            let began = Instant::now();
            let error = refused(&process);
            assert!(began.elapsed() >= limit);
            let path = dir.path().join("tool");
            let text = format!("cannot start `tool`: execute `{}`: Text file busy (os error 26)", path.display());
            assert_eq!((error.to_string(), error.raw_os_error()), (text, Some(libc::ETXTBSY)));
        }
        drop(writer);
        works(&Process::builder(command).retry_text_busy(Duration::ZERO).build().unwrap());
    }

    fn the_start_succeeds_when_the_writer_closes() {
        let (_dir, command, writer) = busy();
        let process = Process::builder(command).retry_text_busy(LONG).build().unwrap();
        std::thread::scope(|scope| {
            let start = scope.spawn(|| process.start(true));
            // Each attempt has a child, for the moment until its exec fails.
            for _ in 0..3 {
                eventually("an attempt is under way", || !children().is_empty());
                eventually("it failed", || children().is_empty());
            }
            assert!(!start.is_finished());
            drop(writer);
            start.join().unwrap().unwrap();
        });
        assert!(process.join().unwrap().success());
    }
}
