//! An object that stays in another process: a cache too large to be sent around, behind a handle.
//!
//! `cargo run --example remote_object`

use std::collections::HashMap;

use pkit::{Remote, TaskError, Worker};

/// It has no serialization, and needs none: it never leaves its worker.
struct Cache {
    known: HashMap<u64, u64>,
    hits: u64,
}

impl Cache {
    fn collatz(&mut self, n: u64) -> u64 {
        if let Some(steps) = self.known.get(&n) {
            self.hits += 1;
            return *steps;
        }
        let next = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        let steps = 1 + self.collatz(next);
        self.known.insert(n, steps);
        steps
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        println!("the cache of {} numbers is dropped in process {}", self.known.len(), std::process::id());
    }
}

/// Given to a function of its worker, it is the object itself.
fn longest((cache, below): (Remote<Cache>, u64)) -> (u64, u64) {
    let mut cache = cache.lock();
    (1..below).map(|n| (cache.collatz(n), n)).max().unwrap_or_default()
}

fn main() -> Result<(), TaskError> {
    let worker = Worker::new()?;
    let cache = worker.hold(|()| Cache { known: HashMap::from([(1, 0)]), hits: 0 }, ())?;

    // A call on it, from any thread: a function, or a closure that captures nothing, and an argument.
    println!("27 takes {} steps", cache.with(Cache::collatz, 27)?);

    // A task that shares it.
    let task = worker.schedule(longest, (cache.clone(), 10_000))?;
    let (steps, n) = task.wait()?;
    println!(
        "the longest below 10,000: {n}, with {steps} steps, after {} hits",
        cache.with(|cache, ()| cache.hits, ())?
    );

    drop(cache); // the last owner: dropped here, dropped there
    worker.close();
    Ok(())
}
