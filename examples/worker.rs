//! A process that stays and runs one function after the other; and a thread with the same face.
//!
//! `cargo run --example worker`

use std::sync::OnceLock;
use std::thread::yield_now;

use pkit::{Task, TaskError, Worker};

static WORDS: OnceLock<Vec<String>> = OnceLock::new();

/// Runs first in the worker: what it leaves in statics, the calls find.
fn learn(text: String) {
    WORDS.get_or_init(|| text.split_whitespace().map(str::to_owned).collect());
}

fn find(letter: char) -> Vec<String> {
    let words = WORDS.get().into_iter().flatten();
    words.filter(|word| word.starts_with(letter)).cloned().collect()
}

fn main() -> Result<(), TaskError> {
    let worker = Worker::builder()
        .process(|process| process.name("librarian").nice(5))
        .setup(learn, "the quick brown fox jumps over the lazy dog".to_owned())
        .build()?;

    // One call, and its value.
    println!("with t: {:?}", worker.invoke(find, 't')?);

    // Queued: they run in order, while this program does something else.
    let tasks: Vec<Task<Vec<String>>> =
        ['q', 'f', 'z'].map(|letter| worker.schedule(find, letter)).into_iter().collect::<Result<_, _>>()?;
    for task in tasks {
        println!("queued: {:?}", task.wait()?);
    }

    // On a thread of its own in the worker, until it is cancelled: the others do not wait for it.
    let patient = worker.concurrent(
        |()| {
            while !pkit::cancelled() {
                yield_now()
            }
        },
        (),
    )?;
    println!("beside it: {:?}", worker.invoke(find, 'd')?);
    patient.cancel();
    println!("cancelled: {}", matches!(patient.wait(), Err(TaskError::Cancelled)));

    // It dies: whoever waits is told, and the next call is done by a new one, set up again.
    let crash = worker.invoke(|()| std::process::abort(), ());
    println!("{}", crash.map(|()| String::new()).unwrap_or_else(|error| error.to_string()));
    println!("again: {:?}", worker.invoke(find, 'l')?);
    worker.close();

    let thread = Worker::thread()?; // the same without a process
    println!("in this process: {}", thread.invoke(|()| std::process::id(), ())? == std::process::id());
    Ok(())
}
