//! Functions of this program in processes of their own: as a process that is supervised, and as a call whose value comes back.
//!
//! `cargo run --example function`

use std::time::Duration;

use pkit::{Process, Ready, Restart, Target};

fn count_primes(below: u64) -> u64 {
    (2..below).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count() as u64
}

/// A service that is a function: it says itself when it is ready, and fails now and then.
fn serve((name, patience): (String, Duration)) -> Result<(), String> {
    println!("{name} runs as process {}", std::process::id());
    pkit::ready().map_err(|error| error.to_string())?;
    std::thread::park_timeout(patience);
    Err(format!("{name} has waited long enough"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One call, and its value.
    println!("{} primes below 10,000", pkit::run(count_primes, 10_000)?);

    // Several at once. A task is a future, too, and costs no thread.
    let tasks: Vec<_> =
        [1_000, 2_000, 3_000].map(|below| pkit::spawn(count_primes, below)).into_iter().collect::<Result<_, _>>()?;
    for task in tasks {
        println!("one in the background: {}", task.wait()?);
    }

    // A process like any other: readiness, restarts, stops, limits.
    let argument = ("clerk".to_owned(), Duration::from_millis(50));
    let clerk = Process::builder(Target::function(serve, argument))
        .ready(Ready::notify())
        .restart(Restart::on_failure().limit(2, Duration::from_secs(10)))
        .on_exit(|clerk, exit| println!("{clerk}: {exit}"))
        .memory_limit(1 << 30)
        .build()?;
    clerk.start(true)?;
    clerk.join()?;
    println!("{clerk} was restarted {} times, and is {} now", clerk.restarts(), clerk.state());
    Ok(())
}
