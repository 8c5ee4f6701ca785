//! Where the standard streams lead.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pkit::{Builder, Command, Process, Stdio, Target};

use crate::forked::{forked, tell};
use crate::support::{sh, tests};

/// Where 0, 1 and 2 of the child lead, for a command and a forked closure.
fn links(options: impl Fn(Builder) -> Builder) -> [[String; 3]; 2] {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let script = "links=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo \"$links\" > $REPORT";
    let command = Target::from(sh(script).env("REPORT", &report));
    let path = report.clone();
    let closure = forked(move || {
        let link = |fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string();
        fs::write(&path, [link(0), link(1), link(2)].join("\n")).unwrap();
    });
    [command, closure].map(|target| {
        drop(run(options(Process::builder(target))));
        let lines = fs::read_to_string(&report).unwrap();
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        lines.try_into().unwrap()
    })
}

fn run(builder: Builder) -> Process {
    let process = builder.build().unwrap();
    process.start(true).unwrap();
    assert!(process.join().unwrap().success());
    process
}

fn own(fd: i32) -> String {
    fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string()
}

/// Copies a line of stdin to stdout and one to stderr.
fn echoes() -> [Target; 2] {
    let closure = forked(|| {
        let mut line = [0; 6];
        let mut stdin = File::open("/proc/self/fd/0").unwrap();
        stdin.read_exact(&mut line).unwrap();
        tell(str::from_utf8(&line).unwrap());
        nix::unistd::write(std::io::stderr(), b"error\n").unwrap();
    });
    [Target::from(sh("read line; echo $line; echo error >&2")), closure]
}

fn file(dir: &Path, name: &str) -> (PathBuf, OwnedFd) {
    let path = dir.join(name);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    (path, file.into())
}

tests! {
    fn by_default_stdin_is_null_and_the_others_are_inherited() {
        let default = ["/dev/null".to_owned(), own(1), own(2)];
        assert_eq!(links(|b| b), [default.clone(), default]);
    }

    fn inherited_or_null() {
        let inherited = [own(0), own(1), own(2)];
        assert_eq!(links(|b| b.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit())),
            [inherited.clone(), inherited]);
        let null = ["/dev/null"; 3].map(str::to_owned);
        assert_eq!(links(|b| b.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())), [null.clone(), null]);
    }

    fn piped() {
        for target in echoes() {
            let builder = Process::builder(target).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let process = builder.build().unwrap();
            assert!(process.stdin().is_none() && process.stdout().is_none() && process.stderr().is_none());
            for line in ["first\n", "again\n"] {
                process.start(true).unwrap();
                process.stdin().unwrap().write_all(line.as_bytes()).unwrap();
                assert!(process.stdin().is_none());
                let (mut out, mut err) = (String::new(), String::new());
                process.stdout().unwrap().read_to_string(&mut out).unwrap();
                assert!(process.join().unwrap().success());
                process.stderr().unwrap().read_to_string(&mut err).unwrap();
                assert_eq!((&*out, &*err), (line, "error\n"));
                assert!(process.stdout().is_none() && process.stderr().is_none());
            }
        }
    }

    fn captured() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = file(dir.path(), "in");
        fs::write(&path, "input\n").unwrap();
        for target in echoes() {
            let both = run(Process::builder(target.clone()).stdin(Stdio::file(&path)).capture(1000));
            assert_eq!((both.output().stdout_text(), both.output().stderr_text()), ("input\n".into(), "error\n".into()));
            let one = run(Process::builder(target).stdin(Stdio::file(&path)).stderr(Stdio::captured()).stdout(Stdio::null()));
            assert_eq!((one.output().stdout_text(), one.output().stderr_text()), ("".into(), "error\n".into()));
        }
    }

    fn files_are_appended_to_and_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (input, _) = file(dir.path(), "in");
        fs::write(&input, "input\n").unwrap();
        for target in echoes() {
            let (out, err) = (dir.path().join("out"), dir.path().join("err"));
            fs::write(&out, "before\n").unwrap();
            let builder = Process::builder(target).stdin(Stdio::file(&input));
            let process = run(builder.stdout(Stdio::file(&out)).stderr(Stdio::file(&err)));
            assert_eq!(fs::read_to_string(&out).unwrap(), "before\ninput\n");
            assert_eq!(fs::read_to_string(&err).unwrap(), "error\n");
            // Moved away, as a log rotation does it.
            fs::rename(&out, dir.path().join("old")).unwrap();
            process.start(true).unwrap();
            process.join().unwrap();
            assert_eq!(fs::read_to_string(&out).unwrap(), "input\n");
            assert_eq!(fs::read_to_string(&err).unwrap(), "error\nerror\n");
            fs::remove_file(&out).unwrap();
            fs::remove_file(&err).unwrap();
        }
    }

    fn given_descriptors_crosswise() {
        let dir = tempfile::tempdir().unwrap();
        let (zero, one, two) = (file(dir.path(), "zero"), file(dir.path(), "one"), file(dir.path(), "two"));
        let copy = |(_, fd): &(PathBuf, OwnedFd)| fd.try_clone().unwrap();
        let given = [&zero, &one, &two].map(|(path, _)| path.display().to_string());
        assert_eq!(links(|b| b.stdin(copy(&zero)).stdout(copy(&one)).stderr(File::from(copy(&two)))), [given.clone(), given]);
        // Our stdout as its stderr and the other way round: numbers that are each other's targets.
        let (out, err) = (nix::unistd::dup(std::io::stdout()).unwrap(), nix::unistd::dup(std::io::stderr()).unwrap());
        let crossed = ["/dev/null".to_owned(), own(2), own(1)];
        assert_eq!(links(|b| b.stdout(err.try_clone().unwrap()).stderr(out.try_clone().unwrap())), [crossed.clone(), crossed]);
    }

    fn of_command_and_builder_the_builder_wins() {
        let command = || Command::new("sh").args(["-c", "echo out; echo error >&2"]).stdout(Stdio::captured()).stderr(Stdio::captured()).clone();
        assert_eq!(run(Process::builder(command())).output().stdout_text(), "out\n");
        let process = run(Process::builder(command()).stdout(Stdio::null()));
        assert_eq!((process.output().stdout_text(), process.output().stderr_text()), ("".into(), "error\n".into()));
        assert_eq!(run(Process::builder(sh("cat").stdin(Stdio::inherit())).stdin(Stdio::null())).exit().unwrap().code(), Some(0));
    }
}
