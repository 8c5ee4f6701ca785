//! Which descriptors a child has.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use pkit::{Builder, Command};

use super::both;
use crate::support::tests;

/// The numbers of the child's descriptors but 0, 1 and 2, and where they lead. What reads the list is not in it.
fn descriptors(options: impl Fn(Builder) -> Builder) -> [Vec<(i32, String)>; 2] {
    both(Command::new("ls").args(["-l", "/proc/self/fd"]).clone(), list, options).map(|text| {
        let entries = text.lines().filter_map(|line| line.split_once(" -> "));
        let entries =
            entries.map(|(start, link)| (start.rsplit(' ').next().unwrap().parse().unwrap(), link.to_owned()));
        let mut entries: Vec<(i32, String)> = entries.filter(|(fd, link)| *fd > 2 && !link.ends_with("/fd")).collect();
        entries.sort();
        entries
    })
}

fn list() -> String {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = links.map(|entry| (entry.file_name(), fs::read_link(entry.path()).unwrap()));
    links.map(|(fd, link)| format!("{} -> {}\n", fd.to_str().unwrap(), link.display())).collect()
}

fn open(path: &Path) -> OwnedFd {
    File::create(path).unwrap().into()
}

/// One without close-on-exec, as careless code opens it.
fn inheritable(fd: &OwnedFd) -> OwnedFd {
    nix::unistd::dup(fd).unwrap()
}

tests! {
    fn no_other_descriptor_is_inherited() {
        let careless = inheritable(&File::open("/dev/null").unwrap().into());
        let high = nix::fcntl::fcntl(careless.as_fd(), nix::fcntl::FcntlArg::F_DUPFD(900)).unwrap();
        assert_eq!(descriptors(|b| b), [vec![], vec![]]);
        nix::unistd::close(high).unwrap();
    }

    fn descriptors_are_passed_at_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name).display().to_string();
        let (a, b) = (open(&dir.path().join("a")), open(&dir.path().join("b")));
        let seen = descriptors(|builder| {
            builder.pass_fd(a.try_clone().unwrap(), 3).pass_fd(b.try_clone().unwrap(), 700)
        });
        let passed = vec![(3, path("a")), (700, path("b"))];
        assert_eq!(seen, [passed.clone(), passed]);
        // Both stay open in the parent, and are given up with the builder and the process.
        assert!(a.try_clone().is_ok() && b.try_clone().is_ok());
    }

    fn numbers_may_collide() {
        let dir = tempfile::tempdir().unwrap();
        let path = |index: usize| dir.path().join(index.to_string()).display().to_string();
        let expected = std::cell::RefCell::new(Vec::new());
        let seen = descriptors(|builder| {
            let files: Vec<OwnedFd> = (0..7).map(|index| open(Path::new(&path(index)))).collect();
            let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
            // Each gets the number of another: a circle of five, and two that change places.
            let targets = [1, 2, 3, 4, 0, 6, 5].map(|index| numbers[index]);
            let mut wanted: Vec<_> = targets.into_iter().zip((0..7).map(path)).collect();
            wanted.sort();
            expected.borrow_mut().push(wanted);
            files.into_iter().zip(targets).fold(builder, |builder, (file, number)| builder.pass_fd(file, number))
        });
        assert_eq!(seen.to_vec(), expected.into_inner());
    }

    fn a_number_may_be_that_of_a_stream_being_made() {
        // The pipe of the captured stdout gets one of these numbers in the parent.
        let seen = descriptors(|builder| {
            (3..40).fold(builder, |builder, number| builder.pass_fd(File::open("/dev/zero").unwrap().into(), number))
        });
        let zeros: Vec<_> = (3..40).map(|number| (number, "/dev/zero".to_owned())).collect();
        assert_eq!(seen, [zeros.clone(), zeros]);
    }

    fn a_descriptor_stays_at_its_number() {
        let seen = descriptors(|builder| {
            let file: OwnedFd = File::open("/dev/zero").unwrap().into();
            let number = file.as_raw_fd();
            builder.pass_fd(file, number)
        });
        assert!(seen.iter().all(|seen| matches!(&seen[..], [(_, link)] if link == "/dev/zero")), "{seen:?}");
    }
}
