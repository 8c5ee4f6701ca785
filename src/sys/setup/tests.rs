//! Every step, seen from inside the child.

use super::*;
use crate::sys::fd::pipe;
use crate::sys::fork::tests::in_fork;
use crate::sys::spawn::tests::{c, finish, output, sh, spawn};
use crate::sys::spawn::{Failure, Plan};
use crate::sys::wait::Change;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;

/// What the script says in a child with this setup.
pub(super) fn says(setup: Setup, script: &str) -> String {
    output(Plan { setup, ..sh(script) }).trim().to_owned()
}

fn status(setup: Setup, field: &str) -> String {
    // Not by way of a shell: some empty the signal mask.
    let argv = vec![c("cat"), c("/proc/self/status")];
    let text = output(Plan { programs: vec![c("/bin/cat"), c("/usr/bin/cat")], argv, setup, ..Plan::default() });
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn fails(setup: Setup) -> (Step, i32) {
    let failure: Failure = spawn(&Plan { setup, ..sh("exit 0") }).unwrap_err();
    assert_eq!(failure.program, None);
    (failure.step, failure.error.raw_os_error().unwrap())
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_cgroup_is_written_to() {
    let mut procs = tempfile::tempfile().unwrap();
    says(Setup { cgroup: Some(procs.as_raw_fd()), ..Setup::default() }, "exit 0");
    let mut text = String::new();
    procs.rewind().unwrap();
    procs.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0");
    let read_only = std::fs::File::open("/dev/null").unwrap();
    let setup = Setup { cgroup: Some(read_only.as_raw_fd()), ..Setup::default() };
    assert_eq!(fails(setup), (Step::Cgroup, libc::EBADF));
}

#[test]
fn session_and_group() {
    // Fields of /proc/PID/stat after the name: state, ppid, pgrp, session.
    let ids = "read p r < /proc/$$/stat; set -- ${r#*) }; echo $p $3 $4";
    let numbers =
        |setup: Setup| -> Vec<u32> { says(setup, ids).split(' ').map(|number| number.parse().unwrap()).collect() };
    let session = numbers(Setup { session: true, group: Some(0), ..Setup::default() });
    assert!(session[0] == session[1] && session[0] == session[2], "{session:?}");
    let group = numbers(Setup { group: Some(0), ..Setup::default() });
    assert!(group[0] == group[1] && group[0] != group[2], "{group:?}");
    let none = numbers(Setup::default());
    assert_eq!(none[1], crate::sys::process::process_group_of(std::process::id()).unwrap());
    // No such group in our session.
    assert_eq!(fails(Setup { group: Some(i32::MAX), ..Setup::default() }), (Step::Group, libc::EPERM));
}

#[test]
fn umask_and_directory() {
    let setup = Setup { umask: Some(0o027), directory: Some(c("/proc")), ..Setup::default() };
    assert_eq!(says(setup, "umask; pwd"), "0027\n/proc");
    let wrong = |path: &str| fails(Setup { directory: Some(c(path)), ..Setup::default() });
    assert_eq!(wrong("/nonexistent"), (Step::Directory, libc::ENOENT));
    assert_eq!(wrong("/dev/null"), (Step::Directory, libc::ENOTDIR));
}

#[test]
fn nice_is_absolute() {
    assert_eq!(says(Setup { nice: Some(7), ..Setup::default() }, "nice"), "7");
    if is_root() {
        assert_eq!(says(Setup { nice: Some(-3), ..Setup::default() }, "nice"), "-3");
    }
}

#[test]
fn cores_are_set() {
    let setup = |cores: &[usize]| Setup { cores: Some(cores.to_vec()), ..Setup::default() };
    assert_eq!(status(setup(&[0]), "Cpus_allowed_list"), "0");
    for wrong in [&[][..], &[4_000], &[8_192], &[usize::MAX]] {
        assert_eq!(fails(setup(wrong)), (Step::Cores, libc::EINVAL));
    }
}

#[test]
fn limits_are_set() {
    let (files, core) = (libc::RLIMIT_NOFILE as i32, libc::RLIMIT_CORE as i32);
    let setup = Setup { limits: vec![(files, 100, 200), (core, 0, 0)], ..Setup::default() };
    assert_eq!(says(setup, "ulimit -Sn; ulimit -Hn; ulimit -c"), "100\n200\n0");
    let wrong = Setup { limits: vec![(core, 0, 0), (files, 2, 1)], ..Setup::default() };
    assert_eq!(fails(wrong), (Step::Limit(files), libc::EINVAL));
    assert_eq!(fails(Setup { limits: vec![(999, 0, 0)], ..Setup::default() }), (Step::Limit(999), libc::EINVAL));
}

#[test]
fn credentials_change_in_the_child_only() {
    if !is_root() {
        return;
    }
    let setup = || Setup { groups: Some(vec![7, 8]), gid: Some(1234), uid: Some(4321), ..Setup::default() };
    assert_eq!(status(setup(), "Uid"), "4321 4321 4321 4321");
    assert_eq!(status(setup(), "Gid"), "1234 1234 1234 1234");
    assert_eq!(status(setup(), "Groups"), "7 8");
    assert_eq!(status(Setup { groups: Some(vec![]), ..Setup::default() }, "Groups"), "");
    assert!(is_root());
    assert_eq!(
        fails(Setup { gid: Some(u32::MAX - 1), uid: Some(0), directory: Some(c("/x")), ..Setup::default() }).0,
        Step::Directory
    );
}

#[test]
fn refused_credentials_are_named() {
    if !is_root() {
        return;
    }
    in_fork(|| {
        // From here on nothing of this is allowed.
        nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
        assert_eq!(fails(Setup { groups: Some(vec![0]), ..Setup::default() }), (Step::Groups, libc::EPERM));
        assert_eq!(fails(Setup { gid: Some(1), ..Setup::default() }), (Step::Gid, libc::EPERM));
        assert_eq!(fails(Setup { uid: Some(0), ..Setup::default() }), (Step::Uid, libc::EPERM));
        assert_eq!(fails(Setup { nice: Some(-5), ..Setup::default() }), (Step::Nice, libc::EACCES));
    });
}

#[test]
fn no_new_privileges() {
    assert_eq!(status(Setup { no_new_privs: true, ..Setup::default() }, "NoNewPrivs"), "1");
}

#[test]
fn a_session_leader_cannot_lead_another() {
    // setsid is refused to the leader of a group, which the child of a clone never is: so its failure cannot be had
    // from outside, and this only shows that a session within a session works.
    in_fork(|| {
        nix::unistd::setsid().unwrap();
        says(Setup { session: true, ..Setup::default() }, "exit 0");
    });
}

#[test]
fn the_child_dies_with_its_parent() {
    in_fork(|| {
        // So that the orphan comes to us and can be reaped.
        crate::sys::process::become_subreaper().unwrap();
        let (reader, writer) = pipe().unwrap();
        let (pid_reader, pid_writer) = pipe().unwrap();
        let mut parent = || {
            let mut plan = sh("echo $$; read x <&9");
            // Both ends of the pipe, so that it never ends by itself.
            plan.setup.fds = vec![(pid_writer.as_raw_fd(), 1), (reader.as_raw_fd(), 9), (writer.as_raw_fd(), 10)];
            plan.setup.parent_death = Some(libc::SIGKILL);
            plan.setup.uid = is_root().then_some(65534);
            spawn(&plan).unwrap();
            // Until the child has said its pid.
            crate::sys::spawn::tests::readable(std::os::fd::AsFd::as_fd(&pid_reader));
            0
        };
        // SAFETY: the tests hold no locks that other tests would have to give back.
        let parent = unsafe { crate::sys::fork::tests::fork(&Setup::default(), &mut parent) }.unwrap();
        assert_eq!(finish(&parent).change, Change::Exited(0));
        // The last writer is gone when the grandchild is.
        drop((writer, pid_writer));
        assert_eq!(crate::sys::fd::read(std::os::fd::AsFd::as_fd(&reader), &mut [0]).unwrap(), 0);
        nix::sys::wait::waitpid(None, None).unwrap();
    });
}

#[test]
fn a_parent_that_is_gone_already_is_noticed() {
    let setup = Setup { parent_death: Some(libc::SIGTERM), ..Setup::default() };
    let mut prepared = Prepared::new(&setup, &[], crate::sys::process::pid()).unwrap();
    // As if it had been prepared by someone who died since.
    prepared.parent = usize::MAX;
    let mut orphan = || {
        let _blocked = crate::sys::process::block_all_signals();
        // SAFETY: a child of a fork, with all signals blocked.
        let _ = unsafe { prepared.apply(Handlers::OfProgram) };
        0
    };
    // SAFETY: the tests hold no locks that other tests would have to give back.
    let orphan = unsafe { crate::sys::fork::tests::fork(&Setup::default(), &mut orphan) }.unwrap();
    assert_eq!(finish(&orphan).change, Change::Killed { signal: libc::SIGTERM, core: false });
    assert_eq!(fails(Setup { parent_death: Some(99), ..Setup::default() }), (Step::ParentDeath, libc::EINVAL));
}

extern "C" fn handler(_: c_int) {}

#[test]
fn signals_are_as_a_program_expects_them() {
    in_fork(|| {
        for (signal, action) in [(libc::SIGHUP, libc::SIG_IGN), (libc::SIGPIPE, libc::SIG_IGN)] {
            // SAFETY: SIG_IGN needs no handler, and this child has one thread.
            unsafe { libc::signal(signal, action) };
        }
        for signal in [libc::SIGUSR1, libc::SIGRTMAX()] {
            // SAFETY: the handler does nothing.
            unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
        }
        let mask = |signal: i32| 1_u64 << (signal - 1);
        let setup = || Setup { signal_mask: mask(libc::SIGUSR2) | mask(64), ..Setup::default() };
        let _blocked = crate::sys::process::block_all_signals();
        assert_eq!(status(Setup::default(), "SigBlk"), "0000000000000000");
        assert_eq!(status(setup(), "SigBlk"), format!("{:016x}", setup().signal_mask));
        assert_eq!(status(setup(), "SigCgt"), "0000000000000000");
        // What the test itself inherited may be more than SIGHUP: glibc's posix_spawn ignores its own signal 32.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let own = u64::from_str_radix(own.trim(), 16).unwrap();
        assert_eq!(own & (mask(libc::SIGHUP) | mask(libc::SIGPIPE)), mask(libc::SIGHUP) | mask(libc::SIGPIPE));
        assert_eq!(status(setup(), "SigIgn"), format!("{:016x}", own & !mask(libc::SIGPIPE)));
    });
}

#[test]
fn a_pending_signal_runs_no_handler_in_our_memory() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static RUNS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn count(_: c_int) {
        RUNS.fetch_add(1, Ordering::SeqCst);
    }
    in_fork(|| {
        // SAFETY: the handler only counts.
        unsafe { libc::signal(libc::SIGTERM, count as *const () as libc::sighandler_t) };
        // The child sends the signal to itself while all are blocked, because it believes its parent to be dead.
        let setup = Setup { parent_death: Some(libc::SIGTERM), ..Setup::default() };
        let mut prepared = Prepared::new(&setup, &[], crate::sys::process::pid()).unwrap();
        prepared.parent = usize::MAX;
        let mut child = || {
            let _blocked = crate::sys::process::block_all_signals();
            // SAFETY: a child of a fork, with all signals blocked.
            let _ = unsafe { prepared.apply(Handlers::OfProgram) };
            0
        };
        // SAFETY: one thread.
        let child = unsafe { crate::sys::fork::tests::fork(&Setup::default(), &mut child) }.unwrap();
        assert!(matches!(finish(&child).change, Change::Killed { signal: libc::SIGTERM, .. }));
        assert_eq!(RUNS.load(Ordering::SeqCst), 0);
    });
}
