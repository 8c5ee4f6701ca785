//! One process, started again and again, with everything about each run at hand.
//!
//! `cargo run --example reuse`

use std::time::Duration;

use pkit::{Command, Process, RestartMode};

fn main() -> pkit::Result<()> {
    let shell = Process::builder(Command::new("sh").args(["-c", "exit 3"])).name("shell").build()?;
    for _ in 0..3 {
        let pid = shell.start(true)?;
        let exit = shell.join()?;
        println!("{shell} (pid {pid}): {exit}, {:?} of CPU time", exit.usage().user() + exit.usage().system());
        assert_eq!(shell.pid(), None, "an empty hull, ready for the next start");
    }

    let sleeper = Process::new(Command::new("sleep").arg("1000"));
    let first = sleeper.start(true)?;
    assert!(sleeper.start(true).is_err_and(|error| error.is_running()), "one run at a time");
    let second = sleeper.restart(RestartMode::Terminate, true)?;
    println!("{sleeper}: pid {first}, then pid {second}");
    sleeper.terminate(Duration::from_secs(5))?;
    println!("{sleeper}: {}", sleeper.join()?);
    Ok(())
}
