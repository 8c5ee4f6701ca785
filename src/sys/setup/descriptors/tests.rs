//! Descriptors passed to real children, in every order.

use super::super::Setup;
use super::super::tests::{fails, says};
use super::*;
use crate::sys::fd::is_open;
use crate::sys::fork::tests::in_fork;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};

/// A file with this text, at its beginning.
fn file(text: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

#[test]
fn descriptors_in_any_order() {
    // Sources are made into a block, so that targets and sources overlap in every way.
    in_fork(|| {
        let files: Vec<OwnedFd> = ["a", "b", "c"].map(file).into();
        let [a, b, c] = [0, 1, 2].map(|index: usize| files[index].as_raw_fd());
        let read = format!("cat /proc/self/fd/{a} /proc/self/fd/{b} /proc/self/fd/{c}");
        let cases: [(&[(i32, i32)], &str); 5] = [
            (&[(a, a), (b, b), (c, c)], "abc"),
            (&[(a, b), (b, a), (c, c)], "bac"),
            (&[(a, b), (b, c), (c, a)], "cab"),
            (&[(c, a), (a, b), (b, c)], "cab"),
            (&[(a, c), (c, b), (b, a)], "bca"),
        ];
        for close_others in [false, true] {
            for (fds, expected) in cases {
                let setup = Setup { fds: fds.to_vec(), close_others, ..Setup::default() };
                assert_eq!(says(setup, &read), expected, "{fds:?}");
            }
        }
    });
}

#[test]
fn thirty_two_descriptors_collide() {
    in_fork(|| {
        let files: Vec<OwnedFd> = (0..32).map(|number| file(&format!("{number} "))).collect();
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        // Everyone moves by five places, in a circle; 5 and 32 have no common divisor, so it is one cycle.
        let rotated = numbers.iter().cycle().skip(5);
        let fds = numbers.iter().copied().zip(rotated.copied()).collect();
        let script: String = numbers.iter().map(|fd| format!("cat /proc/self/fd/{fd};")).collect();
        let expected: Vec<String> = (0..32).map(|place| ((place + 32 - 5) % 32).to_string()).collect();
        assert_eq!(says(Setup { fds, close_others: true, ..Setup::default() }, &script), expected.join(" "));
    });
}

#[test]
fn one_source_goes_to_many_and_the_standard_ones_too() {
    let text = file("");
    let source = text.as_raw_fd();
    let fds = vec![(source, 0), (source, 2), (source, 30), (source, source)];
    let setup = Setup { fds, close_others: true, ..Setup::default() };
    // `ls` itself has the directory open, with the lowest free number.
    let listing = says(setup, "exec ls /proc/self/fd");
    let mut seen: Vec<i32> = listing.lines().map(|line| line.parse().unwrap()).collect();
    seen.sort_unstable();
    for fd in [0, 1, 2, 30, source] {
        assert!(seen.contains(&fd), "{seen:?}");
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}

#[test]
fn wrong_descriptors_are_named() {
    let wrong = |source, target| fails(Setup { fds: vec![(source, target)], ..Setup::default() });
    assert_eq!(wrong(1 << 30, 9), (Step::Descriptor(9), libc::EBADF));
    assert_eq!(wrong(1 << 30, 1 << 30), (Step::Descriptor(1 << 30), libc::EBADF));
    assert_eq!(wrong(0, -5), (Step::Descriptor(-5), libc::EBADF));
    assert_eq!(wrong(0, i32::MAX), (Step::Descriptor(i32::MAX), libc::EBADF));
}

#[test]
fn others_are_closed_only_when_asked() {
    in_fork(|| {
        let leaky = file("");
        nix::fcntl::fcntl(&leaky, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let script = format!("test -e /proc/self/fd/{} && echo open || echo closed", leaky.as_raw_fd());
        assert_eq!(says(Setup::default(), &script), "open");
        assert_eq!(says(Setup { close_others: true, ..Setup::default() }, &script), "closed");
    });
}

#[test]
fn gaps_lie_between_what_is_kept() {
    assert_eq!(gaps(&[], &[]), [(3, u32::MAX)]);
    assert_eq!(gaps(&[0, 1, 3, 4, 7], &[5]), [(6, 6), (8, u32::MAX)]);
    assert_eq!(gaps(&[-1, 10], &[3]), [(4, 9), (11, u32::MAX)]);
    assert_eq!(gaps(&[i32::MAX], &[]), [(3, i32::MAX as u32 - 1), (1 << 31, u32::MAX)]);
}

#[test]
fn what_has_the_number_of_a_closed_stream_is_closed() {
    in_fork(|| {
        let other = file("");
        for stream in [0, 1] {
            // SAFETY: dup3(2) takes numbers only; the stream is of no more use here.
            assert_eq!(unsafe { libc::dup3(other.as_raw_fd(), stream, libc::O_CLOEXEC) }, stream);
        }
        let descriptors = Descriptors::new(&[], true, &[1]);
        // SAFETY: a child that has no use for its other descriptors.
        unsafe { descriptors.close_others() }.unwrap();
        assert_eq!((0..1024).filter(|&fd| is_open(fd)).collect::<Vec<RawFd>>(), [1, 2]);
        std::mem::forget(other);
    });
}

#[test]
fn closing_works_without_close_range() {
    in_fork(|| {
        // More than one reading of the list gives, and where no list can be opened.
        for listed in [true, false] {
            let files: Vec<_> = (0..200).map(|_| file("")).collect();
            let kept = files[100].as_raw_fd();
            let descriptors = Descriptors::new(&[(kept, kept)], true, &[]);
            let descriptors = Descriptors { limit: if listed { u32::MAX } else { descriptors.limit }, ..descriptors };
            let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
            let (soft, hard) = nix::sys::resource::getrlimit(limit).unwrap();
            nix::sys::resource::setrlimit(limit, if listed { soft } else { 3 }, hard).unwrap();
            // SAFETY: a child that has no use for its other descriptors.
            unsafe { descriptors.close_one_by_one() };
            nix::sys::resource::setrlimit(limit, soft, hard).unwrap();
            let open: Vec<RawFd> = (0..1024).filter(|&fd| is_open(fd)).collect();
            assert_eq!(open, [0, 1, 2, kept]);
            std::mem::forget(files);
        }
    });
}

#[test]
fn entries_that_are_no_numbers_are_passed_over() {
    let entry = |name: &str, length: u16| {
        let mut entry = vec![0; 16];
        entry.extend(length.to_ne_bytes());
        entry.extend([4].iter().chain(name.as_bytes()));
        entry.resize(length.into(), 0);
        entry
    };
    let all = [entry(".", 24), entry("..", 24), entry("0", 24), entry("4294967296", 32), entry("1048576", 32)].concat();
    assert_eq!(Listed(&all).collect::<Vec<_>>(), [0, 1_048_576]);
    for cut in 0..all.len() {
        let _ = Listed(&all[..cut]).count();
    }
    assert_eq!(Listed(&[0; 64]).count(), 0);
}
