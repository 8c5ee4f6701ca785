//! The receiving end of a run's readiness.
//!
//! Channels that the child writes to (`notify`, `fd`, `line`) wake the reaper. What has to be tried (`tcp`, `unix`,
//! `file`, `check`) is tried after 1 ms, then twice as long each time, at most every 100 ms: `tcp` by the reaper
//! without waiting, the rest on a callback thread, since a file system (a path of a socket is looked up in one) or a closure may
//! block.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Process;
use super::readiness::{Kind, Ready};
use crate::sys;
use crate::sys::socket::Connecting;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Milliseconds that a machine may take to answer itself.
const AT_ONCE: u8 = 20;
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// How the current run will say that it is ready.
pub(super) enum Gate {
    /// It is ready already, or nothing is expected any more.
    Open,
    Notify(Notify),
    /// Our end; the child's end is there until the child has it.
    Fd {
        number: i32,
        read: OwnedFd,
        write: Option<OwnedFd>,
    },
    Line(Arc<str>),
    Try {
        probe: Probe,
        pause: Duration,
    },
}

pub(super) struct Notify {
    pub(super) socket: Arc<OwnedFd>,
    name: Vec<u8>,
    watchdog: Option<Duration>,
}

#[derive(Clone)]
pub(super) enum Probe {
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
    File { path: PathBuf, before: Option<Stamp> },
    Check(Arc<dyn Fn(&Process) -> bool + Send + Sync>),
}

/// Which file it is, and when it was last written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Gate {
    /// Makes the channels, before the child is created. `alone`: nobody but the child is to answer for it.
    pub(super) fn open(ready: &Ready, alone: bool) -> io::Result<Gate> {
        let probe = match &ready.kind {
            Kind::Spawned => return Ok(Gate::Open),
            Kind::Notify => {
                let (socket, name) = sys::socket::datagram_listener()?;
                return Ok(Gate::Notify(Notify { socket: Arc::new(socket), name, watchdog: ready.watchdog }));
            }
            Kind::Fd(number) => {
                let (read, write) = sys::fd::pipe()?;
                sys::fd::set_nonblocking(read.as_fd(), true)?;
                return Ok(Gate::Fd { number: *number, read, write: Some(write) });
            }
            Kind::Line(text) => return Ok(Gate::Line(Arc::clone(text))),
            Kind::Tcp(address) => Probe::Tcp(address.to_socket_addrs().map_err(unresolved)?.collect()),
            Kind::Unix(path) => Probe::Unix(path.clone()),
            Kind::File(path) => Probe::File { path: path.clone(), before: identity(path) },
            Kind::Check(check) => Probe::Check(Arc::clone(check)),
        };
        if alone && probe.is_answered() {
            // Whoever that is, it would be taken for the one that is about to start.
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        Ok(Gate::Try { probe, pause: FIRST_PAUSE })
    }

    /// What the child finds in its environment.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let Gate::Notify(notify) = self else { return Vec::new() };
        // An abstract socket is written with an @ for its leading NUL (sd_notify(3)). The kernel's names are hex
        // digits.
        let mut variables = vec![("NOTIFY_SOCKET", format!("@{}", String::from_utf8_lossy(&notify.name)))];
        if let Some(interval) = notify.watchdog {
            variables.push(("WATCHDOG_USEC", interval.as_micros().to_string()));
        }
        variables
    }

    pub(super) fn passed(&self) -> Option<(RawFd, i32)> {
        match self {
            Gate::Fd { number, write: Some(write), .. } => Some((write.as_raw_fd(), *number)),
            Gate::Fd { write: None, .. } | Gate::Open | Gate::Notify(_) | Gate::Line(_) | Gate::Try { .. } => None,
        }
    }

    /// The child has its ends now: ours of them are closed.
    pub(super) fn started(self) -> Gate {
        match self {
            Gate::Fd { number, read, .. } => Gate::Fd { number, read, write: None },
            other => other,
        }
    }

    /// What the reaper has to watch.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Gate::Notify(notify) => Some(notify.socket.as_fd()),
            Gate::Fd { read, .. } => Some(read.as_fd()),
            Gate::Open | Gate::Line(_) | Gate::Try { .. } => None,
        }
    }

    /// When to try next, each time later.
    pub(super) fn next_try(&mut self, now: Instant) -> Option<Instant> {
        let Gate::Try { pause, .. } = self else { return None };
        let at = now + *pause;
        *pause = (*pause * 2).min(LAST_PAUSE);
        Some(at)
    }
}

impl Probe {
    /// Begins to connect, to all addresses that there are but those for which `is_pending`. For the kinds that connect.
    pub(super) fn connect(&self, is_pending: impl Fn(usize) -> bool) -> Attempts {
        let attempts: Vec<_> = match self {
            Probe::Tcp(addresses) => {
                let others = addresses.iter().enumerate().filter(|(index, _)| !is_pending(*index));
                others.map(|(index, address)| (index, sys::socket::connect_tcp(address))).collect()
            }
            Probe::Unix(path) => vec![(0, sys::socket::connect_unix(path))],
            Probe::File { .. } | Probe::Check(_) => Vec::new(),
        };
        let mut pending = Vec::new();
        for (index, attempt) in attempts {
            match attempt {
                Ok(Connecting::Done) => return Attempts::Accepted,
                Ok(Connecting::Pending(fd)) => pending.push((index, fd)),
                Err(_) => {}
            }
        }
        Attempts::Pending(pending)
    }

    /// Whether somebody accepts connections already, and says so at once: on this machine, that is.
    fn is_answered(&self) -> bool {
        match self.connect(|_| false) {
            Attempts::Accepted => true,
            Attempts::Pending(attempts) => attempts.iter().any(|(_, fd)| {
                sys::event::is_writable_within(fd.as_fd(), AT_ONCE) && sys::socket::connected(fd.as_fd()).is_ok()
            }),
        }
    }

    /// The kinds that may block.
    pub(super) fn passes(&self, process: &Process) -> bool {
        match self {
            Probe::File { path, before } => identity(path).is_some_and(|now| Some(now) != *before),
            Probe::Check(check) => check(process),
            Probe::Unix(_) => matches!(self.connect(|_| false), Attempts::Accepted),
            Probe::Tcp(_) => false,
        }
    }
}

/// What became of attempts to connect.
pub(super) enum Attempts {
    Accepted,
    /// These may be, or none; each with the index of its address.
    Pending(Vec<(usize, OwnedFd)>),
}

/// A name that cannot be looked up now may be known again soon: no errno says so.
fn unresolved(error: io::Error) -> io::Error {
    let is_told = error.raw_os_error().is_some() || error.kind() == io::ErrorKind::InvalidInput;
    if is_told { error } else { io::Error::new(io::ErrorKind::HostUnreachable, error) }
}

fn identity(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    Some(Stamp { device: metadata.dev(), inode: metadata.ino(), modified, size: metadata.size() })
}
