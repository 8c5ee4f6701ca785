//! Being told what happens: callbacks, which may call anything, and events.
//!
//! `cargo run --example callbacks`

use std::sync::atomic::{AtomicU32, Ordering};

use pkit::{Command, EventKind, Process};

fn main() -> pkit::Result<()> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let worker = Process::builder(Command::new("sh").args(["-c", "echo working; exit 1"]))
        .name("worker")
        .on_start(|worker| println!("{worker} runs as pid {:?}", worker.pid()))
        .on_line(|line| println!("it says: {line}"))
        .on_exit(|worker, exit| {
            println!("{worker}: {exit}");
            // A callback may start the process again; a restart policy does it for you.
            if RUNS.fetch_add(1, Ordering::Relaxed) < 2 {
                worker.start(false).expect("it has just ended");
            }
        })
        .build()?;

    let events = worker.subscribe();
    worker.start(true)?;
    let exits = events.filter(|event| matches!(event.kind, EventKind::Exited(_)));
    println!("{} runs, as the events have it", exits.take(3).count());
    worker.join()?;
    Ok(())
}
