//! A closure in a forked copy of this program: it sees everything that the program had, and can hurt none of it.
//!
//! `cargo run --example fork`

#![allow(unsafe_code, reason = "a fork is for those who know what they share")]

use std::process::ExitCode;

use pkit::{Command, Process, Signal, Target};

fn main() -> pkit::Result<()> {
    let table: Vec<u64> = (0..1000).map(|n| n * n).collect();

    // SAFETY: no other thread of this program holds a lock that the closure needs: there is no other yet.
    let target = unsafe {
        Target::fork(move || {
            println!("the copy sees a table of {} squares, the last {}", table.len(), table[999]);
            // It is a process like any other: it may have children of its own, and pkit looks after them there, too.
            let inner = Process::new(Command::new("sh").args(["-c", "exit 4"]));
            let exit = inner.start(true).and_then(|_| inner.join()).expect("a shell starts");
            ExitCode::from(exit.code().unwrap_or(0) as u8 + 1)
        })
    };
    let copy = Process::builder(target).name("copy").nice(5).build()?;
    copy.start(true)?;
    let exit = copy.join()?;
    println!("{copy}: {exit}");
    assert_eq!(exit.code(), Some(5));

    // SAFETY: the closure only raises a signal.
    let crashing = Process::new(unsafe { Target::fork(|| -> ExitCode { std::process::abort() }) });
    crashing.start(true)?;
    let exit = crashing.join()?;
    println!("{crashing}: {exit}, and this program goes on");
    assert_eq!(exit.signal(), Some(Signal::ABRT));
    Ok(())
}
