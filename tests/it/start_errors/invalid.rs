//! Options that make no sense are told at `build`; what `Process::new` could not refuse, at the start.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use pkit::{Builder, Command, Containment, Group, Process, Ready, Resource, Restart, Stdio};

use super::refused;
use crate::support::tests;

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// The text behind ``cannot build `true`: ``.
#[track_caller]
fn problem(options: impl Fn(Builder) -> Builder) -> String {
    problem_of(Command::new("true"), options)
}

#[track_caller]
fn problem_of(command: Command, options: impl Fn(Builder) -> Builder) -> String {
    let error = options(Process::builder(command).name("it")).build().unwrap_err();
    assert!(error.is_invalid() && !error.is_not_created() && error.raw_os_error().is_none());
    assert_eq!((error.process(), error.pid()), ("it", None));
    error.to_string().strip_prefix("cannot build `it`: ").unwrap().to_owned()
}

tests! {
    fn each_bad_option_is_named() {
        assert_eq!(problem(|b| b.umask(0o1777)), "umask 0o1777 has bits outside 0o777");
        assert_eq!(problem(|b| b.nice(20)), "nice value 20 is outside -20..=19");
        assert_eq!(problem(|b| b.nice(-21)), "nice value -21 is outside -20..=19");
        assert_eq!(problem(|b| b.uid(u32::MAX)), "4294967295 is no user and no group");
        assert_eq!(problem(|b| b.gid(u32::MAX)), "4294967295 is no user and no group");
        assert_eq!(problem(|b| b.cores([])), "an empty set of cores: it could run nowhere");
        assert_eq!(problem(|b| b.rlimit(Resource::OpenFiles, 9, 8)), "the soft limit 9 of OpenFiles is above its hard limit 8");
        assert_eq!(problem(|b| b.pass_fd(null(), 2)), "descriptor 2 cannot be passed: 0, 1 and 2 are stdin, stdout and stderr");
        assert_eq!(problem(|b| b.pass_fd(null(), -1)), "descriptor -1 cannot be passed: 0, 1 and 2 are stdin, stdout and stderr");
        assert_eq!(problem(|b| b.pass_fd(null(), 7).pass_fd(null(), 7)), "two descriptors are to be passed as number 7");
        assert_eq!(problem(|b| b.pass_fd(null(), 7).ready(Ready::fd(7))), "two descriptors are to be passed as number 7");
        assert_eq!(problem(|b| b.stdin(Stdio::captured())), "stdin cannot be captured: it is not output");
        assert!(Process::builder(Command::new("true")).name("").build().unwrap_err().is_invalid());
    }

    fn options_that_exclude_each_other() {
        let inherit = |b: Builder| b.group(Group::Inherit);
        assert_eq!(problem(|b| inherit(b.session(true))),
            "a session of its own comes with a group of its own: group(Group::Inherit) cannot hold");
        assert_eq!(problem(|b| inherit(b.contain(Containment::Tree))),
            "containing the tree needs a group of its own: group(Group::Inherit) cannot hold");
        let unseen = |b: Builder| b.stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(problem(|b| unseen(b.ready(Ready::line("up")))), "readiness by a line needs stdout or stderr to be captured");
        assert_eq!(problem(|b| unseen(b.on_line(|_| ()))), "on_line needs stdout or stderr to be captured");
        for address in ["localhost", ":80", "localhost:0", "localhost:65536"] {
            let text = format!("readiness address `{address}` is not of the form host:port, with a port from 1 on");
            assert_eq!(problem(|b| b.ready(Ready::tcp(address))), text);
        }
        for path in ["p".repeat(108), String::new(), "a\0b".to_owned()] {
            let text = "is no path of a socket: it is too long (unix(7)), empty, or contains a NUL byte";
            assert_eq!(problem(|b| b.ready(Ready::unix(&path))), format!("{path:?} {text}"));
        }
        assert!(Process::builder(Command::new("true")).ready(Ready::unix("p".repeat(107))).build().is_ok());
        assert_eq!(problem(|b| b.ready(Ready::line("up\n"))), r#"no line can be told by "up\n": give a part of one"#);
        assert_eq!(problem(|b| b.ready(Ready::fd(3).watchdog(Duration::from_secs(1)))), "a watchdog needs readiness by notify, not Ready::fd(3)");
        assert_eq!(problem(|b| b.ready(Ready::fd(3)).ready_within(Duration::ZERO)), "a limit of zero for its readiness cannot be met");
        assert!(problem(|b| b.restart(Restart::always().limit(1000, Duration::from_secs(1)))).contains("limit"));
    }

    fn nul_is_told_before_the_kernel_would_cut() {
        let command = || Command::new("true");
        assert_eq!(problem_of(Command::new("tr\0ue"), |b| b), r#"argument "tr\0ue" contains a NUL byte"#);
        assert_eq!(problem_of(Command::new(""), |b| b), "an empty program name");
        assert_eq!(problem_of(command().arg("a\0b").clone(), |b| b), r#"argument "a\0b" contains a NUL byte"#);
        assert_eq!(problem_of(command().arg0("\0").clone(), |b| b), r#"argument "\0" contains a NUL byte"#);
        assert_eq!(problem_of(command().env("A", "\0").clone(), |b| b), r#"environment variable "A": the value contains a NUL byte"#);
        let name = |name| format!("environment variable {name:?}: the name is empty or contains `=` or NUL");
        for bad in ["", "A=B", "A\0"] {
            assert_eq!(problem(|b| b.env(bad, "")), name(bad));
            assert_eq!(problem_of(command().env_remove(bad).clone(), |b| b), name(bad));
        }
        assert_eq!(problem(|b| b.current_dir("/\0usr")), r#"directory "/\0usr" contains a NUL byte"#);
        assert_eq!(problem_of(command().current_dir("\0").clone(), |b| b), r#"directory "\0" contains a NUL byte"#);
    }

    fn what_new_could_not_refuse_is_refused_at_the_start() {
        let start = |command: Command| refused(&Process::new(command)).to_string();
        let begin = "cannot start `true`: check the options: ";
        assert_eq!(start(Command::new("true").arg("a\0").clone()), format!(r#"{begin}argument "a\0" contains a NUL byte"#));
        assert_eq!(start(Command::new("true").stdin(Stdio::captured()).clone()), format!("{begin}stdin cannot be captured: it is not output"));
        assert_eq!(start(Command::new("true").current_dir("/\0").clone()), format!(r#"{begin}directory "/\0" contains a NUL byte"#));
        assert_eq!(start(Command::new("")), "cannot start ``: check the options: an empty program name");
        let user = Process::builder(Command::new("true")).user("no\0body").build().unwrap();
        assert!(refused(&user).to_string().starts_with("cannot start `true`: look up user `no\0body`: "));
        let server = Process::builder(Command::new("true")).ready(Ready::tcp("no-such-host.invalid:80")).build().unwrap();
        assert!(refused(&server).to_string().starts_with(r#"cannot start `true`: prepare Ready::tcp("no-such-host.invalid:80"): "#));
        let file = Process::builder(Command::new("true")).stdout(Stdio::file("a\0b")).build().unwrap();
        assert!(refused(&file).to_string().starts_with("cannot start `true`: open stdout as `a\0b`: "));
    }
}
