//! No option makes a command fork.
//!
//! Two witnesses: the C library's fork handlers, and the page faults that a copy of our page tables would bring us, whichever
//! call made it. A start that borrows our memory brings none.

#![allow(unsafe_code, reason = "fork handlers, and memory without huge pages, are to be had in no other way")]

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{UsageWho, getrusage};
use pkit::{Builder, Command, Containment, Group, Process, Ready, Resource, Signal, Stdio};

use crate::forked::forked;
use crate::support::{LONG, is_root, tests};

static FORKS: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

const PAGES: usize = 4096;

/// Memory of our own that a fork would have to share.
struct Memory(Vec<u8>, usize);

impl Memory {
    fn new() -> Memory {
        let page = usize::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap()).unwrap();
        let mut memory = Memory(vec![0; PAGES * page], page);
        // Glibc maps that much by itself, and its first page holds a header.
        let start = memory.0.as_mut_ptr().wrapping_add(page - 1).map_addr(|addr| addr & !(page - 1));
        // SAFETY: the pages lie in the vector, and the advice changes nothing of what is in them.
        let result = unsafe { libc::madvise(start.cast(), (PAGES - 2) * page, libc::MADV_NOHUGEPAGE) };
        assert_eq!(result, 0);
        memory.touch();
        memory
    }

    /// Writes to every page, and counts the page faults of that.
    fn touch(&mut self) -> usize {
        let before = faults();
        for index in (0..self.0.len()).step_by(self.1) {
            self.0[index] = self.0[index].wrapping_add(1);
        }
        std::hint::black_box(&mut self.0);
        faults() - before
    }
}

fn faults() -> usize {
    usize::try_from(getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults()).unwrap()
}

/// Runs it, and says how often that forked by either witness.
fn watched(builder: Builder, memory: &mut Memory) -> (usize, bool) {
    let process = builder.build().unwrap();
    memory.touch();
    let before = FORKS.load(Ordering::SeqCst);
    // It may end before the readiness check sees it.
    assert!(process.start(LONG).err().is_none_or(|error| error.is_ended()));
    let copied = memory.touch() > PAGES / 2;
    process.join().unwrap();
    (FORKS.load(Ordering::SeqCst) - before, copied)
}

type Choice = (&'static str, fn(Builder) -> Builder);

const UNPRIVILEGED: &[Choice] = &[
    ("none", |b| b),
    ("env", |b| b.env("A", "1").env_remove("B")),
    ("env_clear", |b| b.env_clear().env("PATH", "/usr/bin:/bin")),
    ("current_dir", |b| b.current_dir("/usr")),
    ("stdin", |b| b.stdin(Stdio::piped())),
    ("stdout", |b| b.stdout(Stdio::piped())),
    ("stderr", |b| b.stderr(Stdio::captured())),
    ("capture", |b| b.capture(100)),
    ("pass_fd", |b| b.pass_fd(File::open("/dev/null").unwrap().into(), 50)),
    ("group", |b| b.group(Group::Inherit)),
    ("session", |b| b.session(true)),
    ("contain", |b| b.contain(Containment::Tree)),
    ("umask", |b| b.umask(0o77)),
    ("nice", |b| b.nice(19)),
    ("cores", |b| b.cores((0..64).collect::<Vec<_>>())),
    ("rlimit", |b| b.rlimit(Resource::CpuTime, 100, 100)),
    ("memory_limit", |b| b.memory_limit(1 << 40)),
    ("no_new_privs", |b| b.no_new_privs(true)),
    ("on_parent_death", |b| b.on_parent_death(Signal::TERM)),
    ("outlive_parent", |b| b.outlive_parent()),
    ("signal_mask", |b| b.signal_mask([Signal::USR1])),
    ("retry_text_busy", |b| b.retry_text_busy(LONG)),
    ("ready", |b| b.ready(Ready::check(|_| true))),
    ("callbacks", |b| b.on_start(|_| ()).on_ready(|_| ()).on_exit(|_, _| ()).on_line(|_| ())),
];

const PRIVILEGED: &[Choice] = &[
    ("uid", |b| b.uid(12345)),
    ("gid", |b| b.gid(12345)),
    ("groups", |b| b.groups([1, 2])),
    ("user", |b| b.user("nobody")),
];

tests! {
    fn no_option_makes_a_command_fork() {
        // SAFETY: the handler only adds to an atomic, in the parent before each fork.
        let result = unsafe { libc::pthread_atfork(Some(count_fork), None, None) };
        assert_eq!(result, 0);
        let mut memory = Memory::new();
        // Both witnesses do see a fork.
        assert_eq!(watched(Process::builder(forked(|| ())), &mut memory), (1, true));
        let privileged = if is_root() { PRIVILEGED } else { &[] };
        let options = || UNPRIVILEGED.iter().chain(privileged);
        for (name, option) in options() {
            let builder = option(Process::builder(Command::new("true")));
            assert_eq!(watched(builder, &mut memory), (0, false), "{name}");
        }
        let together = options().filter(|(name, _)| !matches!(*name, "group" | "env_clear"));
        let builder = together.fold(Process::builder(Command::new("true")), |builder, (_, option)| option(builder));
        assert_eq!(watched(builder, &mut memory), (0, false), "all together");
        let builder = Process::builder(Command::new("true").arg0("x").env("A", "b").current_dir("/"));
        let process = builder.restart(pkit::Restart::always().backoff(pkit::Backoff::none()).limit(5, LONG)).build().unwrap();
        let before = FORKS.load(Ordering::SeqCst);
        process.start(true).unwrap();
        process.join().unwrap();
        assert_eq!((process.restarts(), FORKS.load(Ordering::SeqCst)), (5, before));
    }
}
