//! Functions of this program in processes of their own.

mod inherited;
mod inside;
mod options;
mod server;
mod shared_bytes;
mod tasks;

use std::process::ExitCode;

use pkit::{Builder, Process, Ready, Restart, Run, Signal, State, Target};
use serde::{Deserialize, Serialize};

use crate::support::{LONG, children, tests, without_descriptors};

/// A process that runs it, and whose output is kept.
fn captured(target: impl Into<Target>) -> Process {
    Process::builder(target).capture(1 << 16).build().unwrap()
}

/// What it printed, once it has ended well.
fn printed(builder: Builder) -> String {
    let process = builder.capture(1 << 16).build().unwrap();
    process.start(true).unwrap();
    let exit = process.join().unwrap();
    assert!(exit.success(), "{exit}: {}", process.output().stderr_text());
    process.output().stdout_text().into_owned()
}

pub(crate) fn park(_: ()) {
    loop {
        std::thread::park();
    }
}

#[derive(Serialize, Deserialize)]
struct Resize {
    path: String,
    width: u32,
}

impl Run for Resize {
    type Output = Result<(), String>;

    fn run(self) -> Result<(), String> {
        println!("{} to {}", self.path, self.width);
        if self.width == 0 { Err("too narrow".into()) } else { Ok(()) }
    }
}

fn sum(numbers: Vec<u8>) -> ExitCode {
    ExitCode::from(numbers.iter().sum::<u8>())
}

fn length(bytes: Vec<u8>) {
    assert!(bytes.iter().all(|byte| *byte == 7));
    print!("{}", bytes.len());
}

tests! {
    fn a_function_gets_its_argument_and_gives_its_code() {
        let process = Process::new(Target::function(sum, vec![1, 2, 3]));
        for _ in 0..3 {
            let pid = process.start(true).unwrap();
            assert_eq!(process.pid().unwrap_or(pid), pid);
            let exit = process.join().unwrap();
            assert_eq!((exit.code(), exit.pid()), (Some(6), pid));
        }
        assert_eq!(process.name(), "sum");
        assert!(format!("{:?}", Target::function(sum, vec![])).ends_with("functions::sum)"));
    }

    fn a_struct_runs_as_it_says() {
        let process = captured(Resize { path: "a.png".into(), width: 80 });
        process.start(true).unwrap();
        assert!(process.join().unwrap().success());
        assert_eq!((&*process.output().stdout_text(), process.name()), ("a.png to 80\n", "Resize"));
        let process = captured(Resize { path: "a.png".into(), width: 0 });
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(1));
        assert_eq!(process.output().stderr_text(), "Error: \"too narrow\"\n");
    }

    fn a_panic_is_told_on_stderr() {
        let process = captured(Target::function(|word: String| panic!("so it goes, {word}"), "Billy".to_owned()));
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(101));
        let text = process.output().stderr_text().into_owned();
        assert!(text.contains("so it goes, Billy") && text.contains(file!()), "{text}");
    }

    fn arguments_of_all_sizes_arrive() {
        // Around what goes through a socket, and far beyond.
        for size in [0, 1, 60_000, 1 << 16, 70_000, 1 << 20, 64 << 20] {
            let text = printed(Process::builder(Target::function(length, vec![7; size])));
            assert_eq!(text, size.to_string());
        }
    }

    fn what_cannot_be_encoded_is_told_at_the_start() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("not me"))
            }
        }
        impl<'de> Deserialize<'de> for Refuses {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Refuses, D::Error> {
                Ok(Refuses)
            }
        }
        fn never(_: Refuses) {}
        let error = Process::new(Target::function(never, Refuses)).start(true).unwrap_err().to_string();
        assert!(error.starts_with("cannot start `never`: ") && error.contains("its argument cannot be encoded"), "{error}");
        assert_eq!(children(), []);
    }

    fn it_says_itself_that_it_is_ready() {
        fn serve(say: bool) {
            if say {
                pkit::ready().unwrap();
            }
            park(());
        }
        let server = Process::builder(Target::function(serve, true)).ready(Ready::notify()).build().unwrap();
        server.start(true).unwrap();
        assert_eq!(server.state(), State::Ready);
        server.terminate(true).unwrap();
        let silent = Process::builder(Target::function(serve, false)).ready(Ready::notify()).build().unwrap();
        silent.start(false).unwrap();
        assert_eq!(silent.state(), State::Running);
        silent.kill(true).unwrap();
        pkit::ready().unwrap(); // nobody asked this one
    }

    fn a_policy_restarts_it() {
        let builder = Process::builder(Target::function(|()| ExitCode::FAILURE, ()));
        let process = builder.restart(Restart::on_failure().limit(2, LONG)).build().unwrap();
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(1));
        assert_eq!((process.state(), process.restarts()), (State::Failed, 2));
    }

    fn it_is_stopped_like_any_other() {
        let process = Process::new(Target::function(park, ()));
        let pid = process.start(true).unwrap();
        assert_eq!(nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid as i32))).unwrap().as_raw(), pid as i32);
        process.terminate(true).unwrap();
        let exit = process.join().unwrap();
        assert_eq!((exit.signal(), exit.requested(), exit.forced()), (Some(Signal::TERM), true, false));
    }

    fn a_start_without_descriptors_leaves_nothing_and_the_hull_is_good() {
        let process = Process::new(Target::function(sum, vec![5]));
        let error = without_descriptors(|| process.start(true)).unwrap_err().to_string();
        assert!(error.contains("fork server") && error.contains("Too many open files"), "{error}");
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(5));
        let error = without_descriptors(|| process.start(true)).unwrap_err().to_string();
        assert!(error.contains("Too many open files"), "{error}");
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().code(), Some(5));
    }

    fn each_step_of_a_start_may_lack_a_descriptor() {
        let process = Process::new(Target::function(sum, vec![5]));
        process.start(true).unwrap();
        process.join().unwrap();
        let server = pkit::testing::fork_server();
        let free = std::os::fd::AsRawFd::as_raw_fd(&std::fs::File::open("/dev/null").unwrap()) as u64;
        let (mut failed, mut more) = (0, 0);
        loop {
            let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
            match crate::support::limited(limit, free + more, || process.start(true)) {
                Ok(_) => break,
                Err(error) => assert!(error.to_string().contains("Too many open files"), "{error}"),
            }
            failed += 1;
            more += 1;
            assert_eq!(children(), server.into_iter().collect::<Vec<_>>());
        }
        // (Another number is free in between, or not: that depends on who got his first.)
        assert!(failed >= 2, "{failed}");
        assert_eq!(process.join().unwrap().code(), Some(5));
    }
}
