//! Several sides of a comparison, measured in turn.

use std::env;
use std::time::Duration;

use super::report::{judge, nanos, quantile, time};

/// Whether the benchmark shall only show that it works (`cargo bench -- --smoke`).
pub(crate) fn smoke() -> bool {
    env::args().any(|arg| arg == "--smoke")
}

/// Sides that do the same work. What disturbs the machine disturbs them alike: each round calls every side once, and
/// another side begins each time.
pub(crate) struct Rounds<'a> {
    name: String,
    sides: Vec<Side<'a>>,
}

struct Side<'a> {
    name: String,
    run: Box<dyn FnMut() -> Duration + 'a>,
    /// In nanoseconds, by round.
    times: Vec<f64>,
}

/// What the rounds have shown.
pub(crate) struct Times {
    /// Name, and nanoseconds by round.
    sides: Vec<(String, Vec<f64>)>,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(name: &str) -> Rounds<'a> {
        Rounds { name: name.to_owned(), sides: Vec::new() }
    }

    /// Adds a side: a closure that does the work once and returns how long it took. The first is compared to the others.
    pub(crate) fn side(mut self, name: &str, run: impl FnMut() -> Duration + 'a) -> Rounds<'a> {
        self.sides.push(Side { name: name.to_owned(), run: Box::new(run), times: Vec::new() });
        self
    }

    /// Runs one round that does not count and then `rounds` that do, three when [`smoke`], and prints the result.
    pub(crate) fn run(mut self, rounds: usize) -> Times {
        let rounds = if smoke() { rounds.min(3) } else { rounds };
        let count = self.sides.len();
        for round in 0..=rounds {
            for turn in 0..count {
                let side = &mut self.sides[(round + turn) % count];
                let taken = (side.run)();
                if round > 0 {
                    side.times.push(nanos(taken));
                }
            }
        }
        println!("\n{} ({rounds} rounds, interleaved)", self.name);
        let times = Times { sides: self.sides.into_iter().map(|side| (side.name, side.times)).collect() };
        times.print();
        times
    }
}

impl Times {
    /// The median of the first side's times divided by that of the side named.
    pub(crate) fn ratio(&self, against: &str) -> f64 {
        let first = &self.sides[0];
        let other = self.sides.iter().find(|(name, _)| name == against).expect("a side of that name was measured");
        median(&first.1) / median(&other.1)
    }

    /// That of the first side.
    pub(crate) fn median(&self) -> Duration {
        Duration::from_nanos(median(&self.sides[0].1) as u64)
    }

    /// Prints whether that ratio keeps within its bounds.
    pub(crate) fn require(&self, against: &str, must: impl Into<Option<f64>>, aim: f64) {
        let what = format!("{} / {against}", self.sides[0].0);
        match self.sides.iter().any(|(name, _)| name == against) {
            true => judge(&what, must.into(), aim, self.ratio(against)),
            false => println!("  {what}: missing"),
        }
    }

    fn print(&self) {
        println!("  {:<16}{:>12}{:>12}{:>12}{:>12}", "", "median", "min", "p10", "p90");
        for (name, times) in &self.sides {
            let times = sorted(times.clone());
            let columns = [0.5, 0.0, 0.1, 0.9].map(|part| time(quantile(&times, part)));
            println!("  {name:<16}{:>12}{:>12}{:>12}{:>12}", columns[0], columns[1], columns[2], columns[3]);
        }
        let (first, others) = self.sides.split_first().expect("there is a side");
        for (name, times) in others {
            let pairs = sorted(first.1.iter().zip(times).map(|(ours, theirs)| ours / theirs).collect());
            let (low, high) = (quantile(&pairs, 0.1), quantile(&pairs, 0.9));
            println!("  {} / {name}: {:.3} (round by round {low:.3} to {high:.3})", first.0, self.ratio(name));
        }
    }
}

fn median(times: &[f64]) -> f64 {
    quantile(&sorted(times.to_vec()), 0.5)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
