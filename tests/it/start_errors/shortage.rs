//! Descriptors, processes or memory have run out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::resource::Resource as Limit;
use pkit::{Backoff, Builder, Command, EventKind, Events, Process, Resource, Restart, Signal, State, Stdio};

use super::{refused, refused_with, targets, works};
use crate::forked::{forked, tell};
use crate::support::{
    LONG, children, eventually, is_root, limited, settle, sh, skipped, tests, wait_for, without_descriptors,
};

type Options = fn(Builder) -> Builder;

/// A cgroup that bounds the number of its processes, with this one in it.
struct PidsCgroup {
    directory: PathBuf,
}

impl PidsCgroup {
    fn enter() -> Option<PidsCgroup> {
        // Of version 1, or of 2 where the controller is handed down.
        let above = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        above.into_iter().find_map(|above| {
            let cgroup = PidsCgroup { directory: above.join(format!("pkit-test-{}", std::process::id())) };
            fs::create_dir(&cgroup.directory).ok()?;
            let moved = cgroup.directory.join("pids.max").exists() && cgroup.write("cgroup.procs", "0").is_ok();
            moved.then_some(cgroup)
        })
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).unwrap()
    }

    fn write(&self, file: &str, text: &str) -> std::io::Result<()> {
        fs::write(self.directory.join(file), text)
    }

    fn set_max(&self, max: &str) {
        self.write("pids.max", max).unwrap();
    }
}

impl Drop for PidsCgroup {
    fn drop(&mut self) {
        fs::write(self.directory.with_file_name("cgroup.procs"), "0").unwrap();
        eventually("the cgroup is empty", || fs::remove_dir(&self.directory).is_ok());
    }
}

/// A user whom nobody else is: limits of processes count all of a user's.
fn a_user() -> u32 {
    1_000_000 + std::process::id()
}

fn as_user(user: u32, command: Command) -> Builder {
    Process::builder(command).uid(user).gid(user)
}

/// Two processes of that user. With a limit of one, the kernel notes at the change of user that a third is too many, and
/// refuses its exec (execve(2)).
fn others(user: u32) -> [Process; 2] {
    [(); 2].map(|()| {
        let other = as_user(user, Command::new("sleep").arg("1000").clone()).build().unwrap();
        other.start(true).unwrap();
        other
    })
}

/// Two crashes would use it up: a shortage is none.
fn patient() -> Restart {
    Restart::on_failure().backoff(Backoff::fixed(Duration::from_millis(5))).limit(2, LONG)
}

/// Several starts fail for this reason, with a pause before each next.
fn expect_shortage(events: &mut Events, errno: i32) {
    let (mut failed, mut backed_off) = (0, 0);
    while failed < 5 || backed_off < 5 {
        match events.next_timeout(LONG).unwrap().kind {
            EventKind::StartFailed(error) => {
                assert!(error.is_not_created() && error.raw_os_error() == Some(errno), "{error}");
                failed += 1;
            }
            EventKind::Backoff(_) => backed_off += 1,
            EventKind::Failed(why) => panic!("{why}"),
            _ => {}
        }
    }
}

/// Up to four stacks are kept for the next commands; one of them goes with each start that the kernel refuses.
fn use_up_the_spare_stacks() {
    let process = Process::builder(Command::new("true")).stdin(Stdio::inherit()).outlive_parent().build().unwrap();
    for _ in 0..4 {
        assert_eq!(without_descriptors(|| refused(&process)).raw_os_error(), Some(libc::EMFILE));
    }
}

tests! {
    fn descriptors_have_run_out() {
        let inherit = |b: Builder| b.stdin(Stdio::inherit());
        let steps: [(Options, &str); 4] = [
            (|b| b.stdin(Stdio::piped()), "open stdin"),
            (|b| b.stdin(Stdio::inherit()).stdout(Stdio::piped()), "open stdout"),
            (|b| b.stdin(Stdio::inherit()).stderr(Stdio::captured()), "open stderr"),
            (|b| b.stdin(Stdio::inherit()), "create the process"),
        ];
        for target in targets() {
            for (options, step) in steps {
                let process = options(Process::builder(target.clone()).name("it")).build().unwrap();
                let text = format!("cannot start `it`: {step}: Too many open files (os error 24)");
                // Everything below three is taken, and what is open stays so.
                without_descriptors(|| refused_with(&process, libc::EMFILE, &text));
                works(&process);
            }
            // One descriptor at a time more: whatever step it ends at, it tells, and leaks nothing.
            let free = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            let process = inherit(Process::builder(target).name("it")).capture(10).build().unwrap();
            for limit in 3..free + 12 {
                limited(Limit::RLIMIT_NOFILE, limit, || match process.start(true) {
                    Ok(_) => assert!(process.join().unwrap().success()),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}"),
                });
            }
            works(&process);
        }
    }

    fn a_policy_waits_until_there_are_descriptors() {
        let builder = Process::builder(sh("read line; exit 1")).stdin(Stdio::piped());
        let process = builder.restart(patient()).build().unwrap();
        process.start(true).unwrap();
        let mut events = process.subscribe();
        without_descriptors(|| {
            drop(process.stdin());
            if crate::OLD_KERNEL {
                // To know that the last run is over takes a look at /proc, and so descriptors: it is not taken for over.
                wait_for(&process, State::Stopping);
            } else {
                expect_shortage(&mut events, libc::EMFILE);
            }
        });
        process.wait_until(LONG, |status| status.state == State::Ready && status.error.is_none()).unwrap();
        process.terminate(true).unwrap();
    }

    fn processes_have_run_out_at_the_exec() {
        if !is_root() {
            skipped("only root may become another user");
            return;
        }
        let user = a_user();
        let others = others(user);
        let process = as_user(user, Command::new("/bin/true")).rlimit(Resource::Processes, 1, 1).build().unwrap();
        let text = "cannot start `true`: execute `/bin/true`: Resource temporarily unavailable (os error 11)";
        refused_with(&process, libc::EAGAIN, text);
        drop(others);
        eventually("the others are gone", || children().is_empty());
        works(&process);
    }

    fn a_policy_meeting_eagain_backs_off_and_recovers() {
        if !is_root() {
            skipped("only root may become another user");
            return;
        }
        let user = a_user();
        let builder = as_user(user, sh("read line; exit 1")).stdin(Stdio::piped());
        let process = builder.rlimit(Resource::Processes, 1, 1).restart(patient()).build().unwrap();
        process.start(true).unwrap();
        let mut events = process.subscribe();
        let others = others(user);
        drop(process.stdin());
        expect_shortage(&mut events, libc::EAGAIN);
        assert!(matches!(process.state(), State::Backoff | State::Starting));
        drop(others);
        process.wait_until(LONG, |status| status.state == State::Ready && status.error.is_none()).unwrap();
        process.terminate(true).unwrap();
    }

    fn a_stop_ends_the_tries() {
        if crate::OLD_KERNEL {
            return; // There are none without descriptors: see the test above.
        }
        let builder = Process::builder(sh("read line; exit 1")).stdin(Stdio::piped());
        let process = builder.restart(patient()).build().unwrap();
        process.start(true).unwrap();
        let mut events = process.subscribe();
        without_descriptors(|| {
            drop(process.stdin());
            expect_shortage(&mut events, libc::EMFILE);
            process.terminate(true).unwrap();
        });
        assert_eq!((process.state(), process.join().unwrap().code()), (State::Idle, Some(1)));
    }

    fn processes_have_run_out_in_the_cgroup() {
        let Some(cgroup) = PidsCgroup::enter() else {
            return skipped("this program may not make a cgroup that counts processes");
        };
        let text = "cannot start `it`: create the process: Resource temporarily unavailable (os error 11)";
        for target in targets() {
            // All threads are there.
            works(&Process::new(Command::new("true")));
            let process = Process::builder(target).name("it").build().unwrap();
            cgroup.set_max(&cgroup.read("pids.current"));
            (0..20).for_each(|_| refused_with(&process, libc::EAGAIN, text));
            cgroup.set_max("max");
            works(&process);
        }
    }

    fn a_restart_needs_no_more_than_the_place_of_the_last_run() {
        let Some(cgroup) = PidsCgroup::enter() else {
            return skipped("this program may not make a cgroup that counts processes");
        };
        for by_thread in [true, false] {
            let process = Process::builder(sh("exec sleep 1000")).restart(patient()).build().unwrap();
            let start = || process.start(true).unwrap();
            if by_thread {
                std::thread::scope(|scope| scope.spawn(start).join().unwrap());
            } else {
                start();
            }
            cgroup.set_max(&cgroup.read("pids.current"));
            process.signal(Signal::KILL).unwrap();
            process.wait_until(LONG, |status| status.state == State::Ready && status.restarts == 1).unwrap();
            cgroup.set_max("max");
            process.terminate(true).unwrap();
        }
    }

    fn processes_have_run_out_at_the_fork() {
        if !is_root() {
            skipped("only root may become another user");
            return;
        }
        // Threads count as well: with one task allowed, not even what looks after a child can start. On old kernels
        // that is a second thread, which asks whether a group is empty.
        let threads = if crate::OLD_KERNEL { 2 } else { 1 };
        for (allowed, step) in [(1, "start the threads that look after it"), (1 + threads, "create the process")] {
            let inner = forked(move || {
                let text = format!("cannot start `it`: {step}: Resource temporarily unavailable (os error 11)");
                if allowed > 1 {
                    // Once a start has succeeded, the threads are there, and it is known that the environment may be read.
                    limited(Limit::RLIMIT_NPROC, 10, || works(&Process::new(Command::new("true"))));
                }
                for target in targets().into_iter().take(allowed) {
                    let process = Process::builder(target).name("it").build().unwrap();
                    refused_with(&process, libc::EAGAIN, &text);
                    limited(Limit::RLIMIT_NPROC, 10, || works(&process));
                }
                tell("done");
                ExitCode::from(9)
            });
            let user = a_user();
            let builder = Process::builder(inner).uid(user).gid(user).rlimit(Resource::Processes, allowed as u64, 10);
            let process = builder.stdout(Stdio::captured()).build().unwrap();
            process.start(true).unwrap();
            assert_eq!(process.join().unwrap().code(), Some(9));
            assert_eq!(process.output().stdout_text(), "done");
        }
    }

    fn memory_has_run_out() {
        let text = "cannot start `it`: create the process: Cannot allocate memory (os error 12)";
        for target in targets() {
            // Created by this very thread: where there is no memory, std ends a program that starts another thread.
            let process = Process::builder(target).name("it").outlive_parent().build().unwrap();
            // No new mapping can be had; the stack of a command is one, and the page that a fork reports through.
            settle();
            use_up_the_spare_stacks();
            limited(Limit::RLIMIT_AS, 1 << 20, || refused_with(&process, libc::ENOMEM, text));
            works(&process);
        }
    }

    fn a_policy_meeting_enomem_backs_off_and_recovers() {
        let builder = Process::builder(sh("read line; exit 1")).stdin(Stdio::piped());
        let process = builder.restart(patient()).build().unwrap();
        process.start(true).unwrap();
        let mut events = process.subscribe();
        settle();
        use_up_the_spare_stacks();
        limited(Limit::RLIMIT_AS, 1 << 20, || {
            drop(process.stdin());
            expect_shortage(&mut events, libc::ENOMEM);
        });
        process.wait_until(LONG, |status| status.state == State::Ready && status.error.is_none()).unwrap();
        process.terminate(true).unwrap();
    }
}
