//! What the child shall have around it cannot be had: directory, user, descriptors, files.

#![allow(unsafe_code, reason = "a descriptor is closed behind the back of its owner")]

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};

use pkit::{Command, Process, Stdio};

use super::{refused, refused_with, targets, works};
use crate::support::tests;

/// A descriptor whose number nobody else gets once it is closed.
fn high() -> (OwnedFd, i32) {
    let low = File::open("/dev/null").unwrap();
    let number = nix::fcntl::fcntl(&low, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(500)).unwrap();
    // SAFETY: it was just made, and nobody else knows it.
    (unsafe { OwnedFd::from_raw_fd(number) }, number)
}

tests! {
    fn a_missing_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        for target in targets() {
            let process = Process::builder(target).name("it").current_dir(&path).build().unwrap();
            let begin = format!("cannot start `it`: change directory to `{}`: ", path.display());
            refused_with(&process, libc::ENOENT, &format!("{begin}No such file or directory (os error 2)"));
            fs::write(&path, "").unwrap();
            refused_with(&process, libc::ENOTDIR, &format!("{begin}Not a directory (os error 20)"));
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            works(&process);
            fs::remove_dir(&path).unwrap();
        }
        let of_command = Process::new(Command::new("true").current_dir(&path));
        let text = format!(
            "cannot start `true`: change directory to `{}`: No such file or directory (os error 2)", path.display()
        );
        refused_with(&of_command, libc::ENOENT, &text);
    }

    fn an_unknown_user() {
        for target in targets() {
            let process = Process::builder(target).name("it").user("no-such-user").build().unwrap();
            let error = refused(&process);
            assert_eq!(error.to_string(), "cannot start `it`: look up user `no-such-user`: no such user");
        }
    }

    fn a_closed_descriptor_to_pass() {
        for target in targets() {
            let (file, number) = high();
            let process = Process::builder(target.clone()).name("it").pass_fd(file, 77).build().unwrap();
            nix::unistd::close(number).unwrap();
            let text = "cannot start `it`: pass descriptor 77: Bad file descriptor (os error 9)";
            refused_with(&process, libc::EBADF, text);
            // Its owner closes it some time: so it has to be there again.
            // SAFETY: the number is nobody's.
            assert_eq!(unsafe { libc::dup2(0, number) }, number);
            works(&process);
        }
        let (file, number) = high();
        let process = Process::builder(Command::new("true")).stderr(file).build().unwrap();
        nix::unistd::close(number).unwrap();
        refused_with(&process, libc::EBADF, "cannot start `true`: set up stderr: Bad file descriptor (os error 9)");
        // SAFETY: as above.
        assert_eq!(unsafe { libc::dup2(0, number) }, number);
        works(&process);
    }

    fn a_descriptor_beyond_the_limit() {
        let pass = |number| {
            let file: OwnedFd = File::open("/dev/null").unwrap().into();
            Process::builder(Command::new("true")).pass_fd(file, number).build().unwrap()
        };
        let text = "cannot start `true`: pass descriptor 2147483647: Bad file descriptor (os error 9)";
        refused_with(&pass(i32::MAX), libc::EBADF, text);
        works(&pass(500));
    }

    fn files_that_cannot_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/out");
        for target in targets() {
            let process = Process::builder(target).name("it").stdout(Stdio::file(&path)).build().unwrap();
            let text = format!("cannot start `it`: open stdout as `{}`: No such file or directory (os error 2)", path.display());
            refused_with(&process, libc::ENOENT, &text);
            fs::create_dir(dir.path().join("logs")).unwrap();
            works(&process);
            fs::remove_dir_all(dir.path().join("logs")).unwrap();
        }
        let process = Process::builder(Command::new("true")).stdin(Stdio::file(&path)).build().unwrap();
        let text = format!("cannot start `true`: open stdin as `{}`: No such file or directory (os error 2)", path.display());
        refused_with(&process, libc::ENOENT, &text);
    }
}
