//! Programs that cannot be executed.

use std::fs;
use std::os::unix::fs::symlink;

use pkit::{Command, Process, Resource};

use super::{refused, refused_with, works, write};
use crate::support::tests;

const SCRIPT: &str = "#!/bin/sh\nexit 0\n";

tests! {
    fn a_missing_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        let process = Process::new(Command::new(&path));
        let text = format!("cannot start `tool`: execute `{}`: No such file or directory (os error 2)", path.display());
        refused_with(&process, libc::ENOENT, &text);
        symlink("/bin/true", &path).unwrap();
        works(&process);
        let below = Process::new(Command::new(path.join("tool")));
        let text = format!("cannot start `tool`: execute `{}/tool`: Not a directory (os error 20)", path.display());
        refused_with(&below, libc::ENOTDIR, &text);
    }

    fn a_program_missing_from_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("/nowhere:{}", dir.path().display());
        let process = Process::builder(Command::new("pkit-no-such").env("PATH", path)).name("it").build().unwrap();
        let text = "cannot start `it`: find `pkit-no-such` in PATH: No such file or directory (os error 2)";
        refused_with(&process, libc::ENOENT, text);
        // Found, but forbidden, is another matter.
        let found = dir.path().join("pkit-no-such");
        write(&found, SCRIPT, 0o644);
        let text = format!("cannot start `it`: execute `{}`: Permission denied (os error 13)", found.display());
        refused_with(&process, libc::EACCES, &text);
        write(&found, SCRIPT, 0o755);
        works(&process);
    }

    fn a_forbidden_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        write(&path, SCRIPT, 0o644);
        let process = Process::new(Command::new(&path));
        let text = format!("cannot start `tool`: execute `{}`: Permission denied (os error 13)", path.display());
        refused_with(&process, libc::EACCES, &text);
        write(&path, SCRIPT, 0o755);
        works(&process);
    }

    fn a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        fs::create_dir(&path).unwrap();
        let process = Process::new(Command::new(&path));
        let text = format!("cannot start `tool`: execute `{}`: Permission denied (os error 13)", path.display());
        refused_with(&process, libc::EACCES, &text);
        fs::remove_dir(&path).unwrap();
        write(&path, SCRIPT, 0o755);
        works(&process);
    }

    fn a_bad_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        write(&path, "#!/no/such/interpreter\n", 0o755);
        let process = Process::new(Command::new(&path));
        let begin = format!("cannot start `tool`: execute `{}`: ", path.display());
        refused_with(&process, libc::ENOENT, &(begin + "find its interpreter: No such file or directory (os error 2)"));
        // The same by PATH, and by a name that is relative to the child's directory.
        let by_path = Process::new(Command::new("tool").env("PATH", dir.path()));
        assert!(refused(&by_path).to_string().contains("/tool`: find its interpreter: No such file"));
        let relative = Process::new(Command::new("./tool").current_dir(dir.path()));
        assert!(refused(&relative).to_string().contains("`./tool`: find its interpreter: No such file"));
        write(&path, SCRIPT, 0o755);
        works(&process);
        works(&by_path);
        works(&relative);
    }

    fn no_known_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        write(&path, "exit 0\n", 0o755);
        let process = Process::new(Command::new(&path));
        let text = format!("cannot start `tool`: execute `{}`: Exec format error (os error 8)", path.display());
        refused_with(&process, libc::ENOEXEC, &text);
        write(&path, SCRIPT, 0o755);
        works(&process);
    }

    fn arguments_of_two_mebibytes() {
        let text = "cannot start `true`: execute `/bin/true`: Argument list too long (os error 7)";
        let one = Process::new(Command::new("/bin/true").arg("x".repeat(2 << 20)));
        refused_with(&one, libc::E2BIG, text);
        // All together they may fill a quarter of the stack (execve(2)).
        let many = Command::new("/bin/true").args(vec!["x".repeat(64 << 10); 32]).clone();
        let many = |stack| Process::builder(many.clone()).rlimit(Resource::Stack, stack, stack).build().unwrap();
        refused_with(&many(4 << 20), libc::E2BIG, text);
        works(&many(16 << 20));
        let variables = Process::builder(Command::new("/bin/true")).env("BIG", "x".repeat(2 << 20)).build().unwrap();
        refused_with(&variables, libc::E2BIG, text);
    }
}
