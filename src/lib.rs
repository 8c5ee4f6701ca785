//! Run, reuse and supervise processes on Linux.
//!
//! A [`Process`] is a handle to something that can be started, stopped, waited for and started again:
//!
//! ```
//! use pkit::{Command, Process};
//!
//! let server = Process::builder(Command::new("sleep").arg("1000")).name("server").build()?;
//! let pid = server.start(true)?; // returns when it is ready
//! assert_eq!(server.pid(), Some(pid));
//! server.terminate(true)?; // SIGTERM, after 10 s SIGKILL, to the whole group; returns when it is gone
//! assert_eq!(server.pid(), None); // an empty hull, ready for the next start
//! # Ok::<(), pkit::Error>(())
//! ```
//!
//! What it does for you, unless you say otherwise:
//!
//! - **Nothing is left behind** while your program lives. A run is over when its leader has ended *and* its process
//!   group is empty; the last handle dropped stops it; it inherits no descriptor by accident. The leader dies with your
//!   program, even if that is killed; processes that it started itself may live on.
//! - **Every exit is reported once, and truthfully**, beside other code that waits for children, whatever is done to
//!   SIGCHLD.
//! - **A start costs what a start costs**: it does not grow with your memory, as `fork` does, whichever options are
//!   set.
//! - **Restart policies** with back-off, jitter, a sliding window, and an end.
//!
//! Where to look: [`Builder`] for every option, [`Ready`] for readiness, [`Restart`] for policies, [`Stop`] for the
//! stop ladder, [`Exit`] for what is known of an end, [`Events`] for what happened, [`Exited`] for async code,
//! [`Pool`] for at most so many processes at once. For functions of your program in other processes: [`run`] and [`spawn`] for one call,
//! [`Worker`] for many, [`Remote`] for an object that stays there, [`Target::function`] for a process that is one.
//!
//! # Platform
//!
//! Linux 5.10 or newer, x86-64 and aarch64; `/proc` has to be mounted. Newer kernels are asked once what they have:
//! `PIDFD_SIGNAL_PROCESS_GROUP` (6.9) and `PIDFD_INFO_EXIT` (6.15) make it exact where older ones need a fallback.
//!
//! # Threads
//!
//! One thread, `pkit-reaper`, looks after all children; it starts with the first. Threads `pkit-spawn`, at most one for each
//! core (and one more where some of their callers are for real time or have a seccomp filter, and others do not), create processes for
//! threads that may end. A thread `pkit-restart` does the automatic
//! restarts. There are more of both only while they are held up (a dead file system, say, or a FIFO that nobody writes to), and none
//! of them ends.
//! Threads `pkit-callback` run callbacks, on demand, at most 32, and more for callbacks that have waited for 100 ms; one idle is kept.
//!
//! A child has the nice value, capabilities, seccomp filters and namespaces of the thread that creates it,
//! unless an option sets them: of the main thread for a start from there (and of the caller for a child that outlives
//! this program), else of `pkit-spawn` or `pkit-restart`, which have those of the thread that first needed them. Its affinity is its
//! caller's (if no seccomp filter might forbid that); after an automatic restart, that of `pkit-restart`.
//!
//! # The end of your program
//!
//! The last handle dropped begins the stop ladder and does not wait. When `main` returns right after it, the children
//! get SIGKILL from the kernel instead: call [`Process::terminate`] with `true` before.
//!
//! SIGTERM and Ctrl-C end a program that does not handle them, and its children with it, in the same way. A daemon waits
//! for them, here by the crate `signal-hook`, and then stops its processes side by side:
//!
//! ```
//! use pkit::{Command, Process};
//! use signal_hook::consts::{SIGINT, SIGTERM};
//! use signal_hook::iterator::Signals;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut signals = Signals::new([SIGTERM, SIGINT])?; // before the first start, so that none is missed
//!     let services = [(); 3].map(|()| Process::new(Command::new("sleep").arg("1000")));
//!     for service in &services {
//!         service.start(true)?;
//!     }
//! #   signal_hook::low_level::raise(SIGTERM)?;
//!     signals.forever().next();
//!     for service in &services {
//!         service.terminate(false)?; // all ladders begin at once,
//!     }
//!     for service in &services {
//!         service.terminate(true)?; // and each is waited for
//!     }
//!     Ok(())
//! }
//! ```

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("pkit is for 64-bit Linux: it is made of pidfds, epoll and clone");

mod callbacks;
mod error;
mod exit;
mod failure;
#[cfg(feature = "tasks")]
mod forkserver;
mod job;
mod line;
mod notify;
mod panics;
mod policy;
mod process;
mod readable;
mod ready;
mod reaper;
mod ring;
#[cfg(feature = "tasks")]
mod shared_bytes;
mod signal;
mod spawners;
mod stop;
mod supervisor;
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "tasks")]
mod task;
mod threads;
mod wait;

pub use error::{Error, Result};
pub use exit::{Exit, ExitReason, Fault, Usage};
pub use failure::Failure;
#[cfg(feature = "tasks")]
pub use forkserver::{Run, preload};
pub use job::{Execution, Pool, Slot, Slots};
pub use line::{Line, Output, Stream};
pub use policy::{Backoff, GiveUp, Restart};
pub use process::{
    BecomesReady, Builder, Command, Containment, ContainmentLevel, Event, EventKind, Events, Exited, Group, Process,
    Ready, Resource, RestartMode, State, Status, Stdio, Target,
};
pub use ready::ready;
#[cfg(feature = "tasks")]
pub use shared_bytes::SharedBytes;
pub use signal::{ParseSignalError, Signal};
pub use stop::{Stop, Survivors};
pub use supervisor::{Child, ChildStatus, Strategy, Supervisor, SupervisorBuilder, SupervisorStatus};
#[cfg(feature = "tasks")]
pub use task::{Remote, Task, TaskError, Worker, WorkerBuilder, cancelled, run, spawn, spawn_with};
pub use wait::Wait;

/// For this crate's own tests.
#[cfg(feature = "_testing")]
#[doc(hidden)]
pub mod testing {
    /// From now on this program does without group signals by pidfd, exit records and `clone3`.
    pub fn pretend_old_kernel() {
        crate::sys::pidfd::pretend_old_kernel();
        crate::sys::spawn::pretend_no_clone3();
    }

    /// From now on this program behaves as on a kernel of 6.9 to 6.14: with group signals by pidfd, without exit records.
    pub fn pretend_no_exit_info() {
        crate::sys::pidfd::pretend_no_exit_info();
    }

    /// Whether a group is signalled through its leader's pidfd.
    pub fn has_group_signal() -> bool {
        crate::sys::pidfd::features().group_signal
    }

    /// Whether the kernel is asked for the status that someone else took.
    pub fn has_exit_info() -> bool {
        crate::sys::pidfd::features().exit_info
    }

    /// Ends the fork server, if there is one, and waits for its end. The next function starts another.
    #[cfg(feature = "tasks")]
    pub fn end_fork_server() {
        crate::forkserver::end();
    }

    /// The pid of the fork server.
    #[cfg(feature = "tasks")]
    pub fn fork_server() -> Option<u32> {
        crate::forkserver::pid()
    }

    /// From now on this program can make no cgroup.
    pub fn pretend_no_cgroups() {
        crate::process::pretend_no_cgroups();
    }

    /// From now on cgroups have no `cgroup.kill`, as before 5.14.
    pub fn pretend_no_cgroup_kill() {
        crate::process::pretend_no_cgroup_kill();
    }
}

/// The examples of the README, run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
