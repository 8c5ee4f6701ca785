//! What takes long to build is built once, and shared by all processes that need it, copy-on-write.
//!
//! `cargo run --release --example preload`

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Stands for a model, a dictionary, a parsed configuration. This program itself never has it.
static SQUARES: OnceLock<Vec<u64>> = OnceLock::new();

fn build() {
    SQUARES.get_or_init(|| (0..20_000_000).map(|n| n * n).collect());
}

fn look_up(n: usize) -> u64 {
    SQUARES.get_or_init(|| unreachable!("it was preloaded"))[n]
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (work(), began.elapsed())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (built, took) = timed(|| pkit::preload(build));
    built?;
    println!("built once, in {took:.1?}; here it is not: {}", SQUARES.get().is_none());
    for n in [7, 1_000, 19_999_999] {
        let (square, took) = timed(|| pkit::run(look_up, n));
        println!("{n} squared is {}, by a process of its own, in {took:.1?}", square?);
    }
    Ok(())
}
