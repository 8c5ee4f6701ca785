//! Every option of a child holds for a function.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::unistd::{getgroups, getpgrp, getsid};
use pkit::{Containment, Group, Process, Resource, Signal, Stdio, Target};

use super::printed;
use crate::support::{LONG, is_alive, is_root, open_descriptors, pid_said_by, skipped, tests};

fn numbers(_: ()) {
    let open: Vec<i32> = open_descriptors().into_iter().map(|(number, _)| number).collect();
    println!("{open:?}");
}

tests! {
    fn no_descriptor_comes_along_but_those_that_are_passed() {
        let _open = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(printed(Process::builder(Target::function(numbers, ()))), "[0, 1, 2]\n");
        // The numbers that are in use on the way are among them.
        let mut builder = Process::builder(Target::function(numbers, ()));
        for number in 3..20 {
            builder = builder.pass_fd(std::fs::File::open("/dev/null").unwrap().into(), number);
        }
        assert_eq!(printed(builder), format!("{:?}\n", (0..20).collect::<Vec<_>>()));
    }

    fn passed_descriptors_are_the_right_ones() {
        fn forward(_: ()) {
            for number in [9, 4] {
                // SAFETY: it was passed to this process for this.
                #[allow(unsafe_code)]
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                let mut text = String::new();
                std::fs::File::from(fd).read_to_string(&mut text).unwrap();
                print!("{text}");
            }
        }
        let pipe = |text: &str| {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            OwnedFd::from(reader)
        };
        let builder = Process::builder(Target::function(forward, ()));
        assert_eq!(printed(builder.pass_fd(pipe("second"), 4).pass_fd(pipe("first "), 9)), "first second");
    }

    fn streams_are_piped() {
        fn shout(_: ()) {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            println!("{}", text.to_uppercase());
        }
        let builder = Process::builder(Target::function(shout, ())).stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = builder.build().unwrap();
        process.start(true).unwrap();
        process.stdin().unwrap().write_all(b"hello").unwrap();
        let mut text = String::new();
        process.stdout().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), process.join().unwrap().success()), ("HELLO\n", true));
    }

    fn it_is_set_up_as_asked() {
        fn tell(_: ()) {
            let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
            let leads = getsid(None).unwrap() == nix::unistd::getpid();
            println!("{limit:?} {leads} {}", std::env::current_dir().unwrap().display());
        }
        let builder = Process::builder(Target::function(tell, ())).rlimit(Resource::OpenFiles, 64, 64).session(true);
        assert_eq!(printed(builder.current_dir("/usr")), "(64, 64) true /usr\n");
    }

    fn it_stays_in_our_group_if_it_is_to() {
        fn tell(_: ()) {
            print!("{}", getpgrp());
        }
        let builder = Process::builder(Target::function(tell, ())).group(Group::Inherit);
        assert_eq!(printed(builder), getpgrp().to_string());
    }

    fn it_runs_as_another_user() {
        if !is_root() {
            return skipped("only root can become another user");
        }
        fn tell(_: ()) {
            print!("{} {} {:?}", nix::unistd::getuid(), nix::unistd::getgid(), getgroups().unwrap());
        }
        let builder = Process::builder(Target::function(tell, ())).uid(1234).gid(4321).groups([]);
        assert_eq!(printed(builder), "1234 4321 []");
    }

    fn a_step_that_fails_is_named() {
        let process = Process::builder(Target::function(numbers, ())).current_dir("/nope").build().unwrap();
        let error = process.start(true).unwrap_err().to_string();
        let expected = "cannot start `numbers`: change directory to `/nope`: No such file or directory (os error 2)";
        assert_eq!(error, expected);
        pkit::testing::end_fork_server();
        assert_eq!(crate::support::children(), []);
    }

    fn a_tree_of_a_function_is_contained() {
        fn leave(_: ()) {
            let mut child = std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
            println!("{}", child.id());
            child.wait().unwrap();
        }
        let process = Process::builder(Target::function(leave, ())).contain(Containment::Tree).capture(1000);
        let process = process.build().unwrap();
        process.start(true).unwrap();
        let left = pid_said_by(&process);
        process.kill(LONG).unwrap();
        assert!(!is_alive(left));
    }

    fn a_memory_limit_ends_it() {
        fn eat(_: ()) {
            std::hint::black_box(vec![1_u8; 1 << 30]);
        }
        let process = Process::builder(Target::function(eat, ())).memory_limit(256 << 20).capture(1 << 16).build().unwrap();
        process.start(true).unwrap();
        assert_eq!(process.join().unwrap().signal(), Some(Signal::ABRT));
        let said = process.output().stderr_text().into_owned();
        assert!(said.contains("memory allocation of 1073741824 bytes failed"), "{said}");
    }
}
