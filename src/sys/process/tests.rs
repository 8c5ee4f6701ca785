use super::*;
use crate::sys::spawn::tests::{endless, finish, sh, spawn};
use crate::sys::wait::Change;
use std::os::fd::AsFd;

fn blocked() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn all_signals_are_blocked_and_given_back() {
    let before = blocked();
    let saved = block_all_signals();
    let unblockable = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    assert_eq!(blocked(), !unblockable);
    drop(saved);
    assert_eq!(blocked(), before);
    let saved = block_program_signals();
    // Two for glibc, three for musl.
    let of_library = (32..libc::SIGRTMIN()).fold(0, |mask, signal| mask | 1 << (signal - 1));
    assert_eq!(blocked() & of_library, 0);
    assert_eq!(blocked() | of_library, !unblockable);
    drop(saved);
    assert_eq!(blocked(), before);
}

#[test]
fn whose_proc_it_is() {
    assert!(is_proc_ours().unwrap());
    let own = Pid::this().as_raw() as u32;
    assert_eq!(has_executed(own), Some(true));
    crate::sys::fork::tests::in_fork(|| {
        assert!(is_proc_ours().unwrap());
        assert_eq!(has_executed(pid()), Some(false), "it is a fork");
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).is_err() {
            return; // Without the right to.
        }
        crate::sys::fork::tests::in_fork(|| {
            assert_eq!(pid(), 1);
            assert!(!is_proc_ours().unwrap());
            assert_eq!(has_executed(1), None, "that is the init of another");
        });
    });
}

#[test]
fn the_environment_of_a_fork_is_its_own() {
    let all = || std::env::vars_os().collect::<Vec<_>>();
    assert_eq!(environment().unwrap(), all());
    crate::sys::fork::tests::in_fork(|| {
        assert!(is_fork());
        assert_eq!(environment().unwrap(), all());
        // SAFETY: this fork has one thread.
        unsafe { replace_environment(&[c"A=b=c".into(), c"=D=e".into(), c"F=".into(), c"none".into()]) };
        let pair = |name: &str, value: &str| (name.into(), value.into());
        assert_eq!(environment().unwrap(), [pair("A", "b=c"), pair("=D", "e"), pair("F", "")]);
    });
}

#[test]
fn threads_are_told_apart() {
    let (id, main) = std::thread::spawn(|| (thread_id(), is_main_thread())).join().unwrap();
    assert!(!main);
    assert_ne!(id, thread_id());
}

#[test]
fn a_group_is_killed_but_never_everybody() {
    for wrong in [0, 1, u32::MAX] {
        assert_eq!(kill_group(wrong, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
    let mut plan = endless();
    plan.setup.group = Some(0);
    let child = spawn(&plan).unwrap();
    assert_eq!(process_group_of(child.pid).unwrap(), child.pid);
    kill_group(child.pid, libc::SIGKILL).unwrap();
    assert!(matches!(finish(&child).change, Change::Killed { .. }));
}

#[test]
fn a_directory_is_locked_once() {
    // In a child: a copy of a descriptor in the fork of another test would keep it open.
    crate::sys::fork::tests::in_fork(|| {
        let directory = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(directory.path()).unwrap();
        let (one, two) = (open(), open());
        assert!(lock_directory(one.as_fd()).unwrap());
        assert!(!lock_directory(two.as_fd()).unwrap());
        drop(one);
        assert!(lock_directory(two.as_fd()).unwrap());
    });
}

#[test]
fn users_are_found_by_name() {
    let root = user("root").unwrap().unwrap();
    assert_eq!((root.uid, root.gid), (0, 0));
    assert!(root.groups.contains(&0));
    assert_eq!(user("no-such-user-here").unwrap(), None);
    assert!(user("a\0b").is_err());
}

#[test]
fn orphans_come_to_a_subreaper() {
    // In a child, because it holds for the whole program.
    crate::sys::fork::tests::in_fork(|| {
        become_subreaper().unwrap();
        finish(&spawn(&sh("(exit 5) & exit 0")).unwrap());
        let orphan = nix::sys::wait::waitpid(None, None).unwrap();
        assert!(matches!(orphan, nix::sys::wait::WaitStatus::Exited(_, 5)), "{orphan:?}");
    });
}
