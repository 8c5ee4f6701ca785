//! Arguments, environment and directory.

#![allow(unsafe_code, reason = "the environment of the test changes between two starts")]

use std::path::Path;
use std::{env, fs};

use pkit::{Builder, Command, Process, Stdio};

use super::{both, output};
use crate::support::{sh, tests};

/// `NAME=value` of everything in the child's environment, sorted.
fn environment(options: impl Fn(Builder) -> Builder) -> [Vec<String>; 2] {
    let own = || env::vars().map(|(key, value)| format!("{key}={value}\0")).collect();
    both(Command::new("/usr/bin/env").arg("-0").clone(), own, options).map(|text| {
        let mut lines: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
        lines.sort();
        lines
    })
}

fn directory(options: impl Fn(Builder) -> Builder) -> [String; 2] {
    let own = || fs::read_link("/proc/self/cwd").unwrap().display().to_string();
    both(Command::new("readlink").args(["-n", "/proc/self/cwd"]).clone(), own, options)
}

fn captured(command: Command) -> String {
    output(Process::builder(command).stdout(Stdio::captured()))
}

tests! {
    fn arguments_arrive_as_they_are() {
        let command = Command::new("cat").arg0("my cat").arg("/proc/self/cmdline").args(["-u", "--", "/dev/null"]).clone();
        assert_eq!(captured(command.clone()), "my cat\0/proc/self/cmdline\0-u\0--\0/dev/null\0");
        assert_eq!(captured(Command::new("printf").args(["%s|", "", " a  b ", "*", "ä"]).clone()), "| a  b |*|ä|");
        assert_eq!(captured(Command::new("cat").arg("/proc/self/cmdline").clone()), "cat\0/proc/self/cmdline\0");
    }

    fn a_std_command_is_taken_over() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo $0 $GIVEN ${HOME-none} $(pwd)", "zero"]);
        command.env("GIVEN", "yes").env_remove("HOME").current_dir("/usr");
        assert_eq!(captured(Command::from(command)), "zero yes none /usr\n");
    }

    fn the_environment_is_inherited_and_changed() {
        let mut inherited: Vec<String> = env::vars().map(|(key, value)| format!("{key}={value}")).collect();
        inherited.sort();
        assert_eq!(environment(|b| b), [inherited.clone(), inherited.clone()]);
        let mut more = inherited.clone();
        more.retain(|entry| !entry.starts_with("PATH="));
        more.push("ZZ=2 = 2".to_owned());
        more.sort();
        let changed = environment(|b| b.env("ZZ", "1").env("ZZ", "2 = 2").env_remove("PATH").env_remove("no such"));
        assert_eq!(changed, [more.clone(), more]);
        let few = vec!["A=1".to_owned(), "EMPTY=".to_owned()];
        let cleared = environment(|b| b.env("GONE", "1").env_clear().env("A", "1").env("EMPTY", ""));
        assert_eq!(cleared, [few.clone(), few]);
    }

    fn of_command_and_builder_the_builder_wins() {
        let command = || sh("echo ${A-none} ${B-none} ${C-none} $(pwd)").env("A", "command").env("B", "command").clone();
        assert_eq!(captured(command().envs([("C", "c")]).current_dir("/usr").clone()), "command command c /usr\n");
        let builder = Process::builder(command().current_dir("/usr").stdout(Stdio::null()));
        let builder = builder.env("A", "builder").env_remove("B").current_dir("/").stdout(Stdio::captured());
        assert_eq!(output(builder), "builder none none /\n");
        let builder = Process::builder(command().env("PATH", "/nowhere")).env_clear().env("PATH", "/usr/bin:/bin");
        assert_eq!(output(builder.stdout(Stdio::captured()).current_dir("/")), "none none none /\n");
        assert_eq!(captured(command().env_remove("A").env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").clone()),
            "none none none /\n");
    }

    fn environment_and_directory_are_those_of_the_moment_of_the_start() {
        let process = Process::builder(sh("echo ${MOMENT-none} $(pwd)")).capture(1000).build().unwrap();
        let run = || {
            process.start(true).unwrap();
            process.join().unwrap();
            process.output().stdout_text().into_owned()
        };
        env::set_current_dir("/").unwrap();
        assert_eq!(run(), "none /\n");
        // SAFETY: no other thread reads the environment: pkit's do so in a start, and none is under way.
        unsafe { env::set_var("MOMENT", "now") };
        env::set_current_dir("/usr").unwrap();
        assert_eq!(run(), "now /usr\n");
        assert_eq!(directory(|b| b), ["/usr", "/usr"]);
        assert!(environment(|b| b).iter().all(|seen| seen.contains(&"MOMENT=now".to_owned())));
    }

    fn the_directory_is_changed() {
        assert_eq!(directory(|b| b.current_dir("/usr")), ["/usr", "/usr"]);
        env::set_current_dir("/usr").unwrap();
        assert_eq!(directory(|b| b.current_dir("bin/../../usr/lib")), ["/usr/lib", "/usr/lib"]);
        assert_eq!(env::current_dir().unwrap(), Path::new("/usr"));
    }

    fn programs_are_found_as_the_child_would() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let tool = dir.path().join("bin/pkit-tool");
        std::os::unix::fs::symlink("/bin/echo", &tool).unwrap();
        // In the PATH of the child, where that is changed.
        let path = format!("/nowhere:{}", dir.path().join("bin").display());
        assert_eq!(captured(Command::new("pkit-tool").arg("found").env("PATH", &path).clone()), "found\n");
        // With a slash, relative to its directory; so is what is relative in PATH, and an empty entry of it.
        assert_eq!(captured(Command::new("bin/pkit-tool").arg("found").current_dir(dir.path()).clone()), "found\n");
        assert_eq!(captured(Command::new("pkit-tool").env("PATH", "bin").current_dir(dir.path()).arg("found").clone()), "found\n");
        let bin = dir.path().join("bin");
        assert_eq!(captured(Command::new("pkit-tool").env("PATH", "/nowhere:").current_dir(bin).arg("found").clone()), "found\n");
    }
}
