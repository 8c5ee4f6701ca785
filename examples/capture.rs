//! Reading what a process prints: line by line as it comes, waiting for a line, and afterwards.
//!
//! `cargo run --example capture`

use std::io::Write;
use std::time::Duration;

use pkit::{Command, Process, Stdio};

fn main() -> pkit::Result<()> {
    let script = "echo ready; while read name; do echo hello $name; done; echo bye >&2";
    let greeter = Process::builder(Command::new("sh").args(["-c", script]).stdin(Stdio::piped()))
        .name("greeter")
        .capture(4096)
        .on_line(|line| println!("[{}] {line}", line.stream()))
        .build()?;
    greeter.start(true)?;
    greeter.wait_for_line(Duration::from_secs(10), |line| line == "ready")?;

    let mut stdin = greeter.stdin().expect("it is piped");
    stdin.write_all(b"world\n").expect("the greeter reads");
    let line = greeter.wait_for_line(Duration::from_secs(10), |line| line.starts_with("hello"))?;
    assert_eq!(line.text(), "hello world");

    drop(stdin); // The end of its input ends it.
    let exit = greeter.join()?;
    let output = greeter.output();
    println!("{greeter}: {exit}; stdout {:?}, stderr {:?}", output.stdout_text(), output.stderr_text());
    Ok(())
}
