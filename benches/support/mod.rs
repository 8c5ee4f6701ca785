//! What the benchmarks share: interleaved rounds, the report, and a child that tells when it began to run.

// Every benchmark is a program of its own and uses its share of this.
#![allow(dead_code, unused_imports)]

pub(crate) mod beacon;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod served;

pub(crate) use beacon::{Beacon, compile, now_ns};
pub(crate) use report::Machine;
pub(crate) use rounds::{Rounds, Times, smoke};
pub(crate) use served::{Served, serve};
