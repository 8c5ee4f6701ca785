//! Functions in programs that are built in another way than tests are: linked statically, without position independence, with
//! link-time optimisation and `panic = "abort"`; and in a shared object that a foreign program loads.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what it calls")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = r#"
use pkit::{Process, Target, TaskError};

fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

fn main() {
    assert_eq!(pkit::run(sum, vec![1, 2, 3]).unwrap(), 6);
    assert_eq!(pkit::run(|n: u32| std::thread::spawn(move || n + 1).join().unwrap(), 1).unwrap(), 2);
    let process = Process::new(Target::function(|code: u8| std::process::ExitCode::from(code), 7));
    process.start(true).unwrap();
    assert_eq!(process.join().unwrap().code(), Some(7));
    match pkit::run(|()| -> u8 { panic!("no") }, ()) {
        Err(TaskError::Panicked { message, .. }) => println!("panicked: {message}"),
        Err(TaskError::Crashed(exit)) => println!("crashed: {}", exit.signal().unwrap()),
        other => panic!("{other:?}"),
    }
}
"#;

const LIBRARY: &str = r#"
#[unsafe(no_mangle)]
pub extern "C" fn attempt() -> i32 {
    let error = pkit::run(|n: u32| n + 1, 1).unwrap_err().to_string();
    println!("{error}");
    error.contains("shared object") as i32
}
"#;

const MANIFEST: &str = r#"
[package]
name = "built-NAME"
version = "0.0.0"
edition = "2024"

[dependencies]
pkit = { path = "ROOT" }

[profile.release]
lto = "fat"
panic = "abort"

[workspace]
"#;

/// A package with one source file, and what cargo says of it.
fn build(name: &str, source: &str, code: &str, more: &str, flags: &str, args: &[&str]) -> (PathBuf, Output) {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("builds");
    let directory = all.join(name);
    fs::create_dir_all(directory.join("src")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = format!("{}{more}", MANIFEST.replace("ROOT", root.to_str().unwrap()).replace("NAME", name));
    fs::write(directory.join("Cargo.toml"), manifest).unwrap();
    fs::write(directory.join("src").join(source), code).unwrap();
    // The same versions, which are there.
    fs::copy(root.join("Cargo.lock"), directory.join("Cargo.lock")).unwrap();
    let mut command = Command::new(env!("CARGO"));
    // With a target named, the flags are not for procedural macros. One directory for all: those are built once.
    let (target, host) = (all.join("target"), host());
    command.args(["build", "--offline", "--quiet", "--target", &host]).args(args).current_dir(&directory);
    command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", &target).env_remove("CARGO_ENCODED_RUSTFLAGS");
    let output = command.output().unwrap();
    (target.join(host), output)
}

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn built(name: &str, source: &str, code: &str, more: &str, flags: &str, args: &[&str]) -> PathBuf {
    let (target, output) = build(name, source, code, more, flags, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target
}

fn said(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn linked_statically() {
    let target = built("static", "main.rs", PROGRAM, "", "-C target-feature=+crt-static", &[]);
    assert_eq!(said(target.join("debug/built-static"), &[]), "panicked: no\n");
}

/// (Both in one build, which takes long. The others are position-independent, as the tests are.)
#[test]
fn at_a_fixed_address_and_optimised_as_a_whole_without_unwinding() {
    let target = built("optimised", "main.rs", PROGRAM, "", "-C relocation-model=static", &["--release"]);
    assert_eq!(said(target.join("release/built-optimised"), &[]), "crashed: SIGABRT\n");
}

#[test]
fn in_a_shared_object_of_a_foreign_program() {
    let target = built("shared", "lib.rs", LIBRARY, "[lib]\ncrate-type = [\"cdylib\"]\n", "", &[]);
    let library = target.join("debug/libbuilt_shared.so");
    let script = format!("import ctypes, sys; sys.exit(ctypes.CDLL({library:?}).attempt() != 1)");
    let text = said("python3", &["-c", &script]);
    assert!(text.contains("it is in a shared object") && text.contains("is not executed"), "{text}");
}

#[test]
fn what_a_closure_captures_is_a_compile_error_that_says_what_to_do() {
    let code = "fn main() { let n = std::env::args().count(); let _ = pkit::run(|m: usize| n + m, 1); }";
    let (_, output) = build("captures", "main.rs", code, "", "", &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("captures a variable"), "{text}");
}
