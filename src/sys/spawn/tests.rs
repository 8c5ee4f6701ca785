//! Programs started for real.

use super::*;
use crate::sys::affinity;
use crate::sys::creator::Errand;
use crate::sys::fd::{is_open, pipe};
use crate::sys::fork::tests::in_fork;
use crate::sys::wait::{Change, Look, Waited, wait};
use std::io::Read;
use std::os::fd::AsRawFd;

pub(crate) fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// A plan for `/bin/sh -c script` with a plain PATH.
pub(crate) fn sh(script: &str) -> Plan {
    Plan {
        programs: vec![c("/bin/sh")],
        argv: vec![c("sh"), c("-c"), c(script)],
        envp: vec![c("PATH=/usr/bin:/bin")],
        setup: Setup::default(),
    }
}

pub(crate) fn spawn(plan: &Plan) -> Result<Child, Failure> {
    super::spawn(plan, Creator::Here)
}

/// Does nothing until it is killed.
pub(crate) fn endless() -> Plan {
    sh("exec sleep 1000000")
}

pub(crate) use crate::sys::event::wait_readable as readable;

/// Waits for the end and reaps.
pub(crate) fn finish(child: &Child) -> Waited {
    readable(child.pidfd.as_fd());
    wait(child.pidfd.as_fd(), Look::Exit { keep: false }).unwrap().expect("it is readable, so it has ended")
}

/// Starts it, and returns what it wrote to its standard output until it ended well.
pub(crate) fn output(mut plan: Plan) -> String {
    let (reader, writer) = pipe().unwrap();
    plan.setup.fds.push((writer.as_raw_fd(), 1));
    let child = spawn(&plan).unwrap();
    drop(writer);
    let mut text = String::new();
    std::fs::File::from(reader).read_to_string(&mut text).unwrap();
    assert_eq!(finish(&child).change, Change::Exited(0), "{text}");
    text
}

pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// No child is left, not even a zombie.
pub(crate) fn assert_childless() {
    assert_eq!(nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
}

#[test]
fn arguments_and_environment_arrive() {
    let mut plan = sh("echo \"$0 $1 $X\"; exit 0");
    plan.argv.extend([c("zero"), c("a b")]);
    plan.envp.push(c("X=\u{e4}"));
    assert_eq!(output(plan), "zero a b \u{e4}\n");
}

#[test]
fn an_empty_plan_fails_at_exec() {
    let failure = spawn(&Plan::default()).unwrap_err();
    assert_eq!((failure.step, failure.program), (Step::Exec, None));
    assert_eq!(failure.error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn candidates_are_tried_like_execvp_does() {
    // In a child: a fork of another test may hold a copy of the file just written, and executing it would be ETXTBSY.
    in_fork(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| c(directory.path().join(name).to_str().unwrap());
        std::fs::write(directory.path().join("forbidden"), "#!/bin/sh\n").unwrap();
        std::fs::write(directory.path().join("garbage"), "\0\u{1}garbage").unwrap();
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            &directory.path().join("garbage"),
            nix::sys::stat::Mode::from_bits_truncate(0o755),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .unwrap();
        let (missing, forbidden, garbage) = (path("missing"), path("forbidden"), path("garbage"));
        let below_file = path("forbidden/x");
        let good = c("/bin/true");
        let attempt = |programs: &[&CString]| {
            let programs = programs.iter().map(|&program| program.clone()).collect();
            let plan = Plan { programs, argv: vec![c("x")], ..Plan::default() };
            spawn(&plan).map(|child| finish(&child).change).map_err(|failure| {
                assert_eq!(failure.step, Step::Exec);
                (failure.error.raw_os_error().unwrap(), failure.program.unwrap())
            })
        };
        assert_eq!(attempt(&[&missing, &below_file, &forbidden, &good]), Ok(Change::Exited(0)));
        assert_eq!(attempt(&[&missing, &forbidden, &missing]), Err((libc::EACCES, 1)));
        assert_eq!(attempt(&[&missing, &below_file]), Err((libc::ENOTDIR, 1)));
        assert_eq!(attempt(&[&missing]), Err((libc::ENOENT, 0)));
        assert_eq!(attempt(&[&garbage, &good]), Err((libc::ENOEXEC, 0)));
    });
}

#[test]
fn nothing_leaks_from_starts_and_failures() {
    // In a child, where no other test opens descriptors or starts processes at the same time.
    in_fork(|| {
        let bad = Plan { programs: vec![c("/nonexistent")], ..sh("") };
        let before = open_descriptors();
        for _ in 0..200 {
            assert_eq!(finish(&spawn(&sh("exit 4")).unwrap()).change, Change::Exited(4));
            assert_eq!(spawn(&bad).unwrap_err().step, Step::Exec);
            assert_childless();
        }
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn the_pidfd_is_close_on_exec() {
    let child = spawn(&sh("exit 0")).unwrap();
    let flags = nix::fcntl::fcntl(&child.pidfd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, libc::FD_CLOEXEC);
    finish(&child);
}

#[test]
fn a_failure_survives_ignored_sigchld() {
    in_fork(|| {
        // SAFETY: this child has one thread; SIG_IGN needs no handler.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let bad = Plan { programs: vec![c("/nonexistent")], ..sh("") };
        assert_eq!(spawn(&bad).unwrap_err().error.raw_os_error(), Some(libc::ENOENT));
        let child = spawn(&sh("exit 6")).unwrap();
        readable(child.pidfd.as_fd());
        let error = wait(child.pidfd.as_fd(), Look::Exit { keep: false }).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
        if crate::sys::pidfd::features().exit_info {
            assert_eq!(child.pidfd.exit_status().unwrap(), Some(6 << 8));
        }
    });
}

#[test]
fn running_out_of_descriptors_fails_at_create() {
    in_fork(|| {
        let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
        let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
        nix::sys::resource::setrlimit(limit, next, 4096).unwrap();
        let failure = spawn(&sh("exit 0")).unwrap_err();
        assert_eq!((failure.step, failure.error.raw_os_error()), (Step::Create, Some(libc::EMFILE)));
        assert_childless();
        assert!(!is_open(next as i32));
    });
}

#[test]
fn many_threads_start_at_once() {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..25 {
                    let code = (thread * 25 + round) % 256;
                    let child = spawn(&sh(&format!("exit {code}"))).unwrap();
                    assert_eq!(finish(&child).change, Change::Exited(code));
                }
            });
        }
    });
}

/// A child that writes to the first of these before all else, as if to its cgroup, hangs until the other is read.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe().unwrap();
    crate::sys::fd::set_nonblocking(writer.as_fd(), true).unwrap();
    while nix::unistd::write(&writer, &[0; 4096]).is_ok() {}
    crate::sys::fd::set_nonblocking(writer.as_fd(), false).unwrap();
    (writer, reader)
}

#[test]
fn no_handler_of_ours_runs_in_the_child() {
    static RAN: AtomicBool = AtomicBool::new(false);
    extern "C" fn handler(_: c_int) {
        RAN.store(true, Ordering::SeqCst);
    }
    for old_kernel in [false, true] {
        in_fork(|| {
            if old_kernel {
                pretend_no_clone3();
            }
            // SAFETY: all that the handler does is to store a flag.
            unsafe { libc::signal(libc::SIGUSR1, handler as *const () as usize) };
            let (writer, reader) = full_pipe();
            let mut plan = sh("exit 0");
            plan.setup.cgroup = Some(writer.as_raw_fd());
            let parent = format!("/proc/self/task/{}/children", crate::sys::process::thread_id());
            let child = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let child = loop {
                        if let Ok(pid) = std::fs::read_to_string(&parent).unwrap().trim().parse() {
                            break nix::unistd::Pid::from_raw(pid);
                        }
                    };
                    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGUSR1).unwrap();
                    crate::sys::fd::read(reader.as_fd(), &mut [0; 8192]).unwrap();
                });
                spawn(&plan).unwrap()
            });
            assert_eq!(finish(&child).change, Change::Killed { signal: libc::SIGUSR1, core: false });
            assert!(!RAN.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn who_makes_the_child_does_not_wait_for_its_program() {
    let (writer, reader) = full_pipe();
    let mut plan = sh("exit 5");
    plan.setup.cgroup = Some(writer.as_raw_fd());
    let elsewhere = |errand: Errand| {
        errand.run();
        crate::sys::fd::read(reader.as_fd(), &mut [0; 8192]).map(drop)
    };
    let child = super::spawn(&plan, Creator::Elsewhere(&elsewhere)).unwrap();
    assert_eq!(finish(&child).change, Change::Exited(5));
}

#[test]
fn a_child_may_run_where_its_caller_may() {
    let allowed = |status: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap().trim().to_owned()
    };
    let bound = |errand: Errand| {
        let thread = std::thread::spawn(|| {
            affinity::bind(0, affinity::to_bind_to().unwrap());
            errand.run();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = thread.join().unwrap();
        assert_eq!(
            allowed(&status).chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum::<u32>(),
            1
        );
        Ok(())
    };
    let seen = |cores: Option<Vec<usize>>| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut plan = sh("cat /proc/self/status");
        plan.setup.fds = vec![(file.as_file().as_raw_fd(), 1)];
        plan.setup.cores = cores;
        let child = super::spawn(&plan, Creator::Elsewhere(&bound)).unwrap();
        assert_eq!(finish(&child).change, Change::Exited(0));
        allowed(&std::fs::read_to_string(file.path()).unwrap())
    };
    let ours = || allowed(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
    assert_eq!(seen(None), ours());
    // What is asked for is more.
    let only_first = seen(Some(vec![0]));
    assert_eq!(only_first.trim_start_matches(['0', ',']), "1");
    // So it is where the caller itself is restricted.
    affinity::bind(0, affinity::to_bind_to().unwrap());
    assert_eq!(seen(None), ours());
}

#[test]
fn a_child_is_not_killed_for_what_a_filter_of_its_creator_forbids() {
    let elsewhere = |errand: Errand| {
        let thread = std::thread::spawn(|| {
            affinity::tests::forbid();
            errand.run();
        });
        thread.join().map_err(|_| io::Error::other("it panicked"))
    };
    let child = super::spawn(&sh("exit 5"), Creator::Elsewhere(&elsewhere)).unwrap();
    assert_eq!(finish(&child).change, Change::Exited(5));
}

#[test]
fn whether_a_child_has_left_is_seen_without_its_word() {
    assert!(!Born::default().has_left());
    let born = |child: &Child| Born {
        pid: AtomicI32::new(child.pid as i32),
        pidfd: AtomicI32::new(child.pidfd.as_fd().as_raw_fd()),
        is_waited_for: AtomicBool::new(false),
    };
    let executed = spawn(&endless()).unwrap();
    assert!(born(&executed).has_left());
    assert!(!Born { is_waited_for: AtomicBool::new(true), ..born(&executed) }.has_left());
    executed.pidfd.signal(libc::SIGKILL).unwrap();
    finish(&executed);
    let (reader, writer) = pipe().unwrap();
    let mut body = || crate::sys::fd::read(reader.as_fd(), &mut [0]).unwrap() as i32;
    // SAFETY: the body takes no lock.
    let copied = unsafe { crate::sys::fork::tests::fork(&Setup::default(), &mut body) }.unwrap();
    assert!(!born(&copied).has_left());
    nix::unistd::write(&writer, b"a").unwrap();
    readable(copied.pidfd.as_fd());
    assert!(born(&copied).has_left());
    finish(&copied);
}

#[test]
fn without_a_thread_there_is_no_child() {
    in_fork(|| {
        let refuse = |_| Err(io::ErrorKind::OutOfMemory.into());
        let failure = super::spawn(&sh("exit 0"), Creator::Elsewhere(&refuse)).unwrap_err();
        assert_eq!((failure.step, failure.error.kind()), (Step::Thread, io::ErrorKind::OutOfMemory));
        let lose = |errand| {
            drop(errand);
            Ok(())
        };
        let failure = super::spawn(&sh("exit 0"), Creator::Elsewhere(&lose)).unwrap_err();
        assert_eq!((failure.step, failure.error.raw_os_error()), (Step::Thread, Some(libc::EAGAIN)));
        assert_childless();
    });
}

#[test]
fn without_clone3_it_is_a_vfork() {
    in_fork(|| {
        pretend_no_clone3();
        assert_eq!(finish(&spawn(&sh("exit 4")).unwrap()).change, Change::Exited(4));
        let bad = Plan { programs: vec![c("/nonexistent")], ..Plan::default() };
        assert_eq!(spawn(&bad).unwrap_err().step, Step::Exec);
        assert_childless();
    });
}
