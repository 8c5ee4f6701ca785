//! A child that reports the time of its first instruction.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// A program (`benches/beacon/beacon.c`) whose every copy sends its start and its pid to the socket held here.
#[derive(Debug)]
pub(crate) struct Beacon {
    socket: UnixDatagram,
    program: PathBuf,
    dir: TempDir,
}

impl Beacon {
    /// Compiles the program and binds its socket, both in a temporary directory that goes with this value.
    pub(crate) fn new() -> io::Result<Beacon> {
        let dir = tempfile::tempdir()?;
        let program = compile("benches/beacon/beacon.c", dir.path())?;
        let socket = UnixDatagram::bind(dir.path().join("socket"))?;
        Ok(Beacon { socket, program, dir })
    }

    /// The program and its arguments.
    pub(crate) fn command(&self) -> (PathBuf, Vec<OsString>) {
        (self.program.clone(), vec![self.dir.path().join("socket").into_os_string()])
    }

    /// The next report: the child's pid, and when it began to run, in nanoseconds of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there was none within `limit`.
    pub(crate) fn receive(&self, limit: Duration) -> io::Result<(u32, u64)> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut message = [0; 12];
        let length = self.socket.recv(&mut message)?;
        assert_eq!(length, message.len(), "a report has 12 bytes");
        let (ns, pid) = message.split_at(8);
        let ns = u64::from_ne_bytes(ns.try_into().expect("8 of the 12 bytes"));
        let pid = u32::from_ne_bytes(pid.try_into().expect("the other 4 bytes"));
        Ok((pid, ns))
    }
}

/// Compiles a C file of this package into `dir` and returns the program.
pub(crate) fn compile(source: &str, dir: &Path) -> io::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let program = dir.join(source.file_stem().expect("a source file has a name"));
    let status = Command::new("cc").args(["-O2", "-Wall", "-o"]).arg(&program).arg(&source).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("cc failed on {}", source.display())));
    }
    Ok(program)
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock that the beacon reads, which `Instant` does not tell.
pub(crate) fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours that outlives the call.
    #[allow(unsafe_code)]
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(result, 0, "every Linux has a monotonic clock");
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.expect("time since boot") * 1_000_000_000 + nanos.expect("less than a second")
}
