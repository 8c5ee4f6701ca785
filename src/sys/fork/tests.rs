//! Closures run in forked copies of the test program.

use super::*;
use crate::sys::fd::{is_open, pipe};
use crate::sys::spawn::tests::{assert_childless, finish, open_descriptors};
use crate::sys::wait::Change;
use std::io::Read;
use std::os::fd::RawFd;

/// Runs `body` in a child, which tells by its exit whether it came to its end. There, nothing is shared with the tests
/// that run at the same time. What a failing assertion says
/// is shown with `--nocapture`: else the harness's copy in the child keeps it.
pub(crate) fn in_fork(mut body: impl FnMut()) {
    let mut run = || {
        body();
        0
    };
    // However the tests end, it does not stay.
    let setup = Setup { parent_death: Some(libc::SIGKILL), ..Setup::default() };
    // SAFETY: the tests hold no locks that other tests would have to give back.
    let child = unsafe { fork(&setup, &mut run) }.unwrap();
    assert_eq!(finish(&child).change, Change::Exited(0));
}

/// # Safety
/// As for the real one.
pub(crate) unsafe fn fork(setup: &Setup, body: &mut dyn FnMut() -> i32) -> Result<Child, Failure> {
    // SAFETY: as above.
    unsafe { super::fork(setup, body, Creator::Here) }
}

fn run(setup: &Setup, mut body: impl FnMut() -> i32) -> Change {
    // SAFETY: as above.
    let child = unsafe { fork(setup, &mut body) }.unwrap();
    finish(&child).change
}

#[test]
fn the_result_is_the_exit_code() {
    for code in [0, 1, 42, 255] {
        assert_eq!(run(&Setup::default(), || code), Change::Exited(code));
    }
}

#[test]
fn a_panic_is_told_on_standard_error() {
    let (reader, writer) = pipe().unwrap();
    let setup = Setup { fds: vec![(writer.as_raw_fd(), 2)], ..Setup::default() };
    let body = || {
        // The test harness catches what tests print; the default hook would write there.
        panic::set_hook(Box::new(|info| {
            let text = info.to_string();
            // SAFETY: write(2) reads `text`.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }));
        panic!("over {}", "board");
    };
    assert_eq!(run(&setup, body), Change::Exited(PANICKED));
    drop(writer);
    let mut text = String::new();
    std::fs::File::from(reader).read_to_string(&mut text).unwrap();
    assert!(text.contains("over board"), "{text}");
}

#[test]
fn a_failed_step_is_named_and_leaves_nothing() {
    in_fork(|| {
        let before = open_descriptors();
        for _ in 0..20 {
            let setup = Setup { directory: Some(c"/nonexistent".into()), ..Setup::default() };
            // SAFETY: as above.
            let failure = unsafe { fork(&setup, &mut || 0) }.unwrap_err();
            assert_eq!((failure.step, failure.program), (Step::Directory, None));
            assert_eq!(failure.error.raw_os_error(), Some(libc::ENOENT));
            assert_childless();
        }
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn it_returns_once_the_body_runs() {
    // The body ends only when we say so: if the parent waited for more than the start, this would never end.
    let (reader, writer) = pipe().unwrap();
    let mut body = || crate::sys::fd::read(reader.as_fd(), &mut [0; 4]).unwrap() as i32;
    // SAFETY: as above.
    let child = unsafe { fork(&Setup::default(), &mut body) }.unwrap();
    nix::unistd::write(&writer, b"abc").unwrap();
    assert_eq!(finish(&child).change, Change::Exited(3));
}

#[test]
fn nothing_is_open_but_what_was_given() {
    let (_reader, writer) = pipe().unwrap();
    let setup = Setup { fds: vec![(writer.as_raw_fd(), 40)], close_others: true, ..Setup::default() };
    let body = || {
        let open: Vec<RawFd> = (0..1024).filter(|&fd| is_open(fd)).collect();
        i32::from(open != [0, 1, 2, 40])
    };
    assert_eq!(run(&setup, body), Change::Exited(0));
}

#[test]
fn the_eventfd_never_has_a_number_that_was_given_away() {
    // All numbers that it could get by itself are targets.
    let (_reader, writer) = pipe().unwrap();
    let fds = (3..200).map(|target| (writer.as_raw_fd(), target)).collect();
    let setup = Setup { fds, close_others: true, ..Setup::default() };
    let body = || {
        let open = (0..1024).filter(|&fd| is_open(fd)).count();
        i32::from(open != 200)
    };
    assert_eq!(run(&setup, body), Change::Exited(0));
    let last = Setup { fds: vec![(writer.as_raw_fd(), 3)], ..Setup::default() };
    assert_eq!(bell_beside(&last).map(|bell| bell.as_raw_fd() == 3).ok(), Some(false));
}

#[test]
fn a_fork_in_a_fork_in_a_fork() {
    let code = run(&Setup::default(), || {
        let middle = run(&Setup::default(), || match run(&Setup::default(), || 7) {
            Change::Exited(code) => code + 1,
            _ => 0,
        });
        i32::from(middle != Change::Exited(8))
    });
    assert_eq!(code, Change::Exited(0));
}

#[test]
fn a_child_nobody_can_be_told_of_is_killed() {
    in_fork(|| {
        let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
        // First not even the eventfd fits, then that but no pidfd.
        let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
        nix::sys::resource::setrlimit(limit, next, 4096).unwrap();
        // SAFETY: as above.
        let failure = unsafe { fork(&Setup::default(), &mut || 0) }.unwrap_err();
        assert_eq!((failure.step, failure.error.raw_os_error()), (Step::Create, Some(libc::EMFILE)));
        nix::sys::resource::setrlimit(limit, next + 1, 4096).unwrap();
        // SAFETY: as above.
        let failure = unsafe {
            let mut body = || loop {
                nix::unistd::pause();
            };
            fork(&Setup::default(), &mut body)
        }
        .unwrap_err();
        assert_eq!((failure.step, failure.error.raw_os_error()), (Step::Create, Some(libc::EMFILE)));
        assert_childless();
    });
}

#[test]
fn ignored_sigchld_is_no_obstacle() {
    in_fork(|| {
        // SAFETY: this child has one thread; SIG_IGN needs no handler.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        // The body waits for us, so that it is alive when it is looked for.
        let (reader, writer) = pipe().unwrap();
        let mut body = || crate::sys::fd::read(reader.as_fd(), &mut [0; 4]).unwrap() as i32;
        // SAFETY: as above.
        let child = unsafe { fork(&Setup::default(), &mut body) }.unwrap();
        nix::unistd::write(&writer, b"a").unwrap();
        crate::sys::spawn::tests::readable(child.pidfd.as_fd());
        let bad = Setup { directory: Some(c"/nonexistent".into()), ..Setup::default() };
        // Either step is right: it depends on who is faster.
        // SAFETY: as above.
        let failure = unsafe { fork(&bad, &mut || 0) }.unwrap_err();
        assert!(matches!(failure.step, Step::Directory | Step::Create), "{failure:?}");
    });
}

#[test]
fn a_child_that_cannot_be_waited_for_is_ended() {
    /// What poll(3) calls here.
    #[cfg(target_arch = "x86_64")]
    const POLL: libc::c_long = libc::SYS_poll;
    #[cfg(not(target_arch = "x86_64"))]
    const POLL: libc::c_long = libc::SYS_ppoll;
    in_fork(|| {
        let before = open_descriptors();
        crate::sys::affinity::tests::filter(POLL, libc::SECCOMP_RET_ERRNO | libc::ENOMEM as u32);
        let mut body = || loop {
            nix::unistd::pause();
        };
        // SAFETY: the body takes no lock.
        let failure = unsafe { fork(&Setup::default(), &mut body) }.unwrap_err();
        assert_eq!((failure.step, failure.error.raw_os_error()), (Step::Create, Some(libc::ENOMEM)));
        assert_childless();
        assert_eq!(open_descriptors(), before);
    });
}
